"""What the schedule repairs, and what it costs when all is well.

See docs/contract.md#destination-conditions, docs/failure-modes.md#3-moved-branches, #15-untrusted-events.
"""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from infra.local.runtime import LocalRuntime
from tests.contract import fault_proxy as s3
from tests.integration.flow import behind_proxy, invocations
from tests.integration.kubernetes_proxy import KubernetesProxy
from tests.integration.platform_team import API_VERSION, GROUP, Platform, named
from tests.integration.test_deletion import FINALIZER, finalizers, gone
from tests.integration.test_first_ready import canaries, declare_bucket, declare_repository
from tests.servers.git import GitServer
from tests.servers.repository import Repository
from tests.servers.s3 import Minio

pytestmark = pytest.mark.asyncio(loop_scope="module")

README = {"README.md": b"# A repository for tests\n"}


runtime = behind_proxy()


async def two_ready(platform: Platform, minio: Minio, git_server: GitServer) -> tuple[str, Repository]:
    """Declare a Destination of a bucket and one of a repository, and wait for both."""
    bucket, repository = declare_bucket(platform, minio), git_server.create_repository()
    declare_repository(platform, git_server, repository)
    platform.destination("in-bucket", "bucket/default")
    platform.destination("in-git", "git/default")
    for name in ("in-bucket", "in-git"):
        await platform.wait_ready(name)
    return bucket, repository


async def test_what_lost_events_would_have_told_is_repaired(
    runtime: LocalRuntime, platform: Platform, minio: Minio
) -> None:
    bucket = declare_bucket(platform, minio)
    for name in ("changed", "older", "leaving"):
        platform.destination(name, "bucket/default", cleanup="all" if name == "leaving" else "none")
        await platform.wait_ready(name)
    platform.destination("younger", "bucket/default", path="older")
    await platform.wait_reason("younger", "PathClash")
    await runtime.idle()
    await runtime.forwarder.stop()
    try:
        platform.destination("created", "bucket/default")
        platform.destination("changed", "bucket/default", path="elsewhere")
        platform.destination("wants-cleanup", "bucket/default", cleanup="all")
        platform.delete("destinations", "older")
        platform.delete("destinations", "leaving")
        await runtime.idle()
        assert finalizers(platform, "leaving") == [FINALIZER], "nobody has heard of it"
        await runtime.resync()
        for name in ("created", "changed", "younger"):
            await platform.wait_ready(name)
        await gone(platform, "leaving")
        await runtime.idle()
        await runtime.resync()  # the finalizer came by the first one, and its echo is lost, too
        await platform.wait_ready("wants-cleanup")
        await runtime.idle()
    finally:
        runtime.forwarder.start()
    assert canaries("destinations/elsewhere").items() <= minio.objects(bucket).items()
    assert minio.keys(bucket, "destinations/leaving") == []


async def test_a_rotated_secret_whose_event_was_lost_is_found(
    runtime: LocalRuntime, platform: Platform, git_server: GitServer
) -> None:
    repository = git_server.create_repository()
    git_server.set_password("lost", "first")
    platform.secret("lost", username="lost", password="first")
    platform.git_store("default", url=repository.https_url, branch="main", secretRef={"name": "lost"})
    platform.destination("worker-1", "git/default")
    await platform.wait_ready("worker-1")
    await runtime.idle()
    await runtime.forwarder.stop()
    try:
        git_server.set_password("lost", "second")
        platform.secret("lost", username="lost", password="second")
        repository.commit_files(README, force_root=True)
        await runtime.resync()
        await runtime.idle()
    finally:
        runtime.forwarder.start()
    assert platform.ready("worker-1")[0] == "True"
    assert repository.tree() == canaries("worker-1") | README
    git_server.set_password("lost", None)


async def test_a_canary_that_was_edited_or_removed_by_hand_comes_back(
    runtime: LocalRuntime, platform: Platform, minio: Minio, git_server: GitServer
) -> None:
    bucket, repository = await two_ready(platform, minio, git_server)
    namespace, config_map = canaries("destinations/in-bucket")
    minio.put(bucket, namespace, b"edited: by hand\n")
    minio.delete(bucket, config_map)
    minio.put(bucket, "destinations/in-bucket/other.yaml", b"mine: 1\n")
    namespace, config_map = canaries("destinations/in-git")
    repository.commit_files(
        {namespace: b"edited: by hand\n", config_map: None, "destinations/other.yaml": b"mine: 1\n"}
    )
    await runtime.idle()
    await runtime.resync()
    await runtime.idle()
    assert minio.objects(bucket) == canaries("destinations/in-bucket") | {
        "destinations/in-bucket/other.yaml": b"mine: 1\n"
    }
    assert repository.tree() == canaries("destinations/in-git") | README | {"destinations/other.yaml": b"mine: 1\n"}
    assert platform.events("in-git") == [("Normal", "DestinationReady", "Destination is Ready", 1)]


@pytest.mark.parametrize("how", ["force-pushed", "made anew", "deleted"])
async def test_a_branch_that_was_rewritten_and_a_bucket_that_was_emptied_are_filled_again(
    runtime: LocalRuntime, platform: Platform, minio: Minio, git_server: GitServer, how: str
) -> None:
    bucket, repository = await two_ready(platform, minio, git_server)
    if how == "force-pushed":
        repository.move_branch(repository.commits()[-1].sha)
    elif how == "made anew":
        repository.commit_files(README, force_root=True)
    else:
        repository.delete_branch()
    for key in minio.keys(bucket):
        minio.delete(bucket, key)
    await runtime.idle()
    await runtime.resync()
    await runtime.idle()
    assert minio.objects(bucket) == canaries("destinations/in-bucket")
    assert canaries("destinations/in-git").items() <= repository.tree().items()
    assert {platform.ready(name)[0] for name in ("in-bucket", "in-git")} == {"True"}


async def test_a_ready_that_is_no_longer_true_turns_false_with_the_reason_and_back(
    runtime: LocalRuntime, platform: Platform, minio: Minio, git_server: GitServer
) -> None:
    bucket, protected = await two_ready(platform, minio, git_server)
    revoked = git_server.create_repository()
    git_server.set_password("revoked", "word")
    platform.secret("revoked", username="revoked", password="word")
    platform.git_store("revoked", url=revoked.https_url, branch="main", secretRef={"name": "revoked"})
    platform.destination("revoked", "git/revoked")
    await platform.wait_ready("revoked")
    await runtime.idle()

    for key in minio.keys(bucket):
        minio.delete(bucket, key)
    assert minio.request("DELETE", bucket).status == 204
    git_server.set_password("revoked", None)
    words = "GH006: Protected branch update failed for refs/heads/main."
    protected.set_hook("pre-receive", f'#!/bin/sh\necho "{words}" >&2\nexit 1\n')
    protected.commit_files(README, force_root=True)
    await runtime.resync()
    why = await platform.wait_reason("in-bucket", "StateStoreNotReady")
    assert why.startswith(f"BucketStateStore/default: Error validating state store permissions: bucket {bucket} ")
    why = await platform.wait_reason("revoked", "StateStoreNotReady")
    assert why.startswith("GitStateStore/revoked: Error validating state store permissions: ")
    why = await platform.wait_reason("in-git", "StateStoreWriteFailed")
    assert words in why
    assert (
        platform.store_ready("bucket/default")[:2] == platform.store_ready("git/revoked")[:2] == ("NotReady", "False")
    )

    minio.create_bucket(bucket)
    git_server.set_password("revoked", "word")
    protected.set_hook("pre-receive", None)
    await runtime.resync()
    for name in ("in-bucket", "in-git", "revoked"):
        await platform.wait_ready(name)
    assert minio.objects(bucket) == canaries("destinations/in-bucket")
    git_server.set_password("revoked", None)
    platform.delete("destinations", "revoked")
    platform.delete("gitstatestores", "revoked")
    await runtime.idle()


async def test_when_all_is_well_1000_destinations_cost_few_lists_and_no_write(
    runtime: LocalRuntime, platform: Platform, minio: Minio, git_server: GitServer, api_proxy: KubernetesProxy
) -> None:
    async with s3.fault_proxy(minio) as bucket_proxy:
        bucket, repository = declare_bucket(platform, minio), git_server.create_repository()
        declare_repository(platform, git_server, repository)
        await runtime.forwarder.stop()
        await create_thousand(platform, api_proxy)
        runtime.forwarder.start()
        await platform.until(
            lambda: all("conditions" in d.get("status", {}) for d in platform.destinations().values()), "told", 120
        )
        await runtime.idle(1)
        found = [(d.get("status") or {}).get("conditions") or [{}] for d in platform.destinations().values()]
        assert [conditions[0].get("status") for conditions in found] == ["True"] * 1000
        assert len(minio.keys(bucket)) == len(repository.paths()) - 1 == 1000
        platform.bucket_store("default", endpoint=bucket_proxy.endpoint)  # from now on, each call is seen
        await platform.until(lambda: len(bucket_proxy.asked) > 2, "a look through the proxy")
        await runtime.idle(1)
        # The bucket has moved: what was claimed where it was before is forgotten, by the second one at the latest. A
        # Destination remembers the old location until its report from the new one is in.
        for _ in range(2):
            await runtime.resync()
            await runtime.idle(1)
        head, versions = repository.head(), {name: d["metadata"] for name, d in platform.destinations().items()}
        api_proxy.reset()
        bucket_proxy.asked.clear()
        log = len(git_server.access_log.read_text().splitlines())
        began = invocations(runtime)

        await runtime.resync()
        await runtime.idle(1)

        ran = {name: count - began[name] for name, count in invocations(runtime).items()}
        git_calls = git_server.access_log.read_text().splitlines()[log:]
        print(f"1,000 Destinations, all well: Kubernetes {dict(api_proxy.calls)},")
        print(f"bucket {dict(bucket_proxy.operations)}, Git {len(git_calls)} requests, invocations {ran}")
        ours = ("resync", "on-destination-change", "status-report", "cleanup")
        assert [ran[name] for name in ours] == [1, 0, 0, 0]
        assert ran["write-canary"] <= 4, "two State Stores, and 250 of their Destinations a message"
        # Two functions look, and 1,000 objects are two pages.
        calls = api_proxy.calls
        written = {call for call in calls if call.split()[0] not in {"list", "get"}}
        claims = [asked for asked in api_proxy.asked if asked.resource == "configmaps"]
        others = [asked for asked in claims if asked.verb not in {"list", "get"}]
        assert written <= {"patch leases", "create leases"}, f"nothing else is written to the cluster: {others}"
        # resync reads them once, and write-canary where it has so many that a list costs less than their names.
        assert calls["list destinations"] <= 2 + 2 * 4
        assert calls["get destinations"] <= 500
        assert calls["list bucketstatestores"] == calls["list gitstatestores"] == 1
        assert calls["get secrets"] <= 4
        assert set(bucket_proxy.operations) <= {"CreateMultipartUpload", "Delete", "List"}, "no Put, no DeleteObjects"
        assert bucket_proxy.operations["List"] <= 2 * 3
        assert bucket_proxy.operations.total() <= 8
        assert len(git_calls) <= 9
        assert not [line for line in git_calls if "POST" in line and "git-receive-pack" in line], "no push"
        assert repository.head() == head
        assert {name: d["metadata"] for name, d in platform.destinations().items()} == versions
        await runtime.forwarder.stop()
        platform.clear()


async def create_thousand(platform: Platform, api_proxy: KubernetesProxy) -> None:
    """Create 1,000 Destinations on few connections, half of them in the bucket and half in the repository."""
    names = iter(list(named("worker", 1000)))
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {platform.api.token}"}) as session:

        async def create() -> None:
            for name in names:
                kind = "BucketStateStore" if int(name[-3:]) % 2 else "GitStateStore"
                spec = {"stateStoreRef": {"kind": kind, "name": "default"}}
                body = {"apiVersion": API_VERSION, "kind": "Destination", "metadata": {"name": name}, "spec": spec}
                async with session.post(f"{api_proxy.url}{GROUP}/destinations", json=body) as answer:
                    assert answer.status == 201, await answer.text()

        await asyncio.gather(*(create() for _ in range(8)))
