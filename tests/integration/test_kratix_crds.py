"""The whole flow in a cluster that has Kratix's own CustomResourceDefinitions instead of ours."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio

from infra.local.runtime import LocalRuntime
from tests.infra import kratix_crds
from tests.integration.conftest import environment
from tests.integration.documents import all_ready
from tests.integration.platform_team import Platform
from tests.integration.test_documents import group
from tests.integration.test_first_ready import READY, canaries, declare_bucket, declare_repository
from tests.servers.git import GitServer
from tests.servers.kubernetes import KubernetesApi, kubernetes_api
from tests.servers.s3 import Minio

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesApi]:
    with kubernetes_api() as server:
        server.apply_crds(kratix_crds.folder(tmp_path_factory.mktemp("kratix")))
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runtime(cluster: KubernetesApi, git_server: GitServer) -> AsyncIterator[LocalRuntime]:
    async with LocalRuntime(
        kubeconfig=cluster.kubeconfig, environment=environment(git_server), resync_seconds=0
    ) as running:
        yield running


async def test_destinations_and_works_live_and_go_as_with_our_own_definitions(
    runtime: LocalRuntime, platform: Platform, minio: Minio, git_server: GitServer
) -> None:
    repository = git_server.create_repository()
    bucket = declare_bucket(platform, minio)
    declare_repository(platform, git_server, repository)
    platform.destination("worker-1", "bucket/default", labels={"tier": "b"}, path="dev", cleanup="all")
    platform.destination(
        "worker-2", "git/default", labels={"tier": "g"}, path="dev", cleanup="all", filepath={"mode": "none"}
    )
    for name in ("worker-1", "worker-2"):
        await platform.wait_ready(name)
        assert platform.ready(name) == READY
    for store in ("bucket/default", "git/default"):
        assert platform.store_ready(store)[:3] == ("Ready", "True", "StateStoreReady")
    assert minio.objects(bucket) == canaries("destinations/dev")
    platform.work("app", group({"app.yaml": b"kind: App"}, tier="b"), promise="app")
    platform.work("flat", group({"flat.yaml": b"kind: Flat"}, tier="g"), promise="flat")
    await all_ready(platform, 2)
    assert "destinations/dev/flat.yaml" in repository.paths()
    assert b"kind: App" in minio.objects(bucket).values()
    for name in ("worker-1", "worker-2"):
        platform.delete("destinations", name)
    await platform.until(lambda: platform.destinations() == {}, "both gone")
    await runtime.idle()
    assert minio.keys(bucket) == []
    assert [path for path in repository.paths() if path.startswith("destinations/")] == []
    assert await runtime.dead_letters() == {}


async def test_what_those_definitions_let_in_is_refused_by_a_condition(
    runtime: LocalRuntime, platform: Platform, minio: Minio
) -> None:
    """What our own rules refuse at the door comes in here (docs/contract.md#refusals)."""
    bucket = declare_bucket(platform, minio)
    platform.destination("worker-1", "bucket/default", path="../escape")
    assert "contains '..'" in await platform.wait_reason("worker-1", "InvalidDestination")
    platform.bucket_store("bare", endpoint=minio.endpoint, insecure=True, bucketName=bucket)
    assert "secretRef" in await platform.wait_store("bucket/bare", "ErrorInitialisingWriter")
    platform.git_store("url", url="https://user:word@git.example/r", secretRef={"name": "default"})
    why = await platform.wait_store("git/url", "ErrorInitialisingWriter")
    assert "credentials" in why
    assert "word" not in why
    await runtime.idle()
    assert minio.keys(bucket) == []
