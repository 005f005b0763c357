"""Desired against existing: what every writer puts, deletes and refuses."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import paths
from shared.errors import InvalidPath, PathConflict, StoreUnavailable, TooLarge
from shared.plan import Edit, Found, Listing, Plan, compute

Files = dict[str, bytes]


def digest(content: bytes) -> str:
    return content.hex()


def plan(existing: Files, *edits: Edit) -> Plan:
    return compute(edits, Listing({path: digest(content) for path, content in existing.items()}), digest)


def apply(existing: Files, done: Plan) -> Files:
    return {path: content for path, content in existing.items() if path not in done.deletes} | done.puts


def edit(files: Files | None = None, *, id: str = "one", root: str = "", **more: Any) -> Edit:  # noqa: A002
    given: dict[str, Any] = {
        name: frozenset(value) if isinstance(value, set) else value for name, value in more.items()
    }
    return Edit(id=id, label=f"Destination/{id}", root=root, files=files or {}, **given)


def test_what_is_alike_is_neither_put_nor_touched() -> None:
    done = plan({"a": b"1", "b": b"2"}, edit({"a": b"1", "b": b"new"}))
    assert done.puts == {"b": b"new"}
    assert done.touched == {"one": {"b"}}
    assert done.deletes == set()


def test_a_prune_deletes_what_is_not_wanted_and_not_kept() -> None:
    existing = {"d/a": b"", "d/b": b"", "d/k/x": b"", "d/k2/x": b"", "e": b""}
    done = plan(existing, edit({"d/a": b""}, prune={"d"}, keep={"d/k"}))
    assert done.deletes == {"d/b", "d/k2/x"}


OLD, NEW = {"d/a": b"a", "d/record": b"old form"}, {"d/a": b"a", "d/record": b"new form"}
SAME: dict[str, Any] = {"record": "d/record", "same": b"old form"}


def test_a_record_that_says_the_same_in_another_form_stays_and_costs_no_write() -> None:
    done = plan(OLD, edit(NEW, **SAME))
    assert (done.puts, done.touched) == ({}, {"one": set()})


@pytest.mark.parametrize(
    ("existing", "more"),
    [
        pytest.param(OLD | {"d/a": b"other"}, {}, id="a document changes"),
        pytest.param({"d/record": b"old form"}, {}, id="a document comes"),
        pytest.param(OLD | {"d/b": b"b"}, {"remove": {"d/b"}}, id="a document goes"),
        pytest.param(OLD | {"d/record": b"a third form"}, {}, id="it has changed since it was read"),
        pytest.param({"d/a": b"a"}, {}, id="it is gone since it was read"),
    ],
)
def test_a_record_in_another_form_is_written_with_the_next_change(
    existing: dict[str, bytes], more: dict[str, Any]
) -> None:
    assert plan(existing, edit(NEW, **SAME, **more)).puts["d/record"] == b"new form"


def test_a_kept_directory_is_not_touched_by_a_removal_either() -> None:
    done = plan({"d/k/x": b"", "d/y": b""}, edit(remove={"d/k/x", "d/y"}, keep={"d/k"}))
    assert done.deletes == {"d/y"}


def test_a_file_may_not_stand_where_a_kept_directory_will_be() -> None:
    done = plan({}, edit({"d": b"", "e": b""}, keep={"d/k"}))
    assert isinstance(done.refused["one"], InvalidPath)
    assert "'d'" in str(done.refused["one"])
    assert "'d/k'" in str(done.refused["one"])
    assert not done.puts


def test_removing_a_directory_by_name_deletes_nothing_in_it() -> None:
    assert plan({"d/a": b""}, edit(remove={"d"})).deletes == set()


def test_a_wanted_file_is_not_deleted_by_the_same_edits_removal() -> None:
    assert plan({"a": b"1"}, edit({"a": b"1"}, remove={"a"})).deletes == set()


def test_a_file_that_another_edit_deletes_still_blocks_this_one() -> None:
    done = plan({"a": b"file"}, edit(id="one", remove={"a"}), edit({"a/x": b""}, id="two"))
    assert done.deletes == {"a"}
    assert isinstance(done.refused["two"], PathConflict)
    assert not done.puts


def test_a_directory_that_was_not_listed_to_its_end_is_refused_to_those_who_ask_for_it_alone() -> None:
    listing = Listing({"a/x": "", "a/big/1": "", "b": ""}, unread=["a/big"])
    edits = [
        edit(id="prunes-it", prune={"a/big"}),
        edit(id="prunes-around-it", prune={"a"}),
        edit({"a/big/2": b""}, id="writes-into-it"),
        edit({"a/y": b""}, id="beside", remove={"a/x"}),
    ]
    done = compute(edits, listing, digest)
    assert {item: type(error) for item, error in done.refused.items()} == dict.fromkeys(
        ("prunes-it", "prunes-around-it", "writes-into-it"), TooLarge
    )
    assert (set(done.puts), done.deletes) == ({"a/y"}, {"a/x"})


def test_a_batch_deletes_within_a_bound_and_leaves_the_rest_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.plan.MAX_WALKED", 10)
    existing = {f"{directory}/{number}": b"" for directory in "abc" for number in range(6)}
    done = plan(existing, *(edit({f"{name}/new": b""}, id=name, prune={name}) for name in "abc"))
    assert {item: type(error).__mro__[1] for item, error in done.refused.items()} == dict.fromkeys(
        "bc", StoreUnavailable
    )
    assert (len(done.deletes), set(done.puts)) == (6, {"a/new"})


def test_a_refused_edit_neither_puts_nor_deletes_nor_claims() -> None:
    bad = edit({"a/new": b"", "f/x": b""}, id="bad", prune={"a"})
    done = plan({"a/old": b"", "f": b"file"}, bad, edit({"a/new": b"other"}, id="good"))
    assert set(done.refused) == {"bad"}
    assert done.puts == {"a/new": b"other"}
    assert done.deletes == set()
    assert done.touched == {"good": {"a/new"}}


def test_links_and_submodules_are_refused_on_the_way_and_at_the_path() -> None:
    class WithLink:
        def look(self, path: str) -> Found | None:
            return {"d": Found("directory"), "d/link": Found("other")}.get(path)

        def under(self, directory: str) -> list[str]:
            return ["d/link"] if paths.is_within("d/link", directory) else []

    through, over = edit({"d/link/x": b""}, id="through"), edit({"d/link": b""}, id="over")
    pruning = edit({"d/other": b""}, id="pruning", prune={"d"})
    done = compute([through, over, pruning], WithLink(), digest)
    assert "symlink or submodule" in str(done.refused["through"])
    assert "symlink or submodule" in str(done.refused["over"])
    assert done.deletes == {"d/link"}


def test_a_listing_knows_directories_by_their_files() -> None:
    listing = Listing({"a/b/c": "1", "a/b-2": "2", "a/b.": "3", "ab": "4"})
    assert listing.look("a/b/c") == Found("file", "1")
    assert listing.look("a/b") == Found("directory")
    assert listing.look("a") == Found("directory")
    assert listing.look("a/b/c/d") is None
    assert listing.look("a/") is None
    assert list(listing.under("a/b")) == ["a/b/c"]
    assert sorted(listing.under("")) == ["a/b-2", "a/b.", "a/b/c", "ab"]
    assert list(Listing({}).under("")) == []


part = st.sampled_from(["a", "b", "a-", "a.", "ab"])
path = st.lists(part, min_size=1, max_size=3).map("/".join)
directory = st.lists(part, max_size=2).map("/".join)
content = st.sampled_from([b"", b"1", b"2"])


def _consistent(files: Files) -> Files:
    """Drop files that lie below others: no state of a Git tree has both."""
    return {name: held for name, held in files.items() if not any(parent in files for parent in paths.parents(name))}


existing_files = st.dictionaries(path, content, max_size=8).map(_consistent)


@st.composite
def batches(draw: st.DrawFn) -> list[Edit]:
    edits = []
    for number in range(draw(st.integers(1, 4))):
        root = draw(directory)
        inside = st.builds(paths.join, st.just(root), path)
        edits.append(
            Edit(
                id=str(number),
                label=f"Destination/{number}",
                root=root,
                files=draw(st.dictionaries(inside | path, content, max_size=4)),
                remove=draw(st.frozensets(inside, max_size=2)),
                prune=draw(st.frozensets(st.just(root) | inside | directory, max_size=2)),
                keep=draw(st.frozensets(inside, max_size=1)),
            )
        )
    return edits


@given(existing_files, batches())
def test_a_plan_does_what_its_edits_say_and_nothing_else(existing: Files, edits: list[Edit]) -> None:
    done = plan(existing, *edits)
    after = apply(existing, done)
    accepted = [each for each in edits if each.id not in done.refused]
    wanted = {name for each in accepted for name in each.files}
    assert set(done.touched) == {each.id for each in accepted}
    for each in accepted:
        assert each.files.items() <= after.items()
        for name in after:
            pruned = any(name.startswith(f"{top}/" if top else "") for top in each.prune)
            kept = any(paths.is_within(name, other) for other in each.keep)
            assert not pruned or kept or name in wanted
        assert wanted.isdisjoint(done.deletes)
        assert not (each.remove & after.keys()) - wanted - {n for n in after if _in_any(n, each.keep)}
        assert all(paths.is_within(name, each.root) for name in done.touched[each.id])
        assert not any(_in_any(name, each.keep) for name in done.touched[each.id])
    changed = {name for name in existing.keys() | after.keys() if existing.get(name) != after.get(name)}
    assert changed == done.puts.keys() | done.deletes
    assert changed == set().union(*done.touched.values())
    assert after == _consistent(after)


@given(existing_files, batches())
def test_refused_edits_change_nothing_and_a_second_run_has_nothing_to_do(existing: Files, edits: list[Edit]) -> None:
    done = plan(existing, *edits)
    accepted = [each for each in edits if each.id not in done.refused]
    alone = plan(existing, *accepted)
    assert (alone.puts, alone.deletes, alone.refused) == (done.puts, done.deletes, {})
    assert all(str(error) for error in done.refused.values())
    again = plan(apply(existing, done), *accepted)
    assert (again.puts, again.deletes, again.refused) == ({}, set(), {})


def _in_any(name: str, directories: frozenset[str]) -> bool:
    return any(paths.is_within(name, each) for each in directories)
