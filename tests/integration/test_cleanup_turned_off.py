"""cleanup turned to none keeps the files, however late it is turned (docs/contract.md#deletion)."""

from collections.abc import Iterator

import pytest

from infra.local.queues import MemoryQueues
from infra.local.runtime import LocalRuntime
from tests.integration.platform_team import Platform
from tests.integration.test_deletion import FINALIZER, finalizers, gone
from tests.integration.test_first_ready import canaries, declare_bucket
from tests.servers.s3 import Minio

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def late_events(runtime: LocalRuntime) -> Iterator[None]:
    """The forwarder's events take a second, so that nobody sees an object between two quick changes."""
    assert isinstance(runtime.queues, MemoryQueues)
    queue = runtime.queues.queues["ChangesQueue"]
    before = queue.carry
    queue.carry = lambda message, delay: ((message, delay + 1),)
    yield
    queue.carry = before


async def test_cleanup_turned_off_and_deleted_at_once_keeps_the_files(
    runtime: LocalRuntime, platform: Platform, minio: Minio, late_events: None
) -> None:
    bucket = declare_bucket(platform, minio)
    platform.destination("worker-1", "bucket/default", cleanup="all")
    await platform.wait_ready("worker-1")
    platform.destination("worker-1", "bucket/default", cleanup="none")
    platform.delete("destinations", "worker-1")
    assert finalizers(platform, "worker-1") == [FINALIZER]
    await gone(platform, "worker-1")
    await runtime.idle()
    assert minio.objects(bucket) == canaries("destinations/worker-1")


async def test_a_deletion_that_waits_for_its_store_goes_when_cleanup_is_turned_off(
    runtime: LocalRuntime, platform: Platform, minio: Minio
) -> None:
    bucket = declare_bucket(platform, minio)
    platform.destination("worker-1", "bucket/default", cleanup="all")
    await platform.wait_ready("worker-1")
    platform.delete("bucketstatestores", "default")
    platform.delete("destinations", "worker-1")
    await platform.wait_reason("worker-1", "StateStoreNotReady")
    platform.destination("worker-1", "bucket/default", cleanup="none")
    await gone(platform, "worker-1")
    await runtime.idle()
    assert minio.objects(bucket) == canaries("destinations/worker-1")
