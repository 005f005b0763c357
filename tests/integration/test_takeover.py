"""Beside a Kratix that runs on: the policies, as a real API server enforces them, and what Landfall leaves alone.

Kratix is played by calls of its ServiceAccount, which may do all that its own ClusterRole lets it. The real one is in
tests/takeover.
"""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from infra.local.runtime import LocalRuntime
from shared.handover import HANDOVER_ANNOTATION, HELD_LABEL, MANAGED_ANNOTATION, PARKED_SECRET
from tests.integration.conftest import environment
from tests.integration.platform_team import GROUP, Platform
from tests.integration.test_first_ready import declare_bucket
from tests.servers.git import GitServer
from tests.servers.kubernetes import KubernetesApi
from tests.servers.s3 import Minio

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMESPACE, ACCOUNT = "kratix-platform-system", "kratix-platform-controller-manager"
MERGE = "application/merge-patch+json"
STORES = {"bucket": "bucketstatestores", "git": "gitstatestores"}
DRIFT = {"status": {"conditions": [], "status": "NotReady"}}


@pytest.fixture(scope="module")
def kratix(cluster: KubernetesApi) -> Iterator[str]:
    """A token of Kratix's ServiceAccount, with our policies applied."""
    kubectl = shutil.which("kubectl")
    assert kubectl, "kubectl is not installed: install it, people apply the policies with it"

    def run(*arguments: str) -> None:
        command = [kubectl, f"--kubeconfig={cluster.kubeconfig}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr

    made = cluster.request("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
    assert made.status in {201, 409}, made
    rules = [{"apiGroups": ["platform.kratix.io"], "resources": ["*"], "verbs": ["*"]}]
    token = cluster.create_service_account(NAMESPACE, ACCOUNT, rules)
    run("apply", "-k", "infra/kubernetes/takeover")
    try:
        yield token
    finally:
        run("delete", "-k", "infra/kubernetes/takeover")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runtime(cluster: KubernetesApi, git_server: GitServer, kratix: str) -> AsyncIterator[LocalRuntime]:
    """The flow as it runs beside Kratix."""
    variables = {"LANDFALL_STATE_STORES": "managed", "LANDFALL_HANDOVER_SECONDS": "1"}
    async with LocalRuntime(
        kubeconfig=cluster.kubeconfig, environment={**environment(git_server), **variables}, resync_seconds=0
    ) as running:
        yield running


def annotate(platform: Platform, store: str, *, managed: bool) -> None:
    kind, _, name = store.partition("/")
    patch = {"metadata": {"annotations": {MANAGED_ANNOTATION: "true" if managed else None}}}
    platform.api.call("PATCH", f"{GROUP}/{STORES[kind]}/{name}", patch, content_type=MERGE)


async def hand_over(platform: Platform, store: str) -> None:
    annotate(platform, store, managed=True)
    await platform.wait_store(store, "StateStoreReady")


def secret_ref(platform: Platform, store: str) -> dict[str, Any]:
    return dict((platform.store(store) or {})["spec"].get("secretRef") or {})


def tries(platform: Platform, token: str, path: str, patch: dict[str, Any]) -> tuple[int, str]:
    answer = platform.api.request("PATCH", f"{GROUP}/{path}", patch, token=token, content_type=MERGE)
    return answer.status, answer.json().get("message", "")


async def test_kratix_may_touch_nothing_of_a_state_store_that_is_handed_over_and_everything_of_another(
    platform: Platform, minio: Minio, runtime: LocalRuntime, kratix: str
) -> None:
    declare_bucket(platform, minio)
    own = secret_ref(platform, "bucket/default")
    root = minio.root
    platform.bucket_store(
        "kept", endpoint=minio.endpoint, insecure=True, bucketName=minio.create_bucket(), secretRef=own, path="kept"
    )
    platform.destination("handed", "bucket/default", path="handed")
    platform.destination("kept", "bucket/kept", path="kept")
    await hand_over(platform, "bucket/default")
    await platform.wait_ready("handed")
    assert root.secret_key not in str(platform.store("bucket/default"))

    owned = "is handed over to Landfall"
    refused: list[tuple[str, dict[str, Any]]] = [
        ("destinations/handed/status", DRIFT),
        ("destinations/handed", {"metadata": {"finalizers": ["kratix.io/destination-cleanup"]}}),
        ("bucketstatestores/default/status", DRIFT),
        ("bucketstatestores/default", {"spec": {"path": "elsewhere"}}),
    ]
    for path, patch in refused:
        status, message = tries(platform, kratix, path, patch)
        assert status == 403, (path, message)
        assert owned in message, path
    made: dict[str, Any] = {"apiVersion": "platform.kratix.io/v1alpha1", "kind": "Destination"}
    made["metadata"] = {"name": "new"}
    made["spec"] = {"path": "new", "stateStoreRef": {"kind": "BucketStateStore", "name": "default"}}
    assert platform.api.request("POST", f"{GROUP}/destinations", made, token=kratix).status == 403
    assert platform.api.request("DELETE", f"{GROUP}/destinations/handed", token=kratix).status == 403
    let_through: list[tuple[str, dict[str, Any]]] = [
        ("destinations/kept/status", DRIFT),
        ("destinations/kept", {"metadata": {"labels": {"by": "kratix"}}}),
        ("bucketstatestores/kept/status", DRIFT),
    ]
    for path, patch in let_through:
        assert tries(platform, kratix, path, patch)[0] == 200, path
    # The name alone decides nothing: a GitStateStore `default` is another State Store.
    other = {"kind": "GitStateStore", "name": "default"}
    platform.git_store("default", url="https://git.example.com/x.git", secretRef={"name": "none"})
    made["spec"] = {"path": "new", "stateStoreRef": other}
    assert platform.api.request("POST", f"{GROUP}/destinations", made, token=kratix).status == 201
    # People may do as before.
    assert tries(platform, platform.api.token, "destinations/handed", {"metadata": {"labels": {"a": "b"}}})[0] == 200


async def test_the_old_manifest_of_a_state_store_that_is_handed_over_is_refused_with_what_to_do(
    platform: Platform, minio: Minio, runtime: LocalRuntime
) -> None:
    declare_bucket(platform, minio)
    own = secret_ref(platform, "bucket/default")
    await hand_over(platform, "bucket/default")
    status, message = tries(
        platform, platform.api.token, "bucketstatestores/default", {"spec": {"secretRef": {"namespace": "x", **own}}}
    )
    assert status == 403
    assert "kubectl annotate bucketstatestores default landfall.kratix.io/managed-" in message
    assert HANDOVER_ANNOTATION in message
    other = {"spec": {"path": "elsewhere"}}
    assert tries(platform, platform.api.token, "bucketstatestores/default", other)[0] == 200, "the rest is theirs"


async def test_landfall_leaves_alone_what_was_not_handed_over(
    platform: Platform, minio: Minio, runtime: LocalRuntime
) -> None:
    bucket = declare_bucket(platform, minio)
    own = secret_ref(platform, "bucket/default")
    handed = minio.create_bucket()
    platform.bucket_store("handed", endpoint=minio.endpoint, insecure=True, bucketName=handed, secretRef=own, path="d")
    platform.destination("kept", "bucket/default", path="kept", cleanup="all")
    platform.destination("handed", "bucket/handed", path="handed")
    files = [{"filepath": "a.yaml", "content": "H4sIAAAAAAAC/8vOTLFScE7Oz0nVUcgvSiwpzszPAwBxuHRcFAAAAA=="}]
    group = {"id": "5058f1af8388633f609cadb75a75dc9d", "directory": ".", "workloads": files}
    platform.work("w", group, promise="redis")
    for target in ("kept", "handed", "nowhere"):
        made = placement(target, files)
        platform.api.call("POST", f"{GROUP}/namespaces/default/workplacements", made)
    before = {kind: platform.api.call("GET", f"{GROUP}/{kind}")["items"] for kind in ("works", "workplacements")}
    await hand_over(platform, "bucket/handed")
    await platform.wait_ready("handed")
    written = ("True", "WorkloadsWrittenToStateStore", "Workloads written to State Store")
    await platform.until(
        lambda: platform.condition("workplacements", "w.handed", "WriteSucceeded") == written, "handed's documents"
    )
    platform.delete_object("workplacements", "w.kept")
    await runtime.resync()
    await runtime.idle(2)
    assert minio.keys(bucket) == []
    assert any(key.endswith("a.yaml") for key in minio.keys(handed))
    kept = platform.get("kept")
    assert kept is not None
    assert kept.get("status") is None
    assert not kept["metadata"].get("finalizers")
    assert not kept["metadata"].get("annotations")
    assert (platform.store("bucket/default") or {}).get("status") is None
    after = {kind: platform.api.call("GET", f"{GROUP}/{kind}")["items"] for kind in before}
    assert after["works"] == before["works"], "scheduling is Kratix's"
    names = sorted(obj["metadata"]["name"] for obj in after["workplacements"])
    assert names == ["w.handed", "w.kept", "w.nowhere"], "its finalizers are Kratix's to remove"
    for name in ("w.kept", "w.nowhere"):
        assert (platform.object("workplacements", name) or {})["metadata"]["finalizers"] == [FINALIZER]
        assert platform.conditions("workplacements", name) == []
    assert "ScheduleSucceeded" not in platform.told("workplacements", "w.handed"), "the scheduler's to say"


FINALIZER = "finalizers.workplacement.kratix.io/repo-cleanup"


def placement(target: str, workloads: list[dict[str, str]]) -> dict[str, Any]:
    labels = {"kratix.io/work": "w", "kratix.io/targetDestinationName": target, "kratix.io/pipeline-name": "p"}
    id_ = "5058f1af8388633f609cadb75a75dc9d"
    return {
        "apiVersion": "platform.kratix.io/v1alpha1",
        "kind": "WorkPlacement",
        "metadata": {"name": f"w.{target}", "labels": labels, "finalizers": [FINALIZER]},
        "spec": {"targetDestinationName": target, "promiseName": "redis", "id": id_, "workloads": workloads},
    }


async def test_back_it_is_as_it_was_and_the_label_waits_for_kratix(
    platform: Platform, minio: Minio, runtime: LocalRuntime, kratix: str
) -> None:
    declare_bucket(platform, minio)
    platform.destination("worker-1", "bucket/default", path="a", cleanup="all")
    before = platform.store("bucket/default")
    assert before is not None
    await hand_over(platform, "bucket/default")
    await platform.wait_ready("worker-1")
    assert secret_ref(platform, "bucket/default")["name"] == PARKED_SECRET
    annotate(platform, "bucket/default", managed=False)
    await platform.until(
        lambda: secret_ref(platform, "bucket/default") == before["spec"]["secretRef"], "the credentials are back"
    )
    await asyncio.sleep(3)
    now = platform.store("bucket/default")
    assert now is not None
    assert HELD_LABEL in now["metadata"]["labels"], "Kratix has not said yet that it can write"
    assert tries(platform, kratix, "destinations/worker-1/status", DRIFT)[0] == 403
    ready = {"type": "Ready", "status": "True", "reason": "StateStoreReady", "message": "State store is ready"}
    ready["lastTransitionTime"] = "2026-01-01T00:00:00Z"
    status = {"status": "Ready", "observedGeneration": now["metadata"]["generation"], "conditions": [ready]}
    assert tries(platform, kratix, "bucketstatestores/default/status", {"status": status})[0] == 200
    await platform.until(
        lambda: HELD_LABEL not in ((platform.store("bucket/default") or {})["metadata"].get("labels") or {}), "released"
    )
    now = platform.store("bucket/default")
    assert now is not None
    assert now["spec"] == before["spec"]
    assert not now["metadata"].get("annotations")
    destination = platform.get("worker-1")
    assert destination is not None
    assert not destination["metadata"].get("annotations"), "where Kratix writes next, our memory would be out of date"
    assert destination["metadata"]["finalizers"] == ["kratix.io/destination-cleanup"]
    await platform.until(
        lambda: tries(platform, kratix, "destinations/worker-1/status", DRIFT)[0] == 200, "Kratix may report again"
    )


async def test_a_secret_that_is_rotated_while_it_is_parked_is_noticed(
    platform: Platform, minio: Minio, runtime: LocalRuntime
) -> None:
    declare_bucket(platform, minio)
    own = secret_ref(platform, "bucket/default")["name"]
    await hand_over(platform, "bucket/default")
    platform.secret(own, accessKeyID=minio.root.access_key, secretAccessKey="wrong")
    await platform.wait_store("bucket/default", "ErrorValidatingPermissions")
    platform.secret(own, accessKeyID=minio.root.access_key, secretAccessKey=minio.root.secret_key)
    await platform.wait_store("bucket/default", "StateStoreReady")
