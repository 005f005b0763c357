"""The whole life of a Destination: big, nested, interrupted, orphaned, made anew.

See docs/contract.md#deletion, docs/failure-modes.md#16-recreated-objects, #19-deletion-orders.
"""

from __future__ import annotations

import asyncio
import io
import tarfile
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from infra.local.runtime import LocalRuntime
from shared.reconcile.leases import WAITING_ANNOTATION
from tests.contract import fault_proxy as s3
from tests.integration.flow import put_on, running, tapped
from tests.integration.platform_team import GROUP, Platform
from tests.integration.test_deletion import FINALIZER, finalizers, gone
from tests.integration.test_first_ready import canaries, declare_bucket, declare_repository
from tests.servers.git import GitServer
from tests.servers.kubernetes import KubernetesApi
from tests.servers.s3 import Minio

pytestmark = pytest.mark.asyncio(loop_scope="module")

GRACE_SECONDS = 3


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runtime(cluster: KubernetesApi, git_server: GitServer) -> AsyncIterator[LocalRuntime]:
    async with running(
        cluster,
        git_server,
        LANDFALL_CLEANUP_GRACE_SECONDS=str(GRACE_SECONDS),
        LANDFALL_STORE_TIMEOUT_SECONDS="15",
    ) as running_:
        yield running_


def put_many(minio: Minio, bucket: str, files: Mapping[str, bytes]) -> None:
    """Upload many files at once: MinIO unpacks an archive that says so."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    headers = {"X-Amz-Meta-Snowball-Auto-Extract": "true"}
    answer = minio.request("PUT", bucket, "many.tar", headers=headers, body=archive.getvalue())
    assert answer.status == 200, answer


def five_thousand(root: str) -> dict[str, bytes]:
    return {f"{root}/resources/{n // 100:02}/file {n}+ü.yaml": b"number: %d\n" % n for n in range(5000)}


async def test_cleanup_counts_as_it_is_when_the_destination_is_deleted(
    runtime: LocalRuntime, platform: Platform, minio: Minio
) -> None:
    bucket = declare_bucket(platform, minio)
    for name in ("turned-off", "turned-on"):
        platform.destination(name, "bucket/default", cleanup="all")
        await platform.wait_ready(name)
        platform.destination(name, "bucket/default", cleanup="none")
        await platform.until(lambda name=name: not finalizers(platform, name), "no finalizer")  # type: ignore[misc]
    platform.destination("turned-on", "bucket/default", cleanup="all")
    await platform.until(lambda: finalizers(platform, "turned-on") == [FINALIZER], "the finalizer again")
    for name in ("turned-off", "turned-on"):
        platform.delete("destinations", name)
        await gone(platform, name)
    await runtime.idle()
    assert minio.objects(bucket) == canaries("destinations/turned-off")


async def test_a_destination_of_5000_files_in_a_bucket_goes_with_all_of_them(
    runtime: LocalRuntime, platform: Platform, minio: Minio
) -> None:
    bucket = declare_bucket(platform, minio)
    platform.destination("worker-1", "bucket/default", cleanup="all")
    await platform.wait_ready("worker-1")
    put_many(minio, bucket, five_thousand("destinations/worker-1"))
    minio.put(bucket, "destinations/worker-10/mine.yaml", b"a: 1\n")
    assert len(minio.keys(bucket)) == 5003
    began = time.monotonic()
    platform.delete("destinations", "worker-1")
    await gone(platform, "worker-1", 120)
    print(f"5,002 objects deleted in {time.monotonic() - began:.1f} s")
    assert minio.keys(bucket) == ["destinations/worker-10/mine.yaml"]
    await runtime.idle()


async def test_a_destination_of_5000_files_in_a_repository_goes_with_all_of_them_in_one_commit(
    runtime: LocalRuntime, platform: Platform, git_server: GitServer
) -> None:
    repository = git_server.create_repository()
    declare_repository(platform, git_server, repository)
    platform.destination("worker-1", "git/default", cleanup="all")
    await platform.wait_ready("worker-1")
    repository.commit_files(five_thousand("destinations/worker-1") | {"destinations/worker-10/mine.yaml": b"a: 1\n"})
    before = len(repository.commits())
    began = time.monotonic()
    platform.delete("destinations", "worker-1")
    await gone(platform, "worker-1")
    print(f"5,002 files deleted in {time.monotonic() - began:.1f} s")
    assert sorted(repository.paths()) == ["README.md", "destinations/worker-10/mine.yaml"]
    assert len(repository.commits()) == before + 1
    await runtime.idle()


@pytest.mark.parametrize("kind", ["bucket", "git"])
async def test_the_root_of_a_store_is_cleaned_without_the_destination_inside_and_without_what_is_outside(
    runtime: LocalRuntime, platform: Platform, minio: Minio, git_server: GitServer, kind: str
) -> None:
    repository = git_server.create_repository()
    bucket = declare_bucket(platform, minio)
    declare_repository(platform, git_server, repository)
    by_hand = {"destinations/by/hand.yaml": b"a: 1\n", "outside.yaml": b"b: 2\n"}
    for key, content in by_hand.items():
        minio.put(bucket, key, content)
    repository.commit_files({**by_hand, "README.md": None})
    platform.destination("root", f"{kind}/default", path="/", cleanup="all")
    platform.destination("inner", f"{kind}/default", path="teams/inner", cleanup="all")
    for name in ("root", "inner"):
        await platform.wait_ready(name)
    await runtime.idle()
    platform.delete("destinations", "root")
    await gone(platform, "root")
    inside = canaries("destinations/teams/inner")
    left = minio.objects(bucket) if kind == "bucket" else repository.tree()
    assert left == {**inside, "outside.yaml": b"b: 2\n"}
    platform.delete("destinations", "inner")
    await gone(platform, "inner")
    left = minio.objects(bucket) if kind == "bucket" else repository.tree()
    assert left == {"outside.yaml": b"b: 2\n"}
    await runtime.idle()


@pytest.mark.parametrize("cleanup", ["none", "all"])
async def test_deleted_before_its_first_write_it_goes_and_nothing_is_written(
    runtime: LocalRuntime, platform: Platform, minio: Minio, cleanup: str
) -> None:
    bucket = declare_bucket(platform, minio)
    await platform.wait_store("bucket/default", "StateStoreReady")
    platform.destination("worker-1", "bucket/default", cleanup=cleanup)
    platform.delete("destinations", "worker-1")
    await gone(platform, "worker-1")
    await asyncio.sleep(0.5)
    await runtime.idle()
    assert minio.keys(bucket) == []


async def waiting(platform: Platform, function: str) -> None:
    """Wait until a function has left its name on a State Store's Lease."""
    path = "/apis/coordination.k8s.io/v1/namespaces/landfall/leases"

    def waits() -> bool:
        leases = platform.api.call("GET", path)["items"]
        noted = [(lease["metadata"].get("annotations") or {}).get(WAITING_ANNOTATION, "") for lease in leases]
        return any(f'"{function}"' in names for names in noted)

    await platform.until(waits, f"{function} waits for the Lease")


async def test_deleted_while_its_write_is_held_up_its_cleanup_waits_and_nothing_stays_in_the_bucket(
    runtime: LocalRuntime, platform: Platform, minio: Minio
) -> None:
    bucket = declare_bucket(platform, minio)
    async with s3.fault_proxy(minio) as proxy:
        held = asyncio.Event()

        async def hold_the_first_put(asked: s3.Asked, forward: s3.Forward) -> s3.Answer | None:
            if asked.operation != "Put":
                return None
            if not held.is_set():
                held.set()
                await asyncio.to_thread(platform.delete, "destinations", "worker-1")
            await waiting(platform, "cleanup")
            assert platform.get("worker-1") is not None, "it is not released while it is written"
            return await forward()

        proxy.fault = hold_the_first_put
        platform.bucket_store("default", endpoint=proxy.endpoint)
        platform.destination("worker-1", "bucket/default", cleanup="all")
        await asyncio.wait_for(held.wait(), 30)
        await gone(platform, "worker-1")
        await runtime.idle()
        assert proxy.operations["Put"] == 2, "the write did arrive, and was cleaned up after it"
        assert minio.keys(bucket) == []


async def test_deleted_while_its_push_is_held_up_its_cleanup_waits_and_nothing_stays_in_the_repository(
    runtime: LocalRuntime, platform: Platform, git_server: GitServer, tmp_path: Path
) -> None:
    arrived, go_on = tmp_path / "arrived", tmp_path / "go-on"
    hook = f"#!/bin/sh\ntouch {arrived}\nfor i in $(seq 140); do [ -e {go_on} ] && exit 0; sleep 0.1; done\nexit 1\n"
    repository = git_server.create_repository(hooks={"pre-receive": hook})
    declare_repository(platform, git_server, repository)
    platform.destination("worker-1", "git/default", cleanup="all")
    await platform.until(arrived.exists, "the push is held")
    platform.delete("destinations", "worker-1")
    await waiting(platform, "cleanup")
    assert platform.get("worker-1") is not None, "it is not released while it is written"
    go_on.touch()
    await gone(platform, "worker-1")
    await runtime.idle()
    assert len(repository.commits()) == 3, "the write and its cleanup"
    assert sorted(repository.paths()) == ["README.md"]


@pytest.mark.parametrize("what", ["store", "Secret"])
async def test_deleted_after_its_store_or_secret_is_gone_it_waits_for_the_grace_and_goes_with_an_event(
    runtime: LocalRuntime, platform: Platform, minio: Minio, what: str
) -> None:
    bucket = declare_bucket(platform, minio)
    platform.destination("worker-1", "bucket/default", cleanup="all")
    await platform.wait_ready("worker-1")
    if what == "store":
        platform.delete("bucketstatestores", "default")
    else:
        platform.delete("secrets", "default")
    began = time.monotonic()
    with tapped(runtime) as tap:
        platform.delete("destinations", "worker-1")
        await gone(platform, "worker-1")
        cleanups = tap.of("CleanupQueue")
    assert time.monotonic() - began >= GRACE_SECONDS - 1, "it is not given up at once"
    chains = [message for message in cleanups if not message.get("attempt") and not message.get("hops")]
    assert len(chains) <= 3, "the deletion starts a chain of retries, and its store's NotReady may; our statuses do not"
    why = "not found" if what == "store" else "Secret default not found in namespace default"
    skipped = f"everything below path 'destinations/worker-1' of BucketStateStore/default was left behind: {why}"
    await platform.until(
        lambda: ("Warning", "CleanupSkipped", skipped) in {event[:3] for event in platform.events("worker-1")},
        "CleanupSkipped",
        seen=lambda: platform.events("worker-1"),
    )
    assert len(minio.keys(bucket)) == 2
    await runtime.idle()


async def test_deleted_while_its_store_is_gone_it_is_cleaned_up_when_the_store_comes_back_in_time(
    runtime: LocalRuntime, platform: Platform, minio: Minio
) -> None:
    bucket = declare_bucket(platform, minio)
    platform.destination("worker-1", "bucket/default", cleanup="all")
    await platform.wait_ready("worker-1")
    platform.delete("bucketstatestores", "default")
    platform.delete("destinations", "worker-1")
    declare_bucket(platform, minio, bucket=bucket)
    await gone(platform, "worker-1")
    assert minio.keys(bucket) == []
    assert "CleanupSkipped" not in [event[1] for event in platform.events("worker-1")]
    await runtime.idle()


async def test_late_events_and_messages_of_a_deleted_destination_do_nothing_to_the_new_one_of_its_name(
    runtime: LocalRuntime, platform: Platform, minio: Minio
) -> None:
    bucket = declare_bucket(platform, minio)
    platform.destination("worker-1", "bucket/default", cleanup="all")
    await platform.wait_ready("worker-1")
    old: dict[str, Any] = platform.get("worker-1") or {}
    platform.delete("destinations", "worker-1")
    await gone(platform, "worker-1")
    platform.destination("worker-1", "bucket/default", cleanup="all")
    await platform.wait_ready("worker-1")
    await runtime.idle()
    before, events = platform.get("worker-1"), platform.events("worker-1")
    uid, generation = old["metadata"]["uid"], old["metadata"]["generation"] + 5
    reference = {"kind": "Destination", "name": "worker-1", "uid": uid, "generation": generation}
    late = "2099-01-01T00:00:00Z"
    deleted = {**old, "metadata": {**old["metadata"], "deletionTimestamp": late, "generation": generation}}
    verdict = {"reference": reference, "decided_at": late, "reason": "Old", "message": "of the old one"}
    await put_on(
        runtime, "ChangesQueue", {"type": "MODIFIED", "object": deleted}, {"type": "DELETED", "object": deleted}
    )
    await put_on(runtime, "CleanupQueue", reference, {**reference, "attempt": 3})
    await put_on(runtime, "CanaryQueue", reference, {**reference, "attempt": 3})
    await put_on(
        runtime,
        "StatusQueue",
        {**verdict, "status": "False"},
        {**verdict, "remove_finalizer": FINALIZER},
        {**verdict, "reason": "CleanupSkipped", "remove_finalizer": FINALIZER},
    )
    await runtime.idle()
    assert platform.get("worker-1") == before
    assert platform.events("worker-1") == events
    assert minio.objects(bucket) == canaries("destinations/worker-1")


async def test_init_workloads_disabled_enabled_and_disabled_again(
    runtime: LocalRuntime, platform: Platform, git_server: GitServer
) -> None:
    repository = git_server.create_repository()
    declare_repository(platform, git_server, repository)
    for enabled, reason in [(False, "DestinationReady"), (True, "TestDocumentsWritten"), (False, "DestinationReady")]:
        platform.destination("worker-1", "git/default", initWorkloads={"enabled": enabled})
        await platform.until(
            lambda reason=reason: platform.ready("worker-1")[:2] == ("True", reason),  # type: ignore[misc]
            reason,
            seen=lambda: platform.ready("worker-1"),
        )
        expected = canaries("destinations/worker-1") if enabled else {}
        assert {path: text for path, text in repository.tree().items() if path != "README.md"} == expected
    assert len(repository.commits()) == 3, "the first, the canaries, their removal"
    await runtime.idle()


async def test_the_mode_is_immutable_by_the_clusters_own_rule(platform: Platform, minio: Minio) -> None:
    declare_bucket(platform, minio)
    platform.destination("worker-1", "bucket/default", filepath={"mode": "none"})
    change = {"spec": {"filepath": {"mode": "nestedByMetadata"}}}
    path = f"{GROUP}/destinations/worker-1"
    answer = platform.api.request("PATCH", path, change, content_type="application/merge-patch+json")
    assert answer.status == 422
    assert "filepath.mode is immutable" in answer.json()["message"]
