"""Our CustomResourceDefinitions on a real API server, and the embedded API beside it."""

from collections.abc import Iterator
from typing import Any

import pytest

from infra.local.embedded.kubernetes.schema import problems, read_crds, read_kinds, shape
from tests.conftest import CRDS
from tests.servers.kubernetes import KubernetesApi

GROUP = "/apis/platform.kratix.io/v1alpha1"
KINDS = {kind.kind: kind for kind in read_kinds(read_crds(CRDS))}


@pytest.fixture
def collection(cluster: KubernetesApi) -> Iterator[str]:
    path = f"{GROUP}/destinations"
    yield path
    cluster.call("DELETE", f"{path}?labelSelector=test")


def destination(name: str, **spec: Any) -> dict[str, Any]:
    spec = {"stateStoreRef": {"name": "default", "kind": "GitStateStore"}, **spec}
    metadata = {"name": name, "labels": {"test": ""}}
    return {
        "apiVersion": "platform.kratix.io/v1alpha1",
        "kind": "Destination",
        "metadata": metadata,
        "spec": {name: value for name, value in spec.items() if value is not None},
    }


SPECS = [
    pytest.param({}, True, id="nothing but the store"),
    pytest.param({"path": "/"}, True, id="the root"),
    pytest.param({"filepath": {"filename": "all.yaml"}}, True, id="a file name without a mode"),
    pytest.param({"filepath": {"mode": "aggregatedYAML"}}, True, id="one file"),
    pytest.param({"initWorkloads": {}}, True, id="initWorkloads without a word"),
    pytest.param({"unknown": 1}, True, id="an unknown field"),
    pytest.param({"stateStoreRef": None}, False, id="no store"),
    pytest.param({"stateStoreRef": {"name": "default"}}, False, id="a store without its kind"),
    pytest.param({"stateStoreRef": {"name": "x", "kind": "Tape"}}, False, id="an unknown kind of store"),
    pytest.param({"filepath": {"mode": "flat"}}, False, id="an unknown mode"),
    pytest.param({"cleanup": "some"}, False, id="an unknown cleanup"),
    pytest.param({"strictMatchLabels": "yes"}, False, id="a string for a boolean"),
]


@pytest.mark.parametrize(("spec", "accepted"), SPECS)
def test_a_destination_is_accepted_defaulted_and_refused_alike_by_both_apis(
    cluster: KubernetesApi, collection: str, spec: dict[str, Any], accepted: bool
) -> None:
    obj = destination("alike", **spec)
    answer = cluster.request("POST", collection, obj)
    assert (answer.status == 201) == accepted, answer
    embedded = shape(obj, KINDS["Destination"])
    found = problems(embedded, None, KINDS["Destination"])
    assert bool(found) != accepted, found
    if accepted:
        assert embedded["spec"] == answer.json()["spec"]
    else:
        assert all(field.partition(":")[0] in answer.json()["message"] for field in found)


def test_the_filepath_mode_is_immutable_even_where_it_was_left_out(cluster: KubernetesApi, collection: str) -> None:
    cluster.call("POST", collection, destination("fixed"))
    patch = {"spec": {"filepath": {"mode": "none"}}}
    answer = cluster.request("PATCH", f"{collection}/fixed", patch, content_type="application/merge-patch+json")
    assert answer.status == 422
    assert "filepath.mode is immutable" in answer.json()["message"]


@pytest.mark.parametrize(
    ("kind", "spec", "defaults"),
    [
        (
            "BucketStateStore",
            {"endpoint": "s3.example", "bucketName": "b", "secretRef": {"name": "s"}},
            {"authMethod": "accessKey"},
        ),
        (
            "GitStateStore",
            {"url": "https://git.example/r", "secretRef": {"name": "s"}},
            {"authMethod": "basicAuth", "branch": "main", "gitAuthor": {"name": "kratix"}},
        ),
    ],
)
def test_a_state_store_gets_its_defaults_and_a_status_of_its_own(
    cluster: KubernetesApi, kind: str, spec: dict[str, Any], defaults: dict[str, Any]
) -> None:
    path = f"{GROUP}/{kind.lower()}s"
    obj = {"apiVersion": "platform.kratix.io/v1alpha1", "kind": kind, "metadata": {"name": "defaults"}, "spec": spec}
    created = cluster.call("POST", path, obj)
    try:
        assert created["spec"] == {**spec, **defaults} == shape(obj, KINDS[kind])["spec"]
        condition = {
            "type": "Ready",
            "status": "True",
            "reason": "StateStoreReady",
            "message": "State store is ready",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
            "observedGeneration": 1,
        }
        status = {"status": "Ready", "observedGeneration": 1, "conditions": [condition]}
        merge = "application/merge-patch+json"
        patched = cluster.call("PATCH", f"{path}/defaults/status", {"status": status}, content_type=merge)
        assert patched["status"] == status
    finally:
        cluster.call("DELETE", f"{path}/defaults")


def test_works_and_workplacements_of_kratix_are_kept_whole(cluster: KubernetesApi) -> None:
    workload = {"filepath": "a.yaml", "content": "H4sI"}
    group = {
        "id": "5058f1af8388633f609cadb75a75dc9d",
        "directory": ".",
        "destinationSelectors": [{"matchLabels": {"environment": "dev"}, "source": "promise"}],
        "workloads": [workload],
    }
    specs = {
        "works": {"promiseName": "redis", "resourceName": "db", "workloadGroups": [group]},
        "workplacements": {
            "targetDestinationName": "worker-1",
            "promiseName": "redis",
            "resourceName": "db",
            "id": group["id"],
            "generation": 3,
            "workloads": [workload],
        },
    }
    for plural, spec in specs.items():
        kind = next(kind for kind in KINDS.values() if kind.plural == plural)
        obj = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": {"name": "whole"}, "spec": spec}
        path = f"{GROUP}/namespaces/default/{plural}"
        try:
            assert cluster.call("POST", path, obj)["spec"] == spec
        finally:
            cluster.call("DELETE", f"{path}/whole")
