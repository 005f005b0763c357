"""Whose file it is, where several WorkPlacements of one Destination name it (spec section 6, mode none)."""

import base64
import gzip
from dataclasses import replace
from typing import Any

import pytest

from shared.documents import Limits
from shared.reconcile.placing import Target
from shared.resources import BucketStateStore, Destination

LIMITS = Limits(files=10, file_bytes=1000, placement_bytes=1000)
FIRST, LATER = "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"


def placement(name: str, created: str, *, written: bool) -> dict[str, Any]:
    content = base64.b64encode(gzip.compress(name.encode())).decode()
    return {
        "kind": "WorkPlacement",
        "metadata": {"name": name, "namespace": "team", "uid": name, "creationTimestamp": created},
        "spec": {"targetDestinationName": "dest", "workloads": [{"filepath": "a.yaml", "content": content}]},
        "status": {"versionID": "1"} if written else {},
    }


def flat(*objects: dict[str, Any]) -> Target:
    ref = {"kind": "BucketStateStore", "name": "s"}
    spec = {"stateStoreRef": ref, "path": "dev", "filepath": {"mode": "none"}}
    store = BucketStateStore.parse({"metadata": {"name": "s"}, "spec": {"endpoint": "e", "bucketName": "b"}})
    target = Target(Destination.parse({"metadata": {"name": "dest"}, "spec": spec}), store)
    for obj in objects:
        key = ("team", obj["metadata"]["name"])
        target.add(key, obj)
        target.wanted.add(key)
    return target


@pytest.mark.parametrize(
    ("objects", "owner"),
    [
        pytest.param([("b", FIRST, False), ("a", LATER, False)], "b", id="the oldest"),
        pytest.param([("b", FIRST, False), ("a", LATER, True)], "b", id="the oldest, though a later one was written"),
        pytest.param([("b", FIRST, True), ("a", FIRST, False)], "b", id="of one second, the one that was written"),
        pytest.param([("b", FIRST, False), ("a", FIRST, False)], "a", id="of one second, by name"),
        pytest.param([("b", FIRST, True), ("a", FIRST, True)], "a", id="both written in one second, by name"),
    ],
)
def test_a_file_is_one_workplacements(objects: list[tuple[str, str, bool]], owner: str) -> None:
    target = flat(*(placement(name, created, written=written) for name, created, written in objects))
    edits = [keys for _, keys in target.edits(LIMITS, [])]
    assert edits == [[("team", owner)]]
    assert {name for _, name in target.refused} == {"a", "b"} - {owner}
    assert all(f"team/{owner}" in str(error) for error in target.refused.values())


def test_an_edit_around_another_destinations_directory_keeps_that_and_is_otherwise_the_same() -> None:
    ((alone, _),) = flat(placement("a", FIRST, written=False)).edits(LIMITS, [])
    ((around, _),) = flat(placement("a", FIRST, written=False)).edits(LIMITS, ["dev", "dev/inner", "other"])
    assert around.keep == {"dev/inner"}
    assert replace(around, keep=frozenset()) == alone
    assert around.record in around.files
