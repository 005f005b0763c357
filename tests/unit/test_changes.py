"""What is looked at: by a resync nothing twice and nothing left out, and after a State Store all that looked for it."""

from typing import Any

import pytest

from shared.messages import Reference
from shared.reconcile.readiness import Unready
from shared.reconcile.resync import _Everything
from shared.reconcile.view import View
from shared.works import DESTINATION_LABEL, REPO_FINALIZER

DELETED = {"deletionTimestamp": "2026-01-01T00:00:00Z"}


def destination(name: str, store: str) -> dict[str, Any]:
    ref = {"kind": "BucketStateStore", "name": store}
    return {"kind": "Destination", "metadata": {"name": name, "uid": name}, "spec": {"stateStoreRef": ref}}


def placement(name: str, target: str, **metadata: Any) -> dict[str, Any]:
    own = {"name": name, "namespace": "default", "labels": {DESTINATION_LABEL: target}, "finalizers": [REPO_FINALIZER]}
    return {"kind": "WorkPlacement", "metadata": own | metadata}


@pytest.mark.parametrize(
    ("obj", "sent"),
    [
        pytest.param(placement("w", "storeless", **DELETED), True, id="deleted, and its Destination has no store"),
        pytest.param(placement("w", "nobody"), True, id="without a Destination"),
        pytest.param(placement("w", "nobody", **DELETED), True, id="deleted, and without a Destination"),
        pytest.param(placement("w", "storeless"), False, id="alive, and its Destination has no store"),
        pytest.param(placement("w", "worker-1", **DELETED), False, id="deleted, and its store's message means it"),
        pytest.param(placement("w", "worker-1"), False, id="alive, and its store's message means it"),
        pytest.param(placement("w", "nobody", finalizers=[]), False, id="held by nobody"),
    ],
)
def test_a_workplacement_that_waits_to_be_let_go_is_looked_at_by_every_resync(obj: dict[str, Any], sent: bool) -> None:
    everything = everything_of(("worker-1", "default"), ("storeless", "gone"))
    everything._take_placement(obj)
    outgoing = list(everything.outgoing(frozenset({"tick"})))
    documents = [str(item.message) for item in outgoing if item.queue == "documents"]
    assert ("WorkPlacement/default/w" in documents) is sent
    assert ("Destination/worker-1" in documents) is (obj["metadata"]["labels"][DESTINATION_LABEL] == "worker-1")


def everything_of(*destinations: tuple[str, str]) -> _Everything:
    """What a resync finds in a cluster with one State Store, `default`."""
    spec = {"endpoint": "s3.example.com", "bucketName": "b"}
    store = {"kind": "BucketStateStore", "metadata": {"name": "default"}, "spec": spec}
    view = View("north", stores={("BucketStateStore", "", "default"): store})
    everything = _Everything(view, Unready("north", 0))
    for name, of in destinations:
        everything._take(("", name), destination(name, of))
    return everything


def test_a_resync_sends_some_hundred_destinations_in_one_message_and_each_state_store_by_itself() -> None:
    everything = everything_of(*((f"w{number:04}", "default") for number in range(1000)), ("storeless", "gone"))
    outgoing = [item.message for item in everything.outgoing(frozenset({"tick"})) if item.queue == "canary"]
    references = [message for message in outgoing if isinstance(message, Reference)]
    stores = [r for r in references if r.kind == "BucketStateStore"]
    assert [(r.name, r.alone) for r in stores] == [("default", True)], "its Destinations come by themselves"
    parts = [r for r in references if r.kind == "Destination"]
    assert sorted(1 + len(r.names) for r in parts) == [1, 250, 250, 250, 250]
    named = [each.name for part in parts for each in part.each()]
    assert sorted(named) == sorted([*(f"w{number:04}" for number in range(1000)), "storeless"])
    assert max(len(part.encode()) for part in parts) < 8192


@pytest.mark.parametrize(
    ("namespaced", "followed"),
    [
        pytest.param([], "", id="State Stores without a namespace"),
        pytest.param(["BucketStateStore"], "team", id="State Stores with one"),
        pytest.param(["GitStateStore"], "", id="State Stores of the other kind with one"),
    ],
)
def test_a_namespaced_destination_follows_a_state_store_of_its_namespace_where_those_have_one(
    namespaced: list[str], followed: str
) -> None:
    obj = destination("worker-1", "default")
    obj["metadata"]["namespace"] = "team"
    view = View("north", {("team", "worker-1"): obj}, namespaced=frozenset(namespaced))
    assert view.store_key(obj) == ("BucketStateStore", followed, "default")
