"""What is looked at: by a resync nothing twice and nothing left out, and after a State Store all that looked for it."""

from typing import Any

import pytest

from shared.reconcile.changes import decide_everything
from shared.reconcile.view import View
from shared.settings import Settings
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
    view = View(
        "north",
        {("", name): destination(name, store) for name, store in (("worker-1", "default"), ("storeless", "gone"))},
        {("BucketStateStore", "", "default"): {"kind": "BucketStateStore", "metadata": {"name": "default"}}},
    )
    outgoing = decide_everything(view, [obj], frozenset({"tick"}), Settings())
    documents = [str(item.message) for item in outgoing if item.queue == "documents"]
    assert ("WorkPlacement/default/w" in documents) is sent
    assert ("BucketStateStore/default" in documents) is (obj["metadata"]["labels"][DESTINATION_LABEL] == "worker-1")


@pytest.mark.parametrize(
    ("stores", "followed"),
    [
        pytest.param([], ["team", ""], id="where none is left, it may have been either"),
        pytest.param(["team"], ["team"], id="its namespace's"),
        pytest.param([""], ["team", ""], id="the cluster's, and one of its namespace may just have gone"),
        pytest.param(["team", ""], ["team"], id="its namespace's before the cluster's"),
    ],
)
def test_a_namespaced_destination_follows_the_store_that_it_has_and_one_that_is_gone(
    stores: list[str], followed: list[str]
) -> None:
    obj = destination("worker-1", "default")
    obj["metadata"]["namespace"] = "team"
    kind = "BucketStateStore"
    view = View("north", {("team", "worker-1"): obj}, {(kind, namespace, "default"): {} for namespace in stores})
    found = [namespace for namespace in ("team", "", "other") if view.destinations_of((kind, namespace, "default"))]
    assert found == followed
