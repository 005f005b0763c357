"""What a deleted Destination leaves behind, and what never goes with it.

See docs/contract.md#deletion, docs/failure-modes.md#6-neighbours-files, #11-keys-and-prefixes, #16-recreated-objects.
"""

import pytest

from infra.local.runtime import LocalRuntime
from tests.integration.platform_team import Platform
from tests.integration.test_first_ready import canaries, declare_bucket, declare_repository
from tests.servers.git import GitServer
from tests.servers.s3 import Minio

pytestmark = pytest.mark.asyncio(loop_scope="module")

FINALIZER = "kratix.io/destination-cleanup"


def finalizers(platform: Platform, name: str) -> list[str]:
    return ((platform.get(name) or {}).get("metadata") or {}).get("finalizers") or []


async def gone(platform: Platform, name: str, seconds: float = 30) -> None:
    await platform.until(lambda: platform.get(name) is None, f"{name} gone", seconds, lambda: platform.get(name))


async def test_the_finalizer_comes_before_the_first_write_and_goes_with_the_cleanup(
    runtime: LocalRuntime, platform: Platform, minio: Minio
) -> None:
    declare_bucket(platform, minio)
    platform.destination("worker-1", "bucket/default", cleanup="all")
    await platform.wait_ready("worker-1")
    assert finalizers(platform, "worker-1") == [FINALIZER]
    platform.destination("worker-1", "bucket/default", cleanup="none")
    await platform.until(lambda: not finalizers(platform, "worker-1"), "no finalizer")
    platform.destination("worker-1", "bucket/default", cleanup="all")
    await platform.until(lambda: finalizers(platform, "worker-1") == [FINALIZER], "the finalizer again")
    await runtime.idle()


async def test_cleanup_all_deletes_everything_below_the_path_of_a_bucket_and_nothing_beside_it(
    runtime: LocalRuntime, platform: Platform, minio: Minio
) -> None:
    bucket = declare_bucket(platform, minio)
    for name in ("worker-1", "worker-10"):
        platform.destination(name, "bucket/default", cleanup="all")
    platform.destination("inner", "bucket/default", path="worker-1/inner")
    for name in ("worker-1", "worker-10", "inner"):
        await platform.wait_ready(name)
    minio.put(bucket, "destinations/worker-1/by/hand.yaml", b"a: 1\n")
    minio.put(bucket, "elsewhere.yaml", b"b: 2\n")
    await runtime.idle()
    platform.delete("destinations", "worker-1")
    await gone(platform, "worker-1")
    assert minio.keys(bucket) == [
        "destinations/worker-1/inner/dependencies/kratix-canary-namespace.yaml",
        "destinations/worker-1/inner/resources/kratix-canary-configmap.yaml",
        "destinations/worker-10/dependencies/kratix-canary-namespace.yaml",
        "destinations/worker-10/resources/kratix-canary-configmap.yaml",
        "elsewhere.yaml",
    ]
    await runtime.idle()


async def test_cleanup_all_spares_what_another_spelling_of_the_same_bucket_has_inside(
    runtime: LocalRuntime, platform: Platform, minio: Minio
) -> None:
    bucket = declare_bucket(platform, minio)
    declare_bucket(platform, minio, "respelled", bucket=bucket)
    platform.bucket_store("respelled", endpoint=f"{minio.endpoint} ")
    platform.destination("team", "bucket/default", cleanup="all")
    platform.destination("inner", "bucket/respelled", path="team/inner")
    for name in ("team", "inner"):
        await platform.wait_ready(name)
    platform.delete("destinations", "team")
    await gone(platform, "team")
    await runtime.idle()
    assert minio.objects(bucket) == canaries("destinations/team/inner")


async def test_cleanup_all_of_several_destinations_of_a_repository_leaves_the_others(
    runtime: LocalRuntime, platform: Platform, git_server: GitServer
) -> None:
    repository = git_server.create_repository()
    declare_repository(platform, git_server, repository)
    for name in ("worker-1", "worker-2", "worker-10"):
        platform.destination(name, "git/default", cleanup="all")
    for name in ("worker-1", "worker-2", "worker-10"):
        await platform.wait_ready(name)
    await runtime.idle()
    for name in ("worker-1", "worker-2"):
        platform.delete("destinations", name)
    for name in ("worker-1", "worker-2"):
        await gone(platform, name)
    assert sorted(repository.tree()) == [
        "README.md",
        "destinations/worker-10/dependencies/kratix-canary-namespace.yaml",
        "destinations/worker-10/resources/kratix-canary-configmap.yaml",
    ]
    await runtime.idle()


async def test_cleanup_none_deletes_nothing(runtime: LocalRuntime, platform: Platform, minio: Minio) -> None:
    bucket = declare_bucket(platform, minio)
    platform.destination("worker-1", "bucket/default", cleanup="none")
    await platform.wait_ready("worker-1")
    platform.delete("destinations", "worker-1")
    await gone(platform, "worker-1")
    await runtime.idle()
    assert len(minio.keys(bucket)) == 2


async def test_a_forged_cleanup_message_deletes_nothing_of_a_living_destination(
    runtime: LocalRuntime, platform: Platform, minio: Minio
) -> None:
    bucket = declare_bucket(platform, minio)
    platform.destination("worker-1", "bucket/default", cleanup="all")
    await platform.wait_ready("worker-1")
    await runtime.queues.send("CleanupQueue", ['{"kind": "Destination", "name": "worker-1"}'])
    await runtime.idle()
    assert len(minio.keys(bucket)) == 2
    assert finalizers(platform, "worker-1") == [FINALIZER]


async def test_the_newer_destination_of_one_path_is_refused_and_heals_when_the_older_goes(
    runtime: LocalRuntime, platform: Platform, minio: Minio
) -> None:
    bucket = declare_bucket(platform, minio)
    platform.destination("older", "bucket/default", path="shared")
    await platform.wait_ready("older")
    platform.destination("younger", "bucket/default", path="./shared//", cleanup="all")
    why = await platform.wait_reason("younger", "PathClash")
    assert "older" in why
    platform.delete("destinations", "older")
    await platform.wait_ready("younger")
    assert len(minio.keys(bucket)) == 2
    await runtime.idle()


async def test_the_older_destination_of_one_path_has_it_before_its_state_store_is_ready(
    runtime: LocalRuntime, platform: Platform, minio: Minio
) -> None:
    bucket = declare_bucket(platform, minio)
    declare_bucket(platform, minio, "twin", bucket=bucket)
    platform.secret("twin", accessKeyID=minio.root.access_key, secretAccessKey="wrong")
    await platform.wait_store("bucket/twin", "ErrorValidatingPermissions")
    platform.destination("a-older", "bucket/twin", path="shared")
    await platform.wait_reason("a-older", "StateStoreNotReady")
    platform.destination("b-younger", "bucket/default", path="shared")
    why = await platform.wait_reason("b-younger", "PathClash")
    assert "a-older" in why
    assert minio.keys(bucket) == []
    platform.destination("c-younger", "bucket/default", path="elsewhere")
    await platform.wait_ready("c-younger")
    platform.destination("a-older", "bucket/twin", path="elsewhere")
    await platform.wait_reason("c-younger", "PathClash")
    await platform.wait_ready("b-younger")
    platform.secret("twin", accessKeyID=minio.root.access_key, secretAccessKey=minio.root.secret_key)
    await platform.wait_ready("a-older")
    await runtime.idle()
