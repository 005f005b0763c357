"""Trees as an `Existing`, and new trees from old ones: compared with a plain dictionary of files."""

import hashlib
import stat
from collections.abc import Mapping

import pytest
from dulwich.objects import Blob, ObjectID, Tree
from hypothesis import given
from hypothesis import strategies as st

from shared.plan import Edit, Found, compute
from shared.writers.git.trees import MissingObject, Trees, build, digest

Entry = tuple[int, bytes]


def trees_of(files: Mapping[str, Entry]) -> tuple[ObjectID | None, dict[bytes, bytes]]:
    """Make trees with dulwich's own means, directory by directory."""
    raw: dict[bytes, bytes] = {}

    def make(prefix: str) -> ObjectID:
        tree, below = Tree(), set()
        for path, (mode, content) in files.items():
            if path.startswith(prefix):
                name, deeper, _ = path[len(prefix) :].partition("/")
                if deeper:
                    below.add(name)
                else:
                    tree[name.encode()] = (mode, Blob.from_string(content).id)
        for name in below:
            tree[name.encode()] = (stat.S_IFDIR, make(f"{prefix}{name}/"))
        raw[tree.id] = tree.as_raw_string()
        return tree.id

    return (make("") if files else None), raw


def plain(**files: bytes) -> dict[str, Entry]:
    return {name.replace("__", "/"): (0o100644, content) for name, content in files.items()}


SOME = {
    **plain(a__b__c=b"c", a__d=b"d", e=b"e"),
    "link": (0o120000, b"e"),
    "a/sub": (0o160000, b""),
    "run": (0o100755, b"#!"),
}


def test_the_digest_is_gits_own() -> None:
    content = b"hello\n" * 1000
    assert (
        digest(content) == Blob.from_string(content).id.decode() == hashlib.sha1(b"blob 6000\0" + content).hexdigest()
    )


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("", Found("directory")),
        ("a", Found("directory")),
        ("a/b", Found("directory")),
        ("a/b/c", Found("file", digest(b"c"))),
        ("run", Found("file", digest(b"#!"))),
        ("link", Found("other")),
        ("a/sub", Found("other")),
        ("nothing", None),
        ("a/nothing/at/all", None),
        ("e/below/a/file", None),
        ("link/below", None),
    ],
)
def test_look_tells_files_directories_and_what_documents_never_are(path: str, found: Found | None) -> None:
    assert Trees(*trees_of(SOME)).look(path) == found


@pytest.mark.parametrize(
    ("directory", "paths"),
    [
        ("", {"a/b/c", "a/d", "a/sub", "e", "link", "run"}),
        ("a", {"a/b/c", "a/d", "a/sub"}),
        ("a/b", {"a/b/c"}),
        ("e", set()),
        ("x", set()),
    ],
)
def test_under_tells_everything_at_any_depth(directory: str, paths: set[str]) -> None:
    assert set(Trees(*trees_of(SOME)).under(directory)) == paths


def test_an_empty_repository_holds_nothing() -> None:
    empty = Trees(None, {})
    assert (empty.look("a"), empty.look(""), list(empty.under(""))) == (None, None, [])


def test_only_the_trees_on_the_way_are_needed() -> None:
    root, raw = trees_of(plain(a__x=b"1", b__c__x=b"2", b__d__x=b"3"))
    full = Trees(root, raw)
    needed = {tree.id for tree in (full.tree(root or b""), full.tree(full.tree(root or b"")[b"b"][1]))}
    few = Trees(root, {sha: raw[sha] for sha in needed})
    built = build(few, {"b/new": b"4"}, [])
    assert len(built.trees) == 2
    with pytest.raises(MissingObject):
        few.look("a/x")


def test_names_that_are_no_utf8_survive() -> None:
    tree = Tree()
    tree[b"caf\xe9"] = (0o100644, Blob.from_string(b"1").id)
    tree[b"x"] = (0o100644, Blob.from_string(b"1").id)
    trees = Trees(tree.id, {tree.id: tree.as_raw_string()})
    (strange,) = set(trees.under("")) - {"x"}
    assert trees.look(strange) is not None
    assert b"caf\xe9" in build(trees, {"y": b""}, []).trees.popitem()[1]
    assert set(build(trees, {}, [strange]).trees.popitem()[1]) == {b"x"}


NAMES = st.sampled_from(["a", "a.b", "a-b", "a0", "b"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
FILES = st.dictionaries(PATHS, st.sampled_from([b"1", b"2", b""]), max_size=8)


def possible(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Leave out files that another file would have to be a directory for."""
    return {path: files[path] for path in files if not any(other.startswith(f"{path}/") for other in files)}


@given(before=FILES.map(possible), wanted=FILES.map(possible), pruned=st.sampled_from([None, "", "a", "b"]))
def test_building_a_plan_gives_the_very_tree_that_git_would_make(
    before: dict[str, bytes], wanted: dict[str, bytes], pruned: str | None
) -> None:
    """The property of the whole module; the tree's id is compared, so order, modes and empty directories count."""
    root, raw = trees_of({path: (0o100644, content) for path, content in before.items()})
    prune = frozenset() if pruned is None else frozenset({pruned})
    edit = Edit(id="x", label="x", root="", files=wanted, prune=prune)
    plan = compute([edit], Trees(root, raw), digest)
    built = build(Trees(root, raw), plan.puts, plan.deletes)
    expected = {**{path: content for path, content in before.items() if path not in plan.deletes}, **plan.puts}
    assert built.root == (trees_of({p: (0o100644, c) for p, c in expected.items()})[0] or Tree().id)
    after: dict[bytes, bytes] = {**raw}
    after.update((sha, tree.as_raw_string()) for sha, tree in built.trees.items())
    assert set(built.blobs) == {Blob.from_string(content).id for content in plan.puts.values()}
    assert set(Trees(built.root, after).under("")) == set(expected)
