"""An object is gone, and a list is empty, only where the API server itself says so.

See docs/failure-modes.md#41-foreign-404s.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from shared.deadline import Deadline
from shared.errors import KubernetesError, KubernetesUnavailable
from shared.kube import Cluster
from shared.reconcile.deliveries import write_documents
from shared.settings import Settings
from tests.integration.by_hand import by_hand, placement
from tests.integration.kubernetes_proxy import Answer, Asked, Forward, KubernetesProxy, kubernetes_proxy
from tests.integration.platform_team import Platform
from tests.servers import kubernetes
from tests.servers.kubernetes import KubernetesApi

pytestmark = pytest.mark.asyncio(loop_scope="module")

CRDS = Path(__file__).parents[2] / "infra" / "kubernetes" / "crds"
TOKEN_PAGE = b"<html>you sent Authorization: Bearer hunter2</html>"


def other(status: int, body: bytes, content_type: str = "text/plain", **headers: str) -> Answer:
    """An answer that is not the API server's."""
    return Answer(status, body, {"Content-Type": content_type, **headers})


def json_of(status: int, **body: object) -> Answer:
    return other(status, json.dumps(body).encode(), "application/json")


NOT_THE_API = {
    "a proxy's default backend": other(404, b"default backend - 404"),
    "the words of an API server, of a proxy": other(404, b"404 page not found\n", "text/plain; charset=utf-8"),
    "an HTML page that shows the request": other(404, TOKEN_PAGE, "text/html", Server="whoami"),
    "JSON that is no Status": json_of(404, message="no route", code=404),
    "a Status of another reason": json_of(404, kind="Status", apiVersion="v1", reason="Unknown", code=404),
    "a Status of another API": json_of(404, kind="Status", apiVersion="example.com/v1", reason="NotFound", code=404),
    "an empty 404": other(404, b""),
    "a sign-in page": other(200, TOKEN_PAGE, "text/html"),
    "an empty 200": other(200, b""),
    "an empty object": json_of(200),
    "items of nothing": json_of(200, items=[], metadata={}),
    "a list of another kind": json_of(200, kind="PodList", apiVersion="v1", items=[], metadata={}),
    "a list of another group": json_of(200, kind="DestinationList", apiVersion="example.com/v1", items=[], metadata={}),
    "a JSON list": other(200, b"[]", "application/json"),
}


@pytest_asyncio.fixture(loop_scope="module")
async def own_proxy(cluster: KubernetesApi) -> AsyncIterator[KubernetesProxy]:
    async with kubernetes_proxy(cluster) as proxy:
        yield proxy


@pytest_asyncio.fixture(loop_scope="module")
async def api(cluster: KubernetesApi, own_proxy: KubernetesProxy) -> AsyncIterator[Cluster]:
    client = await Cluster.connect(Settings(kubeconfig=cluster.write_kubeconfig(cluster.token, url=own_proxy.url)))
    yield client
    await client.close()


def answer_all(proxy: KubernetesProxy, answer: Answer, resource: str | None = "destinations") -> None:
    """Let something else answer every call on a resource, and discovery still the API server; None: every call."""

    async def fault(asked: Asked, forward: Forward) -> Answer | None:
        return answer if resource in {None, asked.resource.partition("/")[0]} else None

    proxy.fault = fault


@pytest.mark.parametrize("answer", NOT_THE_API.values(), ids=NOT_THE_API)
async def test_what_something_else_answers_means_nothing_for_any_object(
    platform: Platform, api: Cluster, own_proxy: KubernetesProxy, answer: Answer
) -> None:
    platform.destination("worker-1", "bucket/nowhere")
    obj = await api.get("Destination", "", "worker-1", Deadline.after(20))
    assert obj is not None
    answer_all(own_proxy, answer)
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "get": lambda: api.get("Destination", "", "worker-1", Deadline.after(20)),
        "get metadata": lambda: api.get("Destination", "", "worker-1", Deadline.after(20), metadata_only=True),
        "list": lambda: api.list_all("Destination", Deadline.after(20)),
        "list metadata": lambda: api.list_all("Destination", Deadline.after(20), metadata_only=True),
        "list many": lambda: api.read_many("Destination", [("", f"w{n}") for n in range(9)], Deadline.after(20)),
        "create": lambda: api.create({**obj, "metadata": {"name": "worker-2"}}, Deadline.after(20)),
        "patch": lambda: api.patch({**obj, "kind": "Destination"}, {"spec": {"path": "x"}}, Deadline.after(20)),
        "status": lambda: api.patch_status({**obj, "kind": "Destination"}, {"conditions": []}, Deadline.after(20)),
        "delete": lambda: api.delete("Destination", "", "worker-1", Deadline.after(20)),
    }
    for name, call in calls.items():
        with pytest.raises(KubernetesError) as told:
            await call()
        assert "hunter2" not in str(told.value), name
        if answer != NOT_THE_API["a Status of another reason"]:
            assert isinstance(told.value, KubernetesUnavailable), "it may be the API server the next time"
            assert f"something that is not the Kubernetes API (HTTP {answer.status}" in str(told.value), name


async def test_a_deletion_keeps_its_files_named_while_something_else_answers_for_its_destination(
    cluster: KubernetesApi, platform: Platform
) -> None:
    async with by_hand(cluster, platform) as hands:
        platform.destination("worker-1", "bucket/default")
        hands.placement("w", {"f": b"1"})
        await hands.write("w")
        assert len(hands.store.files) == 1
        platform.delete_object("workplacements", "w")
        for status, body in ((404, b"default backend - 404"), (200, b"{}")):
            answer_all(hands.proxy, other(status, body))
            failures, sent = await hands.run(write_documents, w=placement("w"))
            assert list(failures) == ["w"], "it is delivered again"
            assert sent == []
            assert len(hands.store.files) == 1
        hands.proxy.reset()
        await hands.write("w")
        assert hands.store.files == {}
        assert hands.placements() == {}


async def test_a_destination_that_the_api_server_calls_gone_lets_its_workplacements_go(
    cluster: KubernetesApi, platform: Platform
) -> None:
    async with by_hand(cluster, platform) as hands:
        hands.placement("w", {"f": b"1"}, "nobody")
        platform.delete_object("workplacements", "w")
        await hands.write("w")
        assert hands.placements() == {}


@pytest.fixture(scope="module")
def bare() -> Iterator[KubernetesApi]:
    """An API server without our CRDs; some tests add them."""
    with kubernetes.kubernetes_api() as server:
        yield server


async def test_a_cluster_without_the_crds_has_no_objects_and_says_so_itself(bare: KubernetesApi) -> None:
    async with kubernetes_proxy(bare) as proxy:
        client = await Cluster.connect(Settings(kubeconfig=bare.write_kubeconfig(bare.token, url=proxy.url)))
        assert await client.list_all("Destination", Deadline.after(20)) == []
        assert await client.get("Work", "default", "w", Deadline.after(20)) is None
        answer_all(proxy, other(404, b"404 page not found\n"), resource=None)
        with pytest.raises(KubernetesUnavailable, match="not the Kubernetes API"):
            await client.list_all("Destination", Deadline.after(20))
        await client.close()


async def test_a_kind_that_is_served_in_another_version_alone_is_not_gone(bare: KubernetesApi) -> None:
    crd = (CRDS / "destinations.yaml").read_text().replace("v1alpha1", "v1beta7")
    file = bare.kubeconfig.with_name("other-version.yaml")
    file.write_text(crd)
    name = bare.apply_crds(file)[0]
    client = await Cluster.connect(Settings(kubeconfig=bare.kubeconfig))
    try:
        with pytest.raises(KubernetesError, match=r"serves destinations\S* in version v1beta7, and v1alpha1 is needed"):
            await client.list_all("Destination", Deadline.after(20))
        with pytest.raises(KubernetesError, match="v1beta7"):
            await client.get("Destination", "", "worker-1", Deadline.after(20))
        assert await client.list_all("Work", Deadline.after(20)) == [], "another kind of the group"
    finally:
        await client.close()
        bare.call("DELETE", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")


async def test_paths_of_another_scope_and_of_a_missing_namespace_have_no_objects(
    platform: Platform, api: Cluster
) -> None:
    platform.destination("worker-1", "bucket/nowhere")
    soon = Deadline.after(20)
    assert await api.get("Destination", "default", "worker-1", soon) is None, "it has no namespace"
    assert await api.get("Work", "", "w", soon) is None, "it has one"
    assert await api.get("Work", "nowhere", "w", soon) is None
    assert await api.list_all("Work", soon, namespace="nowhere") == []
    work = {"apiVersion": "platform.kratix.io/v1alpha1", "kind": "Work", "spec": {}}
    assert await api.create({**work, "metadata": {"name": "w", "namespace": "nowhere"}}, soon) is None
    await api.delete("Work", "default", "w", soon)
