"""Two clusters in one deployment: the same names in both, and nothing of one reaches the other."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest
import pytest_asyncio

from infra.local.forwarder import Forwarder
from infra.local.kubernetes_access import ClusterAccess
from infra.local.runtime import LocalRuntime
from infra.local.workers import FunctionFailed
from tests.conftest import CRDS
from tests.integration.conftest import environment
from tests.integration.documents import all_ready
from tests.integration.flow import Tap, put_on, tapped
from tests.integration.kubernetes_proxy import Answer, Asked, Forward, KubernetesProxy, kubernetes_proxy
from tests.integration.platform_team import Platform
from tests.integration.test_documents import group
from tests.integration.test_first_ready import READY, canaries, declare_bucket, declare_repository
from tests.servers.git import GitServer
from tests.servers.kubernetes import KubernetesApi
from tests.servers.s3 import Minio

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def second_cluster(second_kubernetes_api: KubernetesApi) -> KubernetesApi:
    second_kubernetes_api.apply_crds(CRDS)
    assert second_kubernetes_api.request("POST", "/api/v1/namespaces", {"metadata": {"name": "landfall"}}).status == 201
    return second_kubernetes_api


@pytest.fixture
def north(platform: Platform) -> Platform:
    """The first cluster, and the default one."""
    return platform


@pytest.fixture
def south(second_cluster: KubernetesApi) -> Iterator[Platform]:
    """The second cluster."""
    with Platform.alone(second_cluster) as team:
        yield team


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def way_south(second_cluster: KubernetesApi) -> AsyncIterator[KubernetesProxy]:
    """What is between the functions and the second cluster."""
    async with kubernetes_proxy(second_cluster) as proxy:
        yield proxy


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runtime(
    cluster: KubernetesApi, second_cluster: KubernetesApi, way_south: KubernetesProxy, git_server: GitServer
) -> AsyncIterator[LocalRuntime]:
    """One deployment; its own forwarder names no cluster, the second one's names it."""
    southern = second_cluster.write_kubeconfig(second_cluster.token, url=way_south.url)
    clusters = {"north": {"kubeconfig": str(cluster.kubeconfig)}, "south": {"kubeconfig": str(southern)}}
    served = {"LANDFALL_CLUSTERS": json.dumps(clusters), "LANDFALL_CLUSTER": "north"}
    access = await ClusterAccess.from_kubeconfig(second_cluster.kubeconfig, None)
    async with LocalRuntime(
        kubeconfig=cluster.kubeconfig,
        environment={**environment(git_server), **served},
        resync_seconds=0,
        first_redelivery_seconds=0.3,
    ) as running:

        async def send(bodies: Sequence[str]) -> None:
            await running.queues.send("ChangesQueue", [_named(body) for body in bodies])

        forwarder = Forwarder(access, send, lambda sentence: None)
        forwarder.start()
        try:
            yield running
        finally:
            await forwarder.stop()
            await access.close()


def _named(body: str) -> str:
    return json.dumps({**json.loads(body), "cluster": "south"})


def names_of(tap: Tap) -> set[str]:
    """Return the clusters that messages between the functions name."""
    return {
        message.get("reference", message).get("cluster", "")
        for queue, bodies in tap.sent.items()
        if queue != "ChangesQueue"
        for message in map(json.loads, bodies)
    }


async def test_the_same_names_in_both_clusters_never_mix(
    runtime: LocalRuntime, north: Platform, south: Platform, minio: Minio, git_server: GitServer
) -> None:
    repository = git_server.create_repository()
    with tapped(runtime) as tap:
        bucket = declare_bucket(north, minio)
        declare_repository(south, git_server, repository)
        declare_bucket(south, minio, bucket=(southern := minio.create_bucket()))
        north.destination("worker-1", "bucket/default", labels={"where": "north"}, cleanup="all")
        south.destination("worker-1", "git/default", labels={"where": "south"}, cleanup="all")
        south.destination("worker-2", "bucket/default", cleanup="all")
        await north.wait_ready("worker-1")
        await south.wait_ready("worker-1")
        await south.wait_ready("worker-2")
        north.work("app", group({"north.yaml": b"kind: North"}, where="north"), promise="app")
        south.work("app", group({"south.yaml": b"kind: South"}, where="south"), promise="app")
        await all_ready(north, 1)
        await all_ready(south, 1)
        await runtime.idle()
        assert names_of(tap) == {"north", "south"}, "every message says which cluster it is about"
    assert north.ready("worker-1") == south.ready("worker-1") == READY
    assert north.get("worker-2") is None
    northern = {path for path in minio.keys(bucket) if "canary" not in path}
    written = {path for path in repository.paths() if "canary" not in path and path.startswith("destinations/")}
    assert [path.rpartition("/")[2] for path in northern] == ["north.yaml"]
    assert [path.rpartition("/")[2] for path in written] == ["south.yaml"]
    assert minio.objects(southern) == canaries("destinations/worker-2")

    south.delete("destinations", "worker-1")
    await south.until(lambda: south.get("worker-1") is None, "the southern worker-1 gone")
    await runtime.idle()
    assert not [path for path in repository.paths() if path.startswith("destinations/worker-1")]
    assert {path for path in minio.keys(bucket) if "canary" not in path} == northern
    assert north.ready("worker-1") == READY
    assert await runtime.dead_letters() == {}


async def test_a_resync_looks_at_every_cluster(
    runtime: LocalRuntime, north: Platform, south: Platform, minio: Minio
) -> None:
    buckets = [declare_bucket(team, minio) for team in (north, south)]
    for team in (north, south):
        team.destination("worker-1", "bucket/default")
        await team.wait_ready("worker-1")
    await runtime.idle()
    for bucket in buckets:
        for key in minio.keys(bucket):
            minio.delete(bucket, key)
    await runtime.resync()
    await runtime.idle()
    for bucket in buckets:
        assert minio.objects(bucket) == canaries("destinations/worker-1")


async def test_a_cluster_that_does_not_answer_holds_up_nothing_but_its_own_items(
    runtime: LocalRuntime, north: Platform, south: Platform, way_south: KubernetesProxy, minio: Minio
) -> None:
    """The other's items are done while the very batch that they came in still waits for it."""
    buckets = {team: declare_bucket(team, minio) for team in (north, south)}
    for team in (north, south):
        await team.wait_store("bucket/default", "StateStoreReady")
    await runtime.idle()
    held, asked = asyncio.Event(), asyncio.Event()

    async def hold(request: Asked, forward: Forward) -> Answer | None:
        asked.set()
        await held.wait()
        return None

    way_south.fault = hold
    try:
        for team in (south, north):
            team.destination("worker-1", "bucket/default")
        await asyncio.wait_for(asked.wait(), 30)
        reference = {"kind": "Destination", "name": "worker-1"}
        await put_on(runtime, "CanaryQueue", *({**reference, "cluster": name} for name in ("south", "north")))
        await north.wait_ready("worker-1")
        assert south.ready("worker-1")[0] != "True"
        assert runtime.functions["write-canary"].at_work, "the batch that brought both still waits for the second"
    finally:
        held.set()
        way_south.reset()
    await south.wait_ready("worker-1")
    await runtime.idle()
    for bucket in buckets.values():
        assert minio.objects(bucket) == canaries("destinations/worker-1")
    assert await runtime.dead_letters() == {}


async def test_a_cluster_that_is_down_fails_the_resync_of_itself_alone(
    runtime: LocalRuntime, north: Platform, south: Platform, way_south: KubernetesProxy, minio: Minio
) -> None:
    bucket = declare_bucket(north, minio)
    north.destination("worker-1", "bucket/default")
    await north.wait_ready("worker-1")
    await runtime.idle()
    for key in minio.keys(bucket):
        minio.delete(bucket, key)
    way_south.down()
    try:
        with pytest.raises(FunctionFailed, match="did not answer"):
            await runtime.resync()
    finally:
        way_south.reset()
    await runtime.idle()
    assert minio.objects(bucket) == canaries("destinations/worker-1")


async def test_an_unknown_cluster_is_refused_and_the_rest_of_its_batch_is_done(
    runtime: LocalRuntime, north: Platform, south: Platform, minio: Minio
) -> None:
    bucket = declare_bucket(north, minio)
    await north.wait_store("bucket/default", "StateStoreReady")
    await runtime.idle()
    uid = north.store("bucket/default")["metadata"]["uid"]  # type: ignore[index]
    await put_on(runtime, "CanaryQueue", {"cluster": "west", "kind": "BucketStateStore", "name": "default", "uid": uid})
    north.destination("worker-1", "bucket/default")
    await north.wait_ready("worker-1")
    await north.until(
        lambda: any("'west' is not served here" in line for line in runtime.log.tail(200)), "the refusal in the log"
    )
    log = "\n".join(line for line in runtime.log.tail(200) if "west" in line)
    assert "south" not in log
    assert minio.objects(bucket) == canaries("destinations/worker-1")
