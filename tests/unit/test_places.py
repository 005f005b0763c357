"""A place that two WorkPlacements have - a directory, a state file - is the older one's.

See docs/failure-modes.md#39-colliding-names, #53-shared-directories.
"""

import base64
import gzip
from collections.abc import Iterable
from typing import Any

import pytest

from shared import documents
from shared.documents import Limits, state_file
from shared.plan import Edit
from shared.reconcile.directories import directory_label
from shared.reconcile.placing import Target
from shared.resources import BucketStateStore, Destination
from shared.works import WorkPlacement

LIMITS = Limits(files=10, file_bytes=1000, placement_bytes=1000)
MOMENTS = [f"2026-01-01T00:00:0{second}Z" for second in range(5)]


def placement(name: str, age: int, *, namespace: str = "team", file: str = "", **changes: Any) -> dict[str, Any]:
    """A WorkPlacement of a directory that all have in mode nestedByMetadata, with a document of its own name."""
    content = base64.b64encode(gzip.compress(name.encode())).decode()
    workloads = changes.get("workloads", [{"filepath": file or f"{name}.yaml", "content": content}])
    metadata = {"name": name, "namespace": namespace, "uid": f"{namespace}/{name}", "creationTimestamp": MOMENTS[age]}
    if changes.get("leaving"):
        metadata["deletionTimestamp"] = MOMENTS[-1]
    return {
        "kind": "WorkPlacement",
        "metadata": metadata,
        "spec": {"targetDestinationName": "dest", "promiseName": "p", "id": "5058f", "workloads": workloads},
        "status": {"versionID": "1"} if changes.get("written") else {},
    }


def edits(
    mode: str, *objects: dict[str, Any], wanted: Iterable[str], records: dict[str, bytes] | None = None
) -> tuple[list[tuple[set[str], set[str], set[str], list[str]]], dict[str, str]]:
    """Return each edit as its files, what it prunes, what it removes and whom it is for; and why who is refused."""
    spec = {"stateStoreRef": {"kind": "BucketStateStore", "name": "s"}, "path": "dev", "filepath": {"mode": mode}}
    store = BucketStateStore.parse({"metadata": {"name": "s"}, "spec": {"endpoint": "e", "bucketName": "b"}})
    target = Target(Destination.parse({"metadata": {"name": "dest"}, "spec": spec}), store)
    target.records = records or {}
    for obj in objects:
        key = (obj["metadata"]["namespace"], obj["metadata"]["name"])
        target.add(key, obj)
        if key[1] in wanted:
            target.wanted.add(key)
    found = [
        (set(edit.files), set(edit.prune), set(edit.remove), [name for _, name in keys])
        for edit, keys in target.edits(LIMITS)
    ]
    return found, {name: str(error) for (_, name), error in target.refused.items()}


DIRECTORY = "dev/dependencies/p/5058f"


@pytest.mark.parametrize("wanted", ["a", "b", "ab"])
def test_of_two_that_share_a_directory_the_older_one_is_written_and_the_other_refused(wanted: str) -> None:
    found, refused = edits("nestedByMetadata", placement("b", 0), placement("a", 1), wanted=wanted)
    assert found == ([({f"{DIRECTORY}/b.yaml"}, {DIRECTORY}, set(), ["b"])] if "b" in wanted else [])
    assert refused.keys() == ({"a"} if "a" in wanted else set())
    if "a" in wanted:
        assert (
            f"the directory {DIRECTORY!r} is wanted by WorkPlacement team/a and by WorkPlacement team/b" in refused["a"]
        )


def test_where_the_older_one_leaves_the_next_is_written_in_the_same_edit() -> None:
    both = placement("b", 0, leaving=True), placement("a", 1)
    for wanted in ("ab", "b"):
        found, refused = edits("nestedByMetadata", *both, placement("c", 2), wanted=wanted)
        assert found == [({f"{DIRECTORY}/a.yaml"}, {DIRECTORY}, set(), [*"ba"] if "a" in wanted else ["b"])]
        assert refused == {}


def test_where_a_refused_one_leaves_nothing_is_touched() -> None:
    found, refused = edits("nestedByMetadata", placement("b", 0), placement("a", 1, leaving=True), wanted="a")
    assert found == [(set(), set(), set(), ["a"])]
    assert refused == {}


def test_where_all_leave_the_directory_goes() -> None:
    both = placement("b", 0, leaving=True), placement("a", 1, leaving=True)
    found, refused = edits("nestedByMetadata", *both, wanted="ab")
    assert found == [(set(), {DIRECTORY}, set(), ["b", "a"])]
    assert refused == {}


@pytest.mark.parametrize(
    ("written", "prunes"),
    [pytest.param(False, {DIRECTORY}, id="never written"), pytest.param(True, set(), id="written")],
)
def test_where_the_next_cannot_be_written_the_older_one_goes_all_the_same(written: bool, prunes: set[str]) -> None:
    broken = placement("a", 1, written=written, workloads=[{"filepath": "a.yaml", "content": "%%%"}])
    found, refused = edits("nestedByMetadata", placement("b", 0, leaving=True), broken, wanted="ab")
    assert found == [(set(), prunes, set(), ["b"])], "the last good documents of the next one stay"
    assert refused.keys() == {"a"}


STATE = "dev/.kratix/team-a-redis.yaml"
ALIKE = {"namespace": "team", "name": "a-redis"}, {"namespace": "team-a", "name": "redis"}


@pytest.mark.parametrize("wanted", [["a-redis"], ["redis"], ["a-redis", "redis"]], ids=" ".join)
def test_of_two_with_one_state_file_the_older_one_is_written_and_the_other_refused(wanted: list[str]) -> None:
    old, new = placement(age=0, **ALIKE[0]), placement(age=1, **ALIKE[1])
    found, refused = edits("none", new, old, wanted=wanted)
    assert found == ([({"dev/a-redis.yaml", STATE}, set(), set(), ["a-redis"])] if "a-redis" in wanted else [])
    assert refused.keys() == ({"redis"} & set(wanted))
    if refused:
        assert "WorkPlacement team-a/redis and by WorkPlacement team/a-redis, which has it" in refused["redis"]


def test_a_state_file_is_taken_over_with_all_that_it_names() -> None:
    old, new = placement(age=0, leaving=True, **ALIKE[0]), placement(age=1, **ALIKE[1])
    spec = {"stateStoreRef": {"kind": "BucketStateStore", "name": "s"}, "path": "dev"}
    record = state_file(Destination.parse({"metadata": {"name": "dest"}, "spec": spec}), ["a-redis.yaml"])
    found, _ = edits("none", old, new, wanted=["a-redis", "redis"], records={STATE: record})
    assert found == [({"dev/redis.yaml", STATE}, set(), {"dev/a-redis.yaml"}, ["a-redis", "redis"])]


def test_names_that_do_not_collide_have_state_files_of_their_own() -> None:
    found, refused = edits("none", placement("a", 0), placement("b", 1), wanted="ab")
    assert [keys for *_, keys in found] == [["a"], ["b"]]
    assert refused == {}


def label(**changes: Any) -> str:
    obj = placement("w", 0)
    spec = {**obj["spec"], **{name: value for name, value in changes.items() if name not in {"pipeline", "namespace"}}}
    labels = {"kratix.io/pipeline-name": changes.get("pipeline", "")}
    metadata = {**obj["metadata"], "labels": labels, "namespace": changes.get("namespace", "team")}
    return directory_label(WorkPlacement.parse({**obj, "metadata": metadata, "spec": spec}))


def test_a_directory_label_is_the_directorys_and_the_destinations() -> None:
    here = label()
    assert label(id="5058f1af8388633f", namespace="other") == here, "the same directory"
    assert label(promiseName="p", id="", pipeline="5058f") == here, "told by other fields"
    others = [
        label(targetDestinationName="other"),
        label(promiseName="q"),
        label(id="50590"),
        label(pipeline="x"),
        label(resourceName="r"),
        label(resourceName="r", namespace="other"),
    ]
    assert len({here, *others}) == 7
    assert label(promiseName="a/b") == "", "it has no directory"
    assert all(len(value) <= 63 for value in others)


def test_mode_none_looks_for_each_document_at_its_own_paths_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: what each of many WorkPlacements is told of the others' files.

    See docs/failure-modes.md#45-hostile-state-files.
    """
    told: list[int] = []
    flat_edit = documents.flat_edit

    def counting(*args: Any, **kwargs: Any) -> Edit:
        told.append(len(kwargs["others"]))
        return flat_edit(*args, **kwargs)

    monkeypatch.setattr(documents, "flat_edit", counting)
    names = [f"w{number}" for number in range(200)]
    found, refused = edits("none", *(placement(name, 0) for name in names), wanted=names)
    assert (len(found), refused) == (200, {})
    assert told == [0] * 200
