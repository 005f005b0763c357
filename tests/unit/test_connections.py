"""Which State Stores share a writer, and so its client and credentials: no tenant ever uses another's.

See docs/failure-modes.md#27-shared-clients.
"""

from typing import Any

import pytest

from shared.errors import StateStoreNotReady
from shared.reconcile.connections import MAX_WRITERS, Writers
from shared.resources import BucketStateStore, GitStateStore, Secret, StateStore
from shared.settings import Settings
from tests.contract.memory import MemoryWriter

OURS = {"url": "https://git.example.com/fleet.git", "branch": "main", "path": "ours"}
KEY = {"uid": "1", "version": "7"}


def store(**spec: Any) -> StateStore:
    return GitStateStore.parse({"kind": "GitStateStore", "metadata": {"name": "fleet"}, "spec": OURS | spec})


def secret(**metadata: str) -> Secret:
    given = KEY | metadata
    return Secret(name="git", namespace="default", uid=given["uid"], resource_version=given["version"])


@pytest.mark.parametrize(
    ("other", "credentials", "shared"),
    [
        pytest.param({}, {}, True, id="the same"),
        pytest.param({"path": "theirs"}, {}, True, id="another path"),
        pytest.param({"url": "https://GIT.example.com:443/fleet"}, {}, True, id="another spelling"),
        pytest.param({}, {"uid": "2"}, False, id="another Secret"),
        pytest.param({}, {"version": "8"}, False, id="the Secret after a rotation"),
        pytest.param({"branch": "other"}, {}, False, id="another branch"),
        pytest.param({"url": "https://git.example.com/other.git"}, {}, False, id="another repository"),
        pytest.param({"gitAuthor": {"name": "them"}}, {}, False, id="another author"),
        pytest.param({"authMethod": "githubApp"}, {}, False, id="another way to authenticate"),
    ],
)
async def test_a_writer_is_shared_only_by_what_writes_as_the_same_one_to_the_same_place(
    other: dict[str, Any], credentials: dict[str, str], shared: bool
) -> None:
    writers = Writers(Settings(), lambda *_: MemoryWriter())
    ours = await writers.get(store(), secret())
    assert (await writers.get(store(**other), secret(**credentials)) is ours) == shared
    await writers.close()


async def test_each_of_awss_hosts_of_one_bucket_has_a_writer_of_its_own() -> None:
    hosts = ["s3.amazonaws.com", "s3.eu-west-1.amazonaws.com", "s3-fips.us-east-2.amazonaws.com"]
    stores = [
        BucketStateStore.parse({"metadata": {"name": host}, "spec": {"endpoint": host, "bucketName": "fleet"}})
        for host in hosts
    ]
    assert len({store.identity for store in stores}) == 1, "they are one place"
    assert len({Writers.key(store, secret()) for store in stores}) == len(hosts)


async def test_the_least_recently_used_writers_go_first() -> None:
    writers = Writers(Settings(), lambda *_: MemoryWriter())
    versions = [secret(version=str(number)) for number in range(MAX_WRITERS + 1)]
    for version in (*versions, versions[0]):
        await writers.get(store(), version)
    await writers.trim()
    assert writers.has(store(), versions[0])
    assert not writers.has(store(), versions[1])
    await writers.close()


async def test_a_store_that_cannot_be_opened_leaves_nothing_behind() -> None:
    writers = Writers(Settings())
    with pytest.raises(StateStoreNotReady, match="secretRef"):
        await writers.get(store(), None)
    assert not writers.has(store(), None)
