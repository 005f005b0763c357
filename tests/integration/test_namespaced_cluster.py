"""The older generation of clusters, where Destinations and State Stores are namespaced.

See docs/contract.md#objects, #paths.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import pytest
import pytest_asyncio

from infra.local.runtime import LocalRuntime
from tests.conftest import CRDS
from tests.integration.conftest import environment
from tests.integration.platform_team import API_VERSION, GROUP, Platform
from tests.integration.test_documents import CANARIES, FLAT_CANARIES, group
from tests.integration.test_first_ready import READY
from tests.servers.git import GitServer
from tests.servers.kubernetes import KubernetesApi, kubernetes_api
from tests.servers.s3 import Minio

pytestmark = pytest.mark.asyncio(loop_scope="module")

OURS = ("works", "workplacements", "destinations", "bucketstatestores", "gitstatestores")
FINALIZER = "kratix.io/destination-cleanup"


class OlderPlatform(Platform):
    """A platform team whose kinds are all namespaced."""

    def apply(self, kind: str, name: str, spec: Mapping[str, Any], namespace: str = "default") -> None:
        """Create or change an object."""
        obj = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": dict(spec)}
        self._apply(f"{GROUP}/namespaces/{namespace}/{kind.lower()}s", name, obj)

    def find(self, kind: str, name: str, namespace: str = "default") -> dict[str, Any] | None:
        """Return an object, or None where there is none."""
        answer = self.api.request("GET", f"{GROUP}/namespaces/{namespace}/{kind.lower()}s/{name}")
        return answer.json() if answer.status == 200 else None

    def ready_of(self, kind: str, name: str, namespace: str = "default") -> tuple[str, str, str]:
        """Return status, reason and message of an object's Ready."""
        conditions = ((self.find(kind, name, namespace) or {}).get("status") or {}).get("conditions") or []
        found: dict[str, str] = next((c for c in conditions if c["type"] == "Ready"), {})
        return found.get("status", ""), found.get("reason", ""), found.get("message", "")

    async def wait(self, kind: str, name: str, namespace: str = "default") -> None:
        """Wait until an object is Ready."""
        await self.until(
            lambda: self.ready_of(kind, name, namespace)[0] == "True",
            f"{kind} {namespace}/{name} Ready",
            60,
            lambda: self.find(kind, name, namespace),
        )

    async def wait_gone(self, kind: str, name: str, namespace: str = "default") -> None:
        """Wait until there is no such object."""
        await self.until(lambda: self.find(kind, name, namespace) is None, f"{name} gone", 60)

    def remove(self, kind: str, name: str, namespace: str = "default") -> None:
        """Ask for an object's deletion."""
        self.api.call("DELETE", f"{GROUP}/namespaces/{namespace}/{kind.lower()}s/{name}")


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubernetesApi]:
    """A real API server with our CRDs as they were: everything namespaced."""
    folder = tmp_path_factory.mktemp("older-crds")
    for file in CRDS.glob("*.yaml"):
        (folder / file.name).write_text(file.read_text().replace("scope: Cluster", "scope: Namespaced"))
    with kubernetes_api() as api:
        api.apply_crds(folder)
        yield api


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runtime(older: KubernetesApi, git_server: GitServer) -> AsyncIterator[LocalRuntime]:
    async with LocalRuntime(
        kubeconfig=older.kubeconfig, environment=environment(git_server), resync_seconds=0
    ) as running:
        yield running


@pytest.fixture
def platform(older: KubernetesApi) -> Iterator[OlderPlatform]:
    team = OlderPlatform(older)
    yield team
    for kind in OURS:
        for obj in older.call("GET", f"{GROUP}/{kind}")["items"]:
            path = f"{GROUP}/namespaces/{obj['metadata']['namespace']}/{kind}/{obj['metadata']['name']}"
            none: dict[str, Any] = {"metadata": {"finalizers": []}}
            older.request("PATCH", path, none, content_type="application/merge-patch+json")
            older.request("DELETE", path)


def store(platform: OlderPlatform, minio: Minio, namespace: str = "default", bucket: str = "") -> str:
    """Declare the BucketStateStore `default` of a namespace, with its Secret beside it; return its bucket."""
    bucket = bucket or minio.create_bucket()
    data = {"accessKeyID": minio.root.access_key, "secretAccessKey": minio.root.secret_key}
    secret = {"metadata": {"name": "credentials"}, "stringData": data}
    platform.api.request("POST", f"/api/v1/namespaces/{namespace}/secrets", secret)
    spec = {"path": "destinations", "endpoint": minio.endpoint, "insecure": True, "bucketName": bucket}
    platform.apply("BucketStateStore", "default", {**spec, "secretRef": {"name": "credentials"}}, namespace)
    return bucket


def destination(platform: OlderPlatform, name: str, namespace: str = "default", **spec: Any) -> None:
    ref = {"kind": "BucketStateStore", "name": "default"}
    platform.apply("Destination", name, {"stateStoreRef": ref, **spec}, namespace)


def work(name: str, content: bytes = b"a\n", **spec: Any) -> dict[str, Any]:
    return {"promiseName": "redis", "workloadGroups": [group({f"{name}.yaml": content})], **spec}


async def test_the_reference_pages_example_lies_below_the_destinations_namespace_and_goes_from_there(
    runtime: LocalRuntime, platform: OlderPlatform, minio: Minio
) -> None:
    bucket = store(platform, minio)
    destination(platform, "worker-1", path="dev", cleanup="all")
    await platform.wait("Destination", "worker-1")
    assert platform.ready_of("Destination", "worker-1") == READY
    await platform.wait("BucketStateStore", "default")
    assert platform.ready_of("BucketStateStore", "default")[:2] == ("True", "StateStoreReady")
    found = platform.find("Destination", "worker-1")
    assert found is not None
    assert found["metadata"]["finalizers"] == [FINALIZER]
    platform.apply("Work", "deps", work("deps"))
    platform.apply("Work", "mine", work("mine", resourceName="mine"))
    await platform.wait("WorkPlacement", "deps.worker-1-5058f")
    await platform.wait("WorkPlacement", "mine.worker-1-5058f")
    canaries = {f"destinations/dev/default/{path}": content for path, content in CANARIES.items()}
    assert minio.objects(bucket) == canaries | {
        "destinations/dev/default/dependencies/redis/5058f/deps.yaml": b"a\n",
        "destinations/dev/default/resources/default/redis/mine/5058f/mine.yaml": b"a\n",
    }
    await runtime.idle()
    assert platform.events("worker-1") == [("Normal", "DestinationReady", "Destination is Ready", 1)]
    platform.remove("Work", "mine")
    await platform.wait_gone("WorkPlacement", "mine.worker-1-5058f")
    assert "destinations/dev/default/resources/default/redis/mine/5058f/mine.yaml" not in minio.keys(bucket)
    minio.put(bucket, "destinations/dev/other/mine.yaml", b"another namespace's\n")
    platform.remove("Destination", "worker-1")
    await platform.wait_gone("Destination", "worker-1")
    await platform.wait_gone("WorkPlacement", "deps.worker-1-5058f")
    assert minio.keys(bucket) == ["destinations/dev/other/mine.yaml"]
    await runtime.idle()


async def test_destinations_of_one_name_in_two_namespaces_each_have_their_own_documents(
    runtime: LocalRuntime, platform: OlderPlatform, minio: Minio, older: KubernetesApi
) -> None:
    bucket, team = store(platform, minio), older.create_namespace("team")
    store(platform, minio, team, bucket)
    destination(platform, "worker-1", path="dev", filepath={"mode": "none"})
    destination(platform, "worker-1", team, path="dev", filepath={"mode": "none"}, cleanup="all")
    platform.apply("Work", "deps", work("deps", b"default\n"))
    platform.apply("Work", "deps", work("deps", b"team\n"), team)
    for namespace in ("default", team):
        await platform.wait("Destination", "worker-1", namespace)
        await platform.wait("WorkPlacement", "deps.worker-1-5058f", namespace)
    root = "destinations/dev"

    def files() -> dict[str, bytes]:
        return {path: content for path, content in minio.objects(bucket).items() if "/.kratix/" not in path}

    ours = {f"{root}/default/{path}": content for path, content in FLAT_CANARIES.items()}
    ours[f"{root}/default/deps.yaml"] = b"default\n"
    theirs = {f"{root}/{team}/{path}": content for path, content in FLAT_CANARIES.items()}
    assert files() == ours | theirs | {f"{root}/{team}/deps.yaml": b"team\n"}
    await runtime.idle()
    platform.remove("Destination", "worker-1", team)
    await platform.wait_gone("Destination", "worker-1", team)
    await platform.wait_gone("WorkPlacement", "deps.worker-1-5058f", team)
    await runtime.idle()
    assert files() == ours
    assert platform.ready_of("WorkPlacement", "deps.worker-1-5058f")[0] == "True"
    await platform.until(
        lambda: platform.ready_of("Work", "deps", team)[1] == "UnscheduledWorkloads", "its Work waits for another"
    )
    assert platform.ready_of("Work", "deps")[1] == "AllWorkplacementsScheduled"


async def test_a_destination_follows_when_its_store_goes_and_comes_back(
    runtime: LocalRuntime, platform: OlderPlatform, minio: Minio
) -> None:
    bucket = store(platform, minio)
    destination(platform, "worker-1", path="dev")
    await platform.wait("Destination", "worker-1")
    await runtime.idle()
    platform.remove("BucketStateStore", "default")
    await platform.until(
        lambda: platform.ready_of("Destination", "worker-1")[1] == "StateStoreNotFound",
        "StateStoreNotFound without a resync",
        seen=lambda: platform.ready_of("Destination", "worker-1"),
    )
    store(platform, minio, bucket=bucket)
    await platform.wait("Destination", "worker-1")
    await runtime.idle()


async def test_a_removed_document_comes_back_by_resync(
    runtime: LocalRuntime, platform: OlderPlatform, minio: Minio
) -> None:
    bucket = store(platform, minio)
    destination(platform, "worker-1", path="dev")
    platform.apply("Work", "deps", work("deps"))
    await platform.wait("WorkPlacement", "deps.worker-1-5058f")
    await runtime.idle()
    key = "destinations/dev/default/dependencies/redis/5058f/deps.yaml"
    minio.delete(bucket, key)
    await runtime.resync()
    await runtime.idle()
    assert minio.get(bucket, key) == b"a\n"
