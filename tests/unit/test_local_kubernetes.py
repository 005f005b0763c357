"""The embedded Kubernetes API keeps the rules that the functions and the forwarder rely on."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from infra.local.embedded.kubernetes.api import KubernetesApi

CRDS = Path("infra/kubernetes/crds")
GROUP = "/apis/platform.kratix.io/v1alpha1"
DESTINATIONS = f"{GROUP}/destinations"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"


class Client:
    """Calls the API as any HTTP client would."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.session = session

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        content_type: str = "application/json",
        accept: str = "application/json",
        **query: str,
    ) -> tuple[int, dict[str, Any]]:
        headers = {"Content-Type": content_type, "Accept": accept}
        data = None if body is None else json.dumps(body)
        async with self.session.request(method, self.url + path, data=data, headers=headers, params=query) as answer:
            return answer.status, await answer.json()

    async def create(self, name: str = "worker-1", **more: Any) -> dict[str, Any]:
        status, obj = await self.call("POST", DESTINATIONS, destination(name, **more))
        assert status == 201, obj
        return obj

    async def patch(
        self, patch: object, name: str = "worker-1", content_type: str = MERGE
    ) -> tuple[int, dict[str, Any]]:
        return await self.call("PATCH", f"{DESTINATIONS}/{name}", patch, content_type)

    async def watch(self, path: str, count: int, accept: str = "application/json", **query: str) -> list[Any]:
        parameters = {"watch": "true", **query}
        headers = {"Accept": accept}
        async with (
            asyncio.timeout(10),
            self.session.get(self.url + path, params=parameters, headers=headers) as answer,
        ):
            return [json.loads(await answer.content.readline()) for _ in range(count)]


def destination(name: str, *, finalizers: tuple[str, ...] = (), **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "platform.kratix.io/v1alpha1",
        "kind": "Destination",
        "metadata": {"name": name, "labels": {"environment": "dev"}, "finalizers": list(finalizers)},
        "spec": {"stateStoreRef": {"kind": "GitStateStore", "name": "default"}, **spec},
    }


@pytest_asyncio.fixture
async def client() -> AsyncIterator[Client]:
    api = KubernetesApi(CRDS)
    await api.start()
    async with aiohttp.ClientSession() as session:
        yield Client(api.url, session)
    await api.stop()


async def test_a_created_object_has_what_the_server_sets_and_the_schemas_defaults(client: Client) -> None:
    created = await client.create(unknown="dropped")
    metadata = created["metadata"]
    assert metadata["generation"] == 1
    assert metadata["uid"] and metadata["resourceVersion"] and metadata["creationTimestamp"]
    assert created["spec"] == {
        "cleanup": "none",
        "filepath": {"mode": "nestedByMetadata"},
        "initWorkloads": {"enabled": True},
        "stateStoreRef": {"kind": "GitStateStore", "name": "default"},
    }
    assert await client.call("GET", f"{DESTINATIONS}/worker-1") == (200, created)


async def test_a_second_object_of_one_name_is_refused(client: Client) -> None:
    await client.create()
    status, answer = await client.call("POST", DESTINATIONS, destination("worker-1"))
    assert (status, answer["reason"]) == (409, "AlreadyExists")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        pytest.param({"cleanup": "some"}, 'spec.cleanup: Unsupported value: "some"', id="enum"),
        pytest.param({"path": 3}, "spec.path: Invalid value: must be of type string", id="type"),
        pytest.param({"stateStoreRef": {"name": "x"}}, "spec.stateStoreRef.kind: Required value", id="required"),
    ],
)
async def test_an_object_that_its_schema_refuses_is_not_created(client: Client, spec: Any, words: str) -> None:
    status, answer = await client.call("POST", DESTINATIONS, destination("bad", **spec))
    assert (status, answer["reason"]) == (422, "Invalid")
    assert words in answer["message"]
    assert (await client.call("GET", f"{DESTINATIONS}/bad"))[0] == 404


async def test_the_filepath_mode_cannot_be_changed(client: Client) -> None:
    await client.create()
    status, answer = await client.patch({"spec": {"filepath": {"mode": "none"}}})
    assert status == 422
    assert "filepath.mode is immutable" in answer["message"]


async def test_only_a_change_of_the_spec_raises_the_generation(client: Client) -> None:
    await client.create()
    labelled = (await client.patch({"metadata": {"labels": {"a": "b"}}}))[1]
    assert (labelled["metadata"]["generation"], labelled["metadata"]["labels"]) == (1, {"environment": "dev", "a": "b"})
    moved = (await client.patch([{"op": "add", "path": "/spec/path", "value": "dev"}], content_type=JSON_PATCH))[1]
    assert (moved["metadata"]["generation"], moved["spec"]["path"]) == (2, "dev")


async def test_a_change_that_changes_nothing_leaves_the_version_as_it_is(client: Client) -> None:
    created = await client.create()
    assert await client.patch({"spec": {"cleanup": "none"}}) == (200, created)


async def test_a_stale_version_and_another_uid_are_conflicts(client: Client) -> None:
    created = await client.create()
    stale = {"resourceVersion": created["metadata"]["resourceVersion"]}
    assert (await client.patch({"metadata": stale, "spec": {"path": "a"}}))[0] == 200
    for metadata in (stale, {"uid": "another"}):
        status, answer = await client.patch({"metadata": metadata, "spec": {"path": "b"}})
        assert (status, answer["reason"]) == (409, "Conflict")
    assert (await client.call("GET", f"{DESTINATIONS}/worker-1"))[1]["spec"]["path"] == "a"


async def test_status_and_the_rest_are_written_apart(client: Client) -> None:
    await client.create()
    both = {"spec": {"path": "moved"}, "status": {"conditions": [{"type": "Ready"}]}}
    ready = {"lastTransitionTime": "2026-01-01T00:00:00Z", "message": "m", "reason": "R", "status": "True"}
    status = {"conditions": [{"type": "Ready", **ready}]}
    path = f"{DESTINATIONS}/worker-1"
    by_status = (await client.call("PATCH", f"{path}/status", {**both, "status": status}, MERGE))[1]
    assert (by_status["status"], "path" in by_status["spec"]) == (status, False)
    assert by_status["metadata"]["generation"] == 1
    by_main = (await client.patch({**both, "status": None}))[1]
    assert (by_main["status"], by_main["spec"]["path"]) == (status, "moved")


async def test_an_object_with_finalizers_waits_for_the_last_of_them(client: Client) -> None:
    await client.create(finalizers=("a", "b"))
    path = f"{DESTINATIONS}/worker-1"
    marked = (await client.call("DELETE", path))[1]
    assert marked["metadata"]["deletionTimestamp"]
    assert (await client.patch({"metadata": {"finalizers": ["b"]}}))[0] == 200
    assert (await client.call("GET", path))[0] == 200
    assert (await client.patch({"metadata": {"finalizers": None}}))[0] == 200
    assert (await client.call("GET", path))[0] == 404


async def test_a_deletion_with_another_uid_does_not_hit_a_successor(client: Client) -> None:
    await client.create()
    status, _ = await client.call("DELETE", f"{DESTINATIONS}/worker-1", {"preconditions": {"uid": "another"}})
    assert status == 409
    assert (await client.call("GET", f"{DESTINATIONS}/worker-1"))[0] == 200


async def test_lists_are_selected_by_labels_and_fields(client: Client) -> None:
    for name in ("a", "b"):
        await client.create(name)
    await client.patch({"metadata": {"labels": {"environment": "prod"}}}, "b")

    async def names(**query: str) -> list[str]:
        return [obj["metadata"]["name"] for obj in (await client.call("GET", DESTINATIONS, **query))[1]["items"]]

    assert await names() == ["a", "b"]
    assert await names(labelSelector="environment=prod") == ["b"]
    assert await names(labelSelector="environment!=prod") == ["a"]
    assert await names(labelSelector="environment,missing") == []
    assert await names(labelSelector="!missing") == ["a", "b"]
    assert await names(labelSelector="environment in (prod,stage),!missing") == ["b"]
    assert await names(labelSelector="environment in (prod, test)") == ["b"]
    assert await names(labelSelector="environment notin (prod,stage)") == ["a"]
    assert await names(labelSelector="missing notin (prod)") == ["a", "b"]
    assert await names(labelSelector="missing in (prod)") == []
    assert await names(fieldSelector="metadata.name=a") == ["a"]


async def test_a_watch_tells_every_change_after_the_version_it_begins_at(client: Client) -> None:
    first = await client.create("first")
    version = (await client.call("GET", DESTINATIONS))[1]["metadata"]["resourceVersion"]
    await client.create("second")
    await client.patch({"spec": {"path": "moved"}}, "first")
    await client.call("DELETE", f"{DESTINATIONS}/second")
    events = await client.watch(DESTINATIONS, 3, resourceVersion=version)
    told = [(event["type"], event["object"]["metadata"]["name"]) for event in events]
    assert told == [("ADDED", "second"), ("MODIFIED", "first"), ("DELETED", "second")]
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in events]
    assert int(first["metadata"]["resourceVersion"]) < versions[0] < versions[1] < versions[2]


async def test_a_watch_without_a_version_begins_with_what_is_there(client: Client) -> None:
    await client.create()
    (event,) = await client.watch(DESTINATIONS, 1)
    assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "worker-1")


async def test_a_watch_ends_with_its_own_time_out(client: Client) -> None:
    async with asyncio.timeout(5):
        assert await client.watch(DESTINATIONS, 0, resourceVersion="1", timeoutSeconds="1") == []
        parameters = {"watch": "true", "timeoutSeconds": "1"}
        async with client.session.get(client.url + DESTINATIONS, params=parameters) as answer:
            assert await answer.read() == b""


async def test_a_secrets_text_is_encoded_and_metadata_can_be_asked_for_alone(client: Client) -> None:
    path = "/api/v1/namespaces/default/secrets"
    obj = {"metadata": {"name": "s"}, "stringData": {"password": "hunter2"}}
    assert (await client.call("POST", path, obj))[0] == 201
    secret = (await client.call("GET", f"{path}/s"))[1]
    assert base64.b64decode(secret["data"]["password"]) == b"hunter2"
    accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
    listed = (await client.call("GET", "/api/v1/secrets", accept=accept))[1]
    assert [set(item) for item in listed["items"]] == [{"kind", "apiVersion", "metadata"}]
    accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
    (event,) = await client.watch("/api/v1/secrets", 1, accept=accept)
    assert set(event["object"]) == {"kind", "apiVersion", "metadata"}


async def test_a_namespace_that_is_missing_is_told(client: Client) -> None:
    status, answer = await client.call("POST", "/api/v1/namespaces/gone/secrets", {"metadata": {"name": "s"}})
    assert (status, answer["message"]) == (404, 'namespaces "gone" not found')


async def test_kubectl_gets_a_table_with_the_definitions_columns(client: Client) -> None:
    await client.create()
    accept = "application/json;as=Table;v=v1;g=meta.k8s.io"
    table = (await client.call("GET", DESTINATIONS, accept=accept))[1]
    columns = [column["name"] for column in table["columnDefinitions"]]
    assert columns == ["Name", "StateStoreKind", "StateStoreName", "Ready", "Age"]
    assert table["rows"][0]["cells"][:4] == ["worker-1", "GitStateStore", "default", ""]


async def test_kinds_are_discovered_with_their_short_names(client: Client) -> None:
    resources = (await client.call("GET", GROUP))[1]["resources"]
    found = {resource["name"]: resource for resource in resources}
    assert found["destinations"]["shortNames"] == ["dest", "dests"]
    assert {"destinations/status", "bucketstatestores", "gitstatestores", "workplacements"} <= set(found)
    groups = (await client.call("GET", "/apis"))[1]["groups"]
    assert "platform.kratix.io" in {group["name"] for group in groups}


@pytest.mark.parametrize("path", [f"{GROUP}/nothings", f"{DESTINATIONS}/a/scale", "/api/v1/pods", "/healthz"])
async def test_an_unknown_path_is_not_found(client: Client, path: str) -> None:
    status, answer = await client.call("GET", path)
    assert (status, answer["reason"]) == (404, "NotFound")


async def test_who_does_not_know_the_urls_secret_part_gets_nothing(client: Client) -> None:
    root = client.url.rpartition("/")[0]
    async with client.session.get(f"{root}{DESTINATIONS}") as answer:
        assert answer.status == 404
