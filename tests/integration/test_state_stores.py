"""A State Store's own Ready, and how its Destinations follow it.

See docs/contract.md#state-store-conditions, docs/failure-modes.md#14-bucket-refusals, #21-rotated-secrets.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from infra.local.runtime import LocalRuntime
from tests.contract import fault_proxy as s3
from tests.integration.flow import behind_proxy, tapped
from tests.integration.kubernetes_proxy import Answer, Asked, Forward, KubernetesProxy
from tests.integration.platform_team import Platform, named
from tests.integration.test_first_ready import canaries, declare_bucket, declare_repository
from tests.servers.git import GitServer
from tests.servers.s3 import Minio

pytestmark = pytest.mark.asyncio(loop_scope="module")

READY = ("Ready", "True", "StateStoreReady", "State store is ready")
PREFIX = "Error validating state store permissions: "


runtime = behind_proxy(LANDFALL_RETRY_DELAYS_SECONDS=",".join(["1"] * 12))


@pytest_asyncio.fixture(loop_scope="module")
async def bucket_proxy(minio: Minio) -> AsyncIterator[s3.FaultProxy]:
    async with s3.fault_proxy(minio) as proxy:
        yield proxy


async def test_a_bucket_store_is_ready_and_its_check_leaves_nothing_behind(
    runtime: LocalRuntime, platform: Platform, minio: Minio, bucket_proxy: s3.FaultProxy
) -> None:
    bucket = declare_bucket(platform, minio)
    platform.bucket_store("default", endpoint=bucket_proxy.endpoint)
    await platform.wait_store("bucket/default", "StateStoreReady")
    await runtime.idle()
    assert platform.store_ready("bucket/default") == READY
    store = platform.store("bucket/default")
    assert store is not None
    generation = store["metadata"]["generation"]
    assert store["status"]["observedGeneration"] == generation
    assert store["status"]["conditions"][0]["observedGeneration"] == generation
    events = platform.events("default", "BucketStateStore")
    assert events == [("Normal", "Ready", 'BucketStateStore "default" is ready', 1)]
    assert bucket_proxy.operations["CreateMultipartUpload"] >= 1, "the check asks for the right to write"
    assert minio.keys(bucket) == []
    key = "destinations/.kratix-write-permission-check"
    pending = minio.request("GET", bucket, query={"uploads": "", "prefix": key})
    assert pending.status == 200
    assert b"<Upload>" not in pending.body


async def test_a_git_store_is_ready_and_its_check_leaves_no_ref_and_no_object(
    runtime: LocalRuntime, platform: Platform, git_server: GitServer
) -> None:
    repository = git_server.create_repository()
    before = repository.git("for-each-ref"), repository.git("count-objects", "-v")
    declare_repository(platform, git_server, repository)
    await platform.wait_store("git/default", "StateStoreReady")
    await runtime.idle()
    assert platform.store_ready("git/default") == READY
    assert (repository.git("for-each-ref"), repository.git("count-objects", "-v")) == before
    events = platform.events("default", "GitStateStore")
    assert events == [("Normal", "Ready", 'GitStateStore "default" is ready', 1)]
    log = git_server.access_log.read_text()
    assert f"{repository.name}.git/info/refs?service=git-receive-pack" in log, "the check asks for the right to push"


def no_secret(platform: Platform) -> None:
    platform.delete("secrets", "default")


def no_key(platform: Platform) -> None:
    platform.delete("secrets", "default")
    platform.secret("default", accessKeyID="only-half")


def no_endpoint(platform: Platform) -> None:
    platform.bucket_store("default", endpoint="127.1")


def wrong_key(platform: Platform) -> None:
    platform.secret("default", accessKeyID="nobody", secretAccessKey="nothing-at-all")


def no_bucket(platform: Platform) -> None:
    platform.bucket_store("default", bucketName="never-made")


@pytest.mark.parametrize(
    ("spoil", "reason", "words"),
    [
        pytest.param(no_secret, "SecretNotFound", "Secret default not found in namespace default", id="no Secret"),
        pytest.param(no_key, "ErrorInitialisingWriter", "secret is missing key: secretAccessKey", id="no key"),
        pytest.param(no_endpoint, "ErrorInitialisingWriter", "endpoint", id="an endpoint that is none"),
        pytest.param(wrong_key, "ErrorValidatingPermissions", f"{PREFIX}bucket ", id="wrong credentials"),
        pytest.param(no_bucket, "ErrorValidatingPermissions", "never-made", id="no bucket"),
    ],
)
async def test_why_a_store_is_not_ready_is_told_on_it_and_on_its_destinations_which_follow_it_back(
    runtime: LocalRuntime,
    platform: Platform,
    minio: Minio,
    *,
    spoil: Callable[[Platform], None],
    reason: str,
    words: str,
) -> None:
    bucket = declare_bucket(platform, minio)
    platform.destination("worker-1", "bucket/default")
    await platform.wait_ready("worker-1")
    spoil(platform)
    message = await platform.wait_store("bucket/default", reason)
    assert words in message
    assert platform.store_ready("bucket/default")[:2] == ("NotReady", "False")
    assert await platform.wait_reason("worker-1", "StateStoreNotReady") == f"BucketStateStore/default: {message}"
    told = ("Warning", "NotReady", message)
    await platform.until(
        lambda: told in {event[:3] for event in platform.events("default", "BucketStateStore")}, "its Event"
    )
    declare_bucket(platform, minio, bucket=bucket)
    await platform.wait_ready("worker-1")
    await platform.wait_store("bucket/default", "StateStoreReady")
    assert platform.store_ready("bucket/default") == READY
    await runtime.idle()


@pytest.mark.parametrize("what", ["password", "repository"])
async def test_why_a_git_store_is_not_ready_is_told_and_its_destination_follows_it_back(
    runtime: LocalRuntime, platform: Platform, git_server: GitServer, what: str
) -> None:
    repository = git_server.create_repository()
    declare_repository(platform, git_server, repository)
    if what == "password":
        platform.secret("default-git", username=git_server.username, password="wrong")
    else:
        platform.git_store("default", url=f"{repository.https_url.removesuffix('.git')}-gone.git")
    platform.destination("worker-1", "git/default")
    message = await platform.wait_store("git/default", "ErrorValidatingPermissions")
    assert message.startswith(PREFIX)
    assert await platform.wait_reason("worker-1", "StateStoreNotReady") == f"GitStateStore/default: {message}"
    declare_repository(platform, git_server, repository)
    await platform.wait_ready("worker-1")
    assert canaries("destinations/worker-1").items() <= repository.tree().items()
    await runtime.idle()


async def test_a_changed_secret_leads_to_a_new_check_and_to_new_writes(
    runtime: LocalRuntime, platform: Platform, minio: Minio
) -> None:
    bucket = declare_bucket(platform, minio)
    platform.destination("worker-1", "bucket/default")
    await platform.wait_ready("worker-1")
    await runtime.idle()
    for key in minio.keys(bucket):
        minio.delete(bucket, key)
    platform.secret("default", accessKeyID=minio.root.access_key, secretAccessKey=minio.root.secret_key, more="x")
    await platform.until(lambda: len(minio.keys(bucket)) == 2, "the files again", seen=lambda: minio.keys(bucket))
    await runtime.idle()


@pytest.mark.parametrize("warm", [True, False], ids=["writer in use", "writer that is new"])
async def test_a_secret_that_is_rotated_after_it_was_read_is_read_again_and_the_write_tried_once_more(
    runtime: LocalRuntime, platform: Platform, git_server: GitServer, api_proxy: KubernetesProxy, warm: bool
) -> None:
    repository = git_server.create_repository()
    git_server.set_password("rotating", "old-password")
    platform.secret("rotating", username="rotating", password="old-password")
    platform.git_store("default", url=repository.https_url, branch="main", secretRef={"name": "rotating"})
    await platform.wait_store("git/default", "StateStoreReady")
    if not warm:
        platform.secret("rotating", username="rotating", password="old-password", other="version")
    platform.destination("worker-1", "git/default", path="one")
    await platform.wait_ready("worker-1")
    await runtime.idle()
    rotated = False
    reads = 0

    async def rotate_once_read(asked: Asked, forward: Forward) -> Answer | None:
        nonlocal rotated, reads
        if not asked.is_("get", "secrets", "rotating"):
            return None
        reads += 1
        if rotated:
            return None
        rotated = True
        old = await forward()
        git_server.set_password("rotating", "new-password")
        await asyncio.to_thread(platform.secret, "rotating", username="rotating", password="new-password")
        return old

    api_proxy.fault = rotate_once_read
    platform.destination("worker-2", "git/default", path="two")
    await platform.wait_ready("worker-2")
    await runtime.idle()
    api_proxy.reset()
    git_server.set_password("rotating", None)
    assert reads >= 2
    assert platform.events("worker-2") == [("Normal", "DestinationReady", "Destination is Ready", 1)]
    assert [event[1] for event in platform.events("default", "GitStateStore")] == ["Ready"]
    assert canaries("two").items() <= repository.tree().items()


async def test_however_many_destinations_fail_one_chain_of_retries_the_stores_brings_them_all_back(
    runtime: LocalRuntime, platform: Platform, minio: Minio, bucket_proxy: s3.FaultProxy
) -> None:
    bucket = declare_bucket(platform, minio)
    platform.bucket_store("default", endpoint=bucket_proxy.endpoint)
    names = list(named("worker", 20))
    for name in names:
        platform.destination(name, "bucket/default")
    for name in names:
        await platform.wait_ready(name)
    await runtime.idle()

    # The check passes and every write fails, which is the worst of both.
    async def refuse_puts(asked: s3.Asked, forward: s3.Forward) -> s3.Answer | None:
        return s3.Answer.error(403, "AccessDenied") if asked.operation == "Put" else None

    bucket_proxy.fault = refuse_puts
    with tapped(runtime) as tap:
        for name in names:
            platform.destination(name, "bucket/default", path=f"moved/{name}")
        for name in names:
            await platform.wait_reason(name, "StateStoreWriteFailed")
        await asyncio.sleep(2.5)
        sent = [m for m in tap.of("CanaryQueue") if not m.get("hops")]  # one that waits for the Lease is sent again
        first = [m for m in sent if m["kind"] == "Destination"]
        retries = [m for m in sent if m["kind"] != "Destination"]
        print(f"{len(first)} messages of Destinations; of their store: {[m.get('attempt', 0) for m in retries]}")
        again = Counter(m["name"] for m in first if m.get("attempt"))
        assert len(first) - again.total() == 20, "no Destination is tried again by itself"
        assert max(again.values(), default=0) <= 1, "what turned is decided once more"
        attempts = [m["attempt"] for m in retries if m.get("attempt")]
        assert attempts == sorted(set(attempts)), "one chain, whose attempts count up"
        bucket_proxy.fault = None
        for name in names:
            await platform.wait_ready(name)
    assert len(minio.keys(bucket, "destinations/moved/")) == 40
    await runtime.idle()
