"""Trees as an `Existing`, and new trees from old ones: compared with a plain dictionary of files."""

import hashlib
import stat
from collections.abc import Mapping

import pytest
from dulwich.objects import Blob, ObjectID, Tree
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import OutOfTime, TooLarge
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


def bomb(depth: int, *leaves: Entry) -> tuple[ObjectID, dict[bytes, bytes]]:
    """Make a few trees that stand for ten to the power of `depth` directories, with those leaves in each."""
    raw: dict[bytes, bytes] = {}
    tree = Tree()
    for number, (mode, content) in enumerate(leaves):
        tree[b"leaf%d" % number] = (mode, Blob.from_string(content).id)
    for _ in range(depth):
        raw[tree.id] = tree.as_raw_string()
        above = Tree()
        for number in range(10):
            above[b"%d" % number] = (stat.S_IFDIR, tree.id)
        tree = above
    raw[tree.id] = tree.as_raw_string()
    return tree.id, raw


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


@pytest.mark.parametrize("leaves", [[(0o100644, b"x")], []], ids=["files", "directories-alone"])
def test_a_few_trees_that_stand_for_millions_of_paths_are_walked_within_a_bound(leaves: list[Entry]) -> None:
    root, raw = bomb(11, *leaves)
    edits = [
        Edit("bad", "Destination/bad", "1", prune=frozenset({"1"})),
        Edit("good", "Destination/good", "mine", files={"mine/x": b"1"}),
    ]
    plan = compute(edits, Trees(root, raw), digest)
    assert isinstance(plan.refused["bad"], TooLarge)
    assert "'1' holds over 200000 files" in str(plan.refused["bad"])
    assert (plan.puts, plan.deletes) == ({"mine/x": b"1"}, set())


def test_a_long_walk_looks_at_the_clock_and_ends_the_plan() -> None:
    root, raw = bomb(4, (0o100644, b"x"))
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls > 20:
            raise OutOfTime("over")

    with pytest.raises(OutOfTime):
        compute([Edit("one", "one", "", prune=frozenset({""}))], Trees(root, raw, check), digest)


def test_a_tree_that_is_not_there_ends_the_plan_so_that_all_is_fetched_again() -> None:
    root, raw = trees_of(plain(a__b=b"1"))
    kept = {sha: tree for sha, tree in raw.items() if sha == root}
    with pytest.raises(MissingObject):
        compute([Edit("one", "one", "", prune=frozenset({"a"}))], Trees(root, kept), digest)


def test_a_directory_of_endless_entries_is_not_read() -> None:
    entry = b"100644 %07d\0" + b"x" * 20
    huge = b"".join(entry % number for number in range(300_000))
    sha = hashlib.sha1(b"tree %d\0" % len(huge) + huge).hexdigest().encode()
    top = Tree()
    top[b"huge"] = (stat.S_IFDIR, ObjectID(sha))
    edits = [Edit(name, name, name, files={f"{name}/x": b"1"}) for name in ("huge", "good")]
    plan = compute(edits, Trees(top.id, {top.id: top.as_raw_string(), sha: huge}), digest)
    assert (list(plan.refused), list(plan.puts)) == (["huge"], ["good/x"])
    assert isinstance(plan.refused["huge"], TooLarge)


def test_directories_are_read_again_rather_than_kept_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.writers.git.trees.MAX_PARSED_BYTES", 200)
    files = plain(**{f"d{n}__f{m}": b"%d" % m for n in range(20) for m in range(3)})
    trees = Trees(*trees_of(files))
    assert set(trees.under("")) == set(files)
    assert len(trees._parsed) < 5
