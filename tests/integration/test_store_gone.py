"""What is deleted after its State Store is gone goes although nobody tries again any more.

See docs/contract.md#deletion, docs/failure-modes.md#19-deletion-orders.
"""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from infra.local.runtime import LocalRuntime
from tests.integration.documents import declare_store, written
from tests.integration.flow import running
from tests.integration.platform_team import GROUP, Platform
from tests.integration.test_documents import group
from tests.servers.git import GitServer
from tests.servers.kubernetes import KubernetesApi
from tests.servers.s3 import Minio

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runtime(cluster: KubernetesApi, git_server: GitServer) -> AsyncIterator[LocalRuntime]:
    """Retries end before the grace does, as they do where nobody sets anything: 615 seconds and 900."""
    async with running(
        cluster, git_server, LANDFALL_RETRY_DELAYS_SECONDS="1", LANDFALL_CLEANUP_GRACE_SECONDS="4"
    ) as running_:
        yield running_


async def delivered(platform: Platform, minio: Minio, git_server: GitServer) -> str:
    """Have a document written for a Destination whose files go with it; return its WorkPlacement's name."""
    declare_store(platform, "bucket", minio, git_server)
    platform.destination("worker-1", "bucket/default", cleanup="all")
    platform.work("deps", group({"a.yaml": b"a\n"}), promise="p")
    await written(platform, "deps.worker-1-5058f")
    return "deps.worker-1-5058f"


@pytest.mark.parametrize("leaving", [False, True], ids=["its Destination stays", "its Destination goes, too"])
async def test_a_workplacement_goes_with_a_resync_after_the_grace(
    runtime: LocalRuntime, platform: Platform, minio: Minio, git_server: GitServer, leaving: bool
) -> None:
    placement = await delivered(platform, minio, git_server)
    platform.delete("bucketstatestores", "default")
    platform.delete_object("works", "deps")
    if leaving:
        platform.delete("destinations", "worker-1")
    await runtime.idle()

    async def resynced_until_gone(kind: str, name: str) -> None:
        for _ in range(60):
            if platform.api.request("GET", f"{kind}/{name}").status == 404:
                return
            await runtime.resync()
            await runtime.idle()
        raise AssertionError(f"{name} is still there")

    await resynced_until_gone(f"{GROUP}/namespaces/default/workplacements", placement)
    if leaving:
        await resynced_until_gone(f"{GROUP}/destinations", "worker-1")


async def test_a_destination_goes_with_its_last_workplacement_although_its_own_tries_are_over(
    runtime: LocalRuntime, platform: Platform, minio: Minio, git_server: GitServer
) -> None:
    placement = await delivered(platform, minio, git_server)
    path = f"{GROUP}/namespaces/default/workplacements/{placement}"

    def hold(*finalizers: str) -> None:
        now = platform.object("workplacements", placement) or {"metadata": {}}
        kept = [f for f in now["metadata"].get("finalizers") or () if "kratix" in f]
        patch = {"metadata": {"finalizers": [*kept, *finalizers]}}
        platform.api.call("PATCH", path, patch, content_type="application/merge-patch+json")

    hold("example.com/of-another-controller")
    platform.delete("destinations", "worker-1")
    await runtime.idle()
    assert platform.get("worker-1") is not None
    assert platform.object("workplacements", placement) is not None
    hold()
    await platform.until(lambda: platform.get("worker-1") is None, "the Destination gone")
    await runtime.idle()
