"""What WorkPlacements of one Destination share: a file in mode none has one owner, mode aggregatedYAML has one file."""

import base64
import gzip
from itertools import permutations
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


def target_of(mode: str) -> Target:
    ref = {"kind": "BucketStateStore", "name": "s"}
    spec = {"stateStoreRef": ref, "path": "dev", "filepath": {"mode": mode}}
    store = BucketStateStore.parse({"metadata": {"name": "s"}, "spec": {"endpoint": "e", "bucketName": "b"}})
    return Target(Destination.parse({"metadata": {"name": "dest"}, "spec": spec}), store)


def flat(*objects: dict[str, Any]) -> Target:
    target = target_of("none")
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
    edits = [keys for _, keys in target.edits(LIMITS)]
    assert edits == [[("team", owner)]]
    assert {name for _, name in target.refused} == {"a", "b"} - {owner}
    assert all(f"team/{owner}" in str(error) for error in target.refused.values())


def aggregate(*objects: dict[str, Any], wanted: str) -> tuple[list[dict[str, bytes]], dict[str, str]]:
    """Return the files of each edit that one WorkPlacement's change makes, and why which of all are refused."""
    target = target_of("aggregatedYAML")
    for obj in objects:
        target.add((obj["metadata"]["namespace"], obj["metadata"]["name"]), obj)
    target.wanted.add(("team", wanted))
    edits = [dict(edit.files) for edit, _ in target.edits(LIMITS)]
    return edits, {name: str(error) for (_, name), error in target.refused.items()}


def bad(obj: dict[str, Any], **metadata: str) -> dict[str, Any]:
    spec = {**obj["spec"], "workloads": [{"filepath": "a.yaml", "content": "%%%"}]}
    return {**obj, "spec": spec, "metadata": {**obj["metadata"], **metadata}}


def unreadable(obj: dict[str, Any], **metadata: str) -> dict[str, Any]:
    return {**obj, "spec": {**obj["spec"], "workloads": "none"}, "metadata": {**obj["metadata"], **metadata}}


@pytest.mark.parametrize("breaking", [bad, unreadable])
def test_the_one_file_of_all_stays_while_a_placement_whose_documents_are_in_it_cannot_be_read(breaking: Any) -> None:
    a, b = placement("a", FIRST, written=True), placement("b", FIRST, written=True)
    edits, refused = aggregate(a, breaking(b), wanted="a")
    assert edits == [], "the file without b's last good documents"
    assert "'aggregated.yaml' is left as it is" in refused["a"]
    assert "WorkPlacement team/b" in refused["a"]
    assert "mend or delete that one" in refused["a"]
    edits, refused = aggregate(a, breaking(b), wanted="b")
    assert edits == []
    assert "left as it is" not in refused["b"], "its own words"
    leaving = {**a, "metadata": {**a["metadata"], "deletionTimestamp": LATER}}
    edits, refused = aggregate(leaving, breaking(b), wanted="a")
    assert (edits, set(refused)) == ([], {"a", "b"}), "who leaves waits, too"
    edits, refused = aggregate(a, breaking(b, deletionTimestamp=LATER), wanted="a")
    assert (edits, refused.get("a")) == ([{"dev/aggregated.yaml": b"a"}], None), "who is deleted is in nobody's way"
    edits, refused = aggregate(a, breaking(placement("b", FIRST, written=False)), wanted="a")
    assert (edits, refused.get("a")) == ([{"dev/aggregated.yaml": b"a"}], None), "who never was in the file, too"


def test_the_one_file_of_all_has_one_order_whoever_of_equal_names_comes_first() -> None:
    objects = []
    for namespace in ("x", "team", "n"):
        obj = placement("w", FIRST, written=True)
        content = base64.b64encode(gzip.compress(namespace.encode())).decode()
        spec = {"targetDestinationName": "dest", "workloads": [{"filepath": "a.yaml", "content": content}]}
        objects.append({**obj, "spec": spec, "metadata": {**obj["metadata"], "namespace": namespace, "uid": namespace}})
    for order in permutations(objects):
        assert aggregate(*order, wanted="w")[0] == [{"dev/aggregated.yaml": b"n\n---\nteam\n---\nx"}]


def test_the_one_file_of_all_takes_no_more_than_there_is_memory_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.reconcile.placing.ROOM_BYTES", 4)
    old, new = [placement(name, FIRST, written=True) for name in ("aa", "bb")], placement("cc", LATER, written=False)
    edits, refused = aggregate(*old, new, wanted="aa")
    assert edits == [{"dev/aggregated.yaml": b"aa\n---\nbb"}]
    assert refused == {"cc": "with it 'aggregated.yaml' holds over 4 bytes: use one more Destination"}
