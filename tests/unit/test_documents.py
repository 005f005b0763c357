"""Contents, directories, records and edits of the three modes (docs/contract.md#paths, #documents, #refusals)."""

import base64
import gzip
import tracemalloc
from typing import Any

import pytest
import yaml

from shared import documents
from shared.documents import Limits
from shared.errors import InvalidObject, LandfallError, PathConflict
from shared.plan import Edit
from shared.resources import Destination
from shared.works import WorkPlacement

LIMITS = Limits(files=3, file_bytes=1000, placement_bytes=1500)


def packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content)).decode()


def placement(*files: tuple[str, str], deleted: bool = False, pipeline: str = "", **spec: Any) -> WorkPlacement:
    metadata: dict[str, Any] = {"name": "work.dest-abcde", "namespace": "team", "uid": "u"}
    metadata["labels"] = {"kratix.io/pipeline-name": pipeline} if pipeline else {}
    if deleted:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return WorkPlacement.parse(
        {
            "kind": "WorkPlacement",
            "metadata": metadata,
            "spec": {
                "targetDestinationName": "dest",
                "promiseName": "redis",
                "id": "abcdef0123",
                "workloads": [{"filepath": path, "content": content} for path, content in files],
                **spec,
            },
        }
    )


def destination(path: str = "dev", **filepath: str) -> Destination:
    ref = {"kind": "BucketStateStore", "name": "default"}
    return Destination.parse(
        {"metadata": {"name": "dest"}, "spec": {"stateStoreRef": ref, "path": path, "filepath": filepath}}
    )


def test_canaries_are_the_yaml_of_the_objects_that_kratix_marshals() -> None:
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kratix-worker-system"}}
    config_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "kratix-info", "namespace": "kratix-worker-system"},
        "data": {"canary": "this confirms your infrastructure is reading from Kratix state stores"},
    }
    wide = 2**16
    assert yaml.safe_dump({**namespace, "spec": {}, "status": {}}, width=wide).encode() == documents.CANARY_NAMESPACE
    assert yaml.safe_dump(config_map, width=wide).encode() == documents.CANARY_CONFIGMAP


def test_a_content_is_inflated() -> None:
    assert documents.inflate(packed(b"hello"), 5, "x") == b"hello"
    assert documents.inflate(packed(b""), 5, "x") == b""
    joined = base64.b64encode(gzip.compress(b"a") + gzip.compress(b"b")).decode()
    assert documents.inflate(joined, 5, "x") == b"ab"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param("not base64!", "not base64", id="no base64"),
        pytest.param(base64.b64encode(b"plain").decode(), "not gzip", id="no gzip"),
        pytest.param(base64.b64encode(gzip.compress(b"x" * 100)[:-10]).decode(), "cut off", id="cut off"),
        pytest.param(packed(b"x" * 1001), "over 1000 bytes", id="one byte too many"),
        pytest.param(packed(b"\0" * 50_000_000), "over 1000 bytes", id="a bomb"),
    ],
)
def test_a_content_that_cannot_be_read_is_refused_by_name(content: str, words: str) -> None:
    with pytest.raises(InvalidObject, match=words) as refusal:
        documents.inflate(content, 1000, "'a.yaml'")
    assert "'a.yaml'" in str(refusal.value)


def test_a_bomb_never_is_in_memory_whole() -> None:
    bomb = packed(b"\0" * 200_000_000)
    tracemalloc.start()
    with pytest.raises(InvalidObject):
        documents.inflate(bomb, 1_000_000, "x")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10_000_000


@pytest.mark.parametrize(
    ("files", "words"),
    [
        pytest.param([("../x", packed(b""))], r"workloads\[0\].filepath '../x' contains '..'", id="escapes"),
        pytest.param([("/x", packed(b""))], "absolute", id="absolute"),
        pytest.param([("", packed(b""))], "names no file", id="empty"),
        pytest.param([("a/.GIT/x", packed(b""))], "Git's own", id=".git"),
        pytest.param([("a", packed(b"")), ("./a", packed(b""))], "twice", id="twice"),
        pytest.param([(f"{n}", packed(b"")) for n in range(4)], "4 documents, over 3", id="too many"),
        pytest.param([("a", packed(b"x" * 900)), ("b", packed(b"x" * 900))], "over 600 bytes", id="too much together"),
    ],
)
def test_a_bad_document_refuses_its_placement(files: list[tuple[str, str]], words: str) -> None:
    with pytest.raises(InvalidObject, match=words):
        documents.documents(placement(*files), LIMITS)


@pytest.mark.parametrize(
    ("changes", "directory"),
    [
        ({}, "root/dependencies/redis/abcde"),
        ({"pipeline": "configure"}, "root/dependencies/redis/configure/abcde"),
        ({"resourceName": "mine"}, "root/resources/team/redis/mine/abcde"),
        ({"resourceName": "mine", "pipeline": "p"}, "root/resources/team/redis/mine/p/abcde"),
        ({"id": ""}, "root/dependencies/redis"),
        ({"promiseName": ""}, "root/dependencies/abcde"),
        ({"resourceName": "mine", "promiseName": "", "id": "abc"}, "root/resources/team/mine/abc"),
    ],
    ids=str,
)
def test_a_placement_has_a_directory_of_its_own(changes: dict[str, Any], directory: str) -> None:
    assert documents.placement_directory("root", placement(**changes)) == directory


@pytest.mark.parametrize(
    "changes",
    [
        {"promiseName": "", "id": ""},
        {"promiseName": "a/b"},
        {"promiseName": ".."},
        {"id": "../.."},
        {"pipeline": ".git"},
    ],
    ids=str,
)
def test_a_placement_whose_directory_would_be_anothers_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidObject):
        documents.placement_directory("root", placement(**changes))


def test_a_nested_edit_owns_its_directory_and_a_deleted_one_empties_it() -> None:
    edit = documents.nested_edit("id", placement(), "root", {"a.yaml": b"a"})
    assert dict(edit.files) == {"root/dependencies/redis/abcde/a.yaml": b"a"}
    assert edit.prune == {"root/dependencies/redis/abcde"}
    gone = documents.nested_edit("id", placement(deleted=True), "root", {})
    assert not gone.files
    assert gone.prune == {"root/dependencies/redis/abcde"}


@pytest.mark.parametrize(
    ("path", "record"),
    [
        ("dev", ["dev/b.yaml", "dev/a/c.yaml"]),
        ("/", ["/b.yaml", "/a/c.yaml"]),
        ("/dev//x/", ["/dev/x/b.yaml", "/dev/x/a/c.yaml"]),
        ("", ["dest/b.yaml", "dest/a/c.yaml"]),
    ],
    ids=str,
)
def test_a_record_names_its_files_as_kratix_does_and_is_read_back(path: str, record: list[str]) -> None:
    content = documents.state_file(destination(path), ["b.yaml", "a/c.yaml"])
    assert yaml.safe_load(content)["files"] == record
    assert documents.recorded_files(content, destination(path)) == {"b.yaml", "a/c.yaml"}


def test_a_record_without_the_path_is_read_too() -> None:
    assert documents.recorded_files(b"files:\n- b.yaml\n- dev/c.yaml\n", destination("dev")) == {"b.yaml", "c.yaml"}
    assert documents.recorded_files(None, destination()) == set()
    assert documents.recorded_files(b"", destination()) == set()


@pytest.mark.parametrize(
    "content", [b"files: 7", b"[", b"- a", b"files:\n- ../../x", b"files: [[a]]", b"\x00\x01"], ids=repr
)
def test_a_broken_record_deletes_nothing(content: bytes) -> None:
    with pytest.raises(LandfallError):
        documents.recorded_files(content, destination())


def flat(**changes: Any) -> Edit:
    given: dict[str, Any] = {"files": {"new.yaml": b"n"}, "recorded": set(), "others": {}, **changes}
    which = given.pop("placement", placement())
    return documents.flat_edit("id", which, destination(), "root", **given)


def test_a_flat_edit_removes_what_the_last_record_names_and_the_spec_does_not() -> None:
    edit = flat(
        recorded={"old.yaml", "new.yaml", "theirs.yaml", "kratix-canary-namespace.yaml"}, others={"theirs.yaml": "x"}
    )
    assert set(edit.files) == {"root/new.yaml", "root/.kratix/team-work.dest-abcde.yaml"}
    assert edit.remove == {"root/old.yaml"}


def test_a_flat_deletion_removes_what_is_recorded_and_the_record() -> None:
    edit = flat(
        placement=placement(deleted=True), files={}, recorded={"a.yaml", "theirs.yaml"}, others={"theirs.yaml": "x"}
    )
    assert not edit.files
    assert edit.remove == {"root/a.yaml", "root/.kratix/team-work.dest-abcde.yaml"}
    assert (edit.record, edit.interim) == ("root/.kratix/team-work.dest-abcde.yaml", b""), "it names all that goes"


@pytest.mark.parametrize(
    ("recorded", "meanwhile"),
    [
        pytest.param(set(), ["dev/new.yaml"], id="the first write"),
        pytest.param({"new.yaml"}, None, id="the same files"),
        pytest.param({"new.yaml", "old.yaml"}, None, id="fewer files"),
        pytest.param({"b.yaml", "a.yaml"}, ["dev/new.yaml", "dev/a.yaml", "dev/b.yaml"], id="other files"),
    ],
)
def test_a_record_names_meanwhile_what_comes_and_what_goes(recorded: set[str], meanwhile: list[str] | None) -> None:
    edit = flat(recorded=recorded)
    assert edit.record == "root/.kratix/team-work.dest-abcde.yaml"
    assert yaml.safe_load(edit.files[edit.record])["files"] == ["dev/new.yaml"]
    assert yaml.safe_load(edit.interim or b"files:")["files"] == meanwhile


@pytest.mark.parametrize(
    ("found", "stays"),
    [
        pytest.param(b"files:\n- dev/new.yaml\n", True, id="as Kratix writes it"),
        pytest.param(b"files: ['dev/new.yaml'] # mine\n", True, id="as a person writes it"),
        pytest.param(b"files:\n- new.yaml\n", False, id="without the path, so that Kratix would not find it"),
        pytest.param(b"files:\n- dev/new.yaml\n- dev/new.yaml\n", False, id="one file twice"),
        pytest.param(b"files:\n- dev/old.yaml\n", False, id="other files"),
        pytest.param(b"", False, id="empty"),
        pytest.param(None, False, id="none"),
    ],
)
def test_a_state_file_in_another_form_stays_while_it_names_the_same(found: bytes | None, stays: bool) -> None:
    edit = flat(recorded=documents.recorded_files(found, destination()), found=found)
    assert edit.same == (found if stays else b"")
    assert not flat(recorded={"new.yaml"}, found=edit.files[edit.record]).same, "there is no other form"


def test_a_file_of_another_placement_is_refused_with_both_names() -> None:
    with pytest.raises(PathConflict, match=r"'new.yaml'.*team/work.dest-abcde.*the other") as refusal:
        flat(others={"new.yaml": "the other"})
    assert "rename" in str(refusal.value)


@pytest.mark.parametrize("path", ["kratix-canary-namespace.yaml", ".kratix/x.yaml", ".kratix"])
def test_a_file_of_the_systems_own_is_refused(path: str) -> None:
    with pytest.raises(InvalidObject, match="system's own"):
        flat(files={path: b""})


def test_an_aggregate_joins_contents_and_goes_with_the_last() -> None:
    edit = documents.aggregated_edit("id", destination(mode="aggregatedYAML"), "root", [b"a", b"b"])
    assert dict(edit.files) == {"root/aggregated.yaml": b"a\n---\nb"}
    gone = documents.aggregated_edit("id", destination(mode="aggregatedYAML", filename="all.yaml"), "root", [])
    assert not gone.files
    assert gone.remove == {"root/all.yaml"}
