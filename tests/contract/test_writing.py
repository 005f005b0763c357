"""What a writer does when nothing is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shared.plan import Edit, Written
from tests.contract.harness import Store, edit, soon

if TYPE_CHECKING:
    from shared.writers.base import Writer

STRANGE_NAMES = {
    "space": "with a space.yaml",
    "plus": "one+one=two.yaml",
    "percent": "100%25.yaml",
    "hash-and-question": "a#b?c=d&e.yaml",
    "unicode": "grüße-Ω-日本-🚀.yaml",
    "quotes-and-brackets": 'it\'s "<here>" & [there].yaml',
    "255-bytes": "x" * 250 + ".yaml",
    "leading-dots": "...dotted.yaml",
    "tilde-and-colon": "~a:b*c|d.yaml",
}
ALL_BYTES = bytes(range(256)) * 10


async def write(writer: Writer, *edits: Edit) -> dict[str, Written]:
    """Write edits that must all succeed."""
    outcomes = await writer.write(edits, soon())
    done = {key: outcome for key, outcome in outcomes.items() if isinstance(outcome, Written)}
    assert done == outcomes
    return done


async def test_files_appear_byte_for_byte_and_nothing_else_does(store: Store) -> None:
    files = {"a/b/c.yaml": b"kind: Namespace\n", "top.yaml": b"", "bin/all": ALL_BYTES, "a/crlf": b"one\r\ntwo\r\n"}
    async with store.open() as writer:
        done = await write(writer, edit(files))
    assert done["one"].changed
    assert done["one"].version
    assert store.files() == files


async def test_a_second_write_of_the_same_changes_nothing_and_keeps_the_version(store: Store) -> None:
    files = {"a/b.yaml": b"one", "a/empty": b"", "a/bin": ALL_BYTES}
    async with store.open() as writer:
        first = await write(writer, edit(files, prune={"a"}))
        again = await write(writer, edit(files, prune={"a"}))
    assert again["one"] == Written(first["one"].version, changed=False)
    async with store.open() as fresh:  # nothing of it is remembered only
        cold = await write(fresh, edit(files, prune={"a"}))
    assert cold == again
    assert store.files() == files


async def test_an_update_replaces_the_content_and_gives_another_version(store: Store) -> None:
    async with store.open() as writer:
        first = await write(writer, edit({"a/b.yaml": b"one", "a/c.yaml": b"same"}))
        second = await write(writer, edit({"a/b.yaml": b"two", "a/c.yaml": b"same"}))
    assert second["one"].changed
    assert second["one"].version != first["one"].version
    assert store.files() == {"a/b.yaml": b"two", "a/c.yaml": b"same"}


async def test_what_others_changed_by_hand_is_put_right(store: Store) -> None:
    async with store.open() as writer:
        await write(writer, edit({"a/b.yaml": b"ours"}, prune={"a"}))
        store.seed({"a/b.yaml": b"hand", "a/stranger": b"new", "b/other": b"stays"})
        done = await write(writer, edit({"a/b.yaml": b"ours"}, prune={"a"}))
    assert done["one"].changed
    assert store.files() == {"a/b.yaml": b"ours", "b/other": b"stays"}


async def test_removed_files_go_and_a_missing_one_is_no_change(store: Store) -> None:
    store.seed({"a/b.yaml": b"one", "a/c.yaml": b"two"})
    async with store.open() as writer:
        first = await write(writer, edit(remove={"a/b.yaml", "a/never.yaml"}))
        second = await write(writer, edit(remove={"a/b.yaml", "a/never.yaml"}))
    assert first["one"].changed
    assert not second["one"].changed
    assert store.files() == {"a/c.yaml": b"two"}


async def test_a_record_says_in_the_end_what_its_edit_says_and_goes_with_its_files(store: Store) -> None:
    async with store.open() as writer:
        first = edit({"a": b"a", "b": b"b", ".k/r": b"a b"}, record=".k/r", interim=b"a b")
        assert (await write(writer, first))["one"].changed
        assert store.files() == first.files
        second = edit({"a": b"a", "c": b"c", ".k/r": b"a c"}, remove={"b"}, record=".k/r", interim=b"a b c")
        done = await write(writer, second)
        assert store.files() == second.files
        assert await write(writer, second) == {"one": Written(done["one"].version, changed=False)}
        await write(writer, edit(remove={"a", "c", ".k/r"}, record=".k/r"))
    assert store.files() == {}


async def test_the_last_file_can_be_removed_and_the_store_written_again(store: Store) -> None:
    store.seed({"a/b/c.yaml": b"one"})
    async with store.open() as writer:
        await write(writer, edit(remove={"a/b/c.yaml"}))
        assert store.files() == {}
        await write(writer, edit({"a/b/c.yaml": b"two"}))
    assert store.files() == {"a/b/c.yaml": b"two"}


async def test_a_prune_deletes_strangers_inside_and_no_sibling(store: Store) -> None:
    siblings = {"worker-10/x": b"10", "worker-1.yaml": b"f", "worker-/x": b"-", "worker/x": b"w", "worker-1-2/y": b"12"}
    store.seed({"worker-1/old": b"old", "worker-1/deep/er/old": b"old", **siblings})
    async with store.open() as writer:
        await write(writer, edit({"worker-1/new": b"new"}, root="worker-1", prune={"worker-1"}))
    assert store.files() == {"worker-1/new": b"new", **siblings}


async def test_a_prune_spares_the_directories_it_must_keep(store: Store) -> None:
    kept = {"all/inner/a": b"a", "all/inner/deep/b": b"b"}
    store.seed({"all/old": b"old", "all/inner-2/old": b"old", "all/inner.yaml": b"old", **kept})
    async with store.open() as writer:
        await write(writer, edit({"all/new": b"new"}, root="all", prune={"all"}, keep={"all/inner"}))
    assert store.files() == {"all/new": b"new", **kept}


async def test_a_prune_of_the_root_spares_what_it_must_keep(store: Store) -> None:
    kept = {"team/a": b"a", "team/b/c": b"c"}
    store.seed({"old": b"old", "x/old": b"old", **kept})
    async with store.open() as writer:
        done = await write(writer, edit({"new": b"new"}, prune={""}, keep={"team"}))
        again = await write(writer, edit({"new": b"new"}, prune={""}, keep={"team"}))
    assert store.files() == {"new": b"new", **kept}
    assert (done["one"].changed, again["one"].changed) == (True, False)


async def test_a_prune_of_several_directories_leaves_what_lies_between(store: Store) -> None:
    store.seed({"a/dependencies/p/old": b"", "a/resources/q/old": b"x", "a/own": b"stays"})
    async with store.open() as writer:
        await write(writer, edit({"a/resources/q/new": b"n"}, prune={"a/dependencies/p", "a/resources/q"}))
    assert store.files() == {"a/resources/q/new": b"n", "a/own": b"stays"}


async def test_more_than_a_thousand_files_are_listed_updated_and_deleted(store: Store) -> None:
    many = {f"a/{number:04}.yaml": b"%d" % number for number in range(1100)}
    async with store.open() as writer:
        assert (await write(writer, edit(many, prune={"a"})))["one"].changed
        assert store.files() == many
        assert not (await write(writer, edit(many, prune={"a"})))["one"].changed
        fewer = {"a/1099.yaml": b"last", "a/0000.yaml": b"0"}
        await write(writer, edit(fewer, prune={"a"}))
    assert store.files() == fewer


@pytest.mark.parametrize("name", STRANGE_NAMES.values(), ids=STRANGE_NAMES)
async def test_strange_names_are_written_compared_read_and_deleted(store: Store, name: str) -> None:
    path = f"dir {name[:40]}/{name}"
    async with store.open() as writer:
        await write(writer, edit({path: b"one"}))
        assert store.files() == {path: b"one"}
        assert await writer.read(path, soon()) == b"one"
        assert not (await write(writer, edit({path: b"one"}, prune={path.partition("/")[0]})))["one"].changed
        await write(writer, edit(prune={path.partition("/")[0]}))
    assert store.files() == {}


async def test_reading_gives_the_bytes_or_none(store: Store) -> None:
    store.seed({"a/b.yaml": ALL_BYTES, "a/empty": b""})
    async with store.open() as writer:
        assert await writer.read("a/b.yaml", soon()) == ALL_BYTES
        assert await writer.read("a/empty", soon()) == b""
        missing = ["a", "a/b", "a/b.yaml/c", "nothing", "a/c.yaml"]
        assert {path: await writer.read(path, soon()) for path in missing} == dict.fromkeys(missing)


async def test_reading_sees_what_was_just_written(store: Store) -> None:
    async with store.open() as writer:
        await write(writer, edit({"a": b"one"}))
        assert await writer.read("a", soon()) == b"one"
        store.seed({"a": b"two"})
        assert await writer.read("a", soon()) == b"two"


async def test_a_check_succeeds_and_leaves_nothing_behind(store: Store) -> None:
    store.seed({"a/b.yaml": b"one"})
    before = store.leftovers
    async with store.open() as writer:
        for root in ("", "a", "not/there"):
            await writer.check(root, soon())
    assert store.files() == {"a/b.yaml": b"one"}
    assert store.leftovers == before


async def test_a_batch_without_edits_does_nothing(store: Store) -> None:
    store.seed({"a": b"one"})
    async with store.open() as writer:
        assert await writer.write([], soon()) == {}
    assert store.files() == {"a": b"one"}


async def test_an_edit_that_wants_nothing_changes_nothing(store: Store) -> None:
    store.seed({"a": b"one"})
    async with store.open() as writer:
        assert not (await write(writer, edit()))["one"].changed
    assert store.files() == {"a": b"one"}


async def test_edits_of_one_batch_are_told_apart(store: Store) -> None:
    store.seed({"one/a": b"a", "two/b": b"b", "three/c": b"c"})
    async with store.open() as writer:
        done = await write(
            writer,
            edit({"one/a": b"a"}, id="one", root="one", prune={"one"}),
            edit({"two/b": b"new"}, id="two", root="two", prune={"two"}),
            edit(id="three", root="three", prune={"three"}),
        )
    assert {key: outcome.changed for key, outcome in done.items()} == {"one": False, "two": True, "three": True}
    assert store.files() == {"one/a": b"a", "two/b": b"new"}


async def test_a_batch_of_many_edits_far_apart_is_written_whole(store: Store) -> None:
    store.seed({f"worker-{number}/old": b"old" for number in range(0, 60, 2)})
    edits = [
        edit({f"worker-{n}/a/x": b"x", f"worker-{n}/y": b"%d" % n}, id=str(n), root=f"worker-{n}") for n in range(60)
    ]
    async with store.open() as writer:
        assert all(outcome.changed for outcome in (await write(writer, *edits)).values())
        assert not any(outcome.changed for outcome in (await write(writer, *edits)).values())
    wanted = {path: content for each in edits for path, content in each.files.items()}
    assert store.files() == wanted | {f"worker-{number}/old": b"old" for number in range(0, 60, 2)}


async def test_the_same_file_wanted_twice_alike_is_no_conflict(store: Store) -> None:
    async with store.open() as writer:
        done = await write(writer, edit({"a": b"same"}, id="one"), edit({"a": b"same", "b": b"more"}, id="two"))
    assert set(done) == {"one", "two"}
    assert store.files() == {"a": b"same", "b": b"more"}


async def test_a_file_that_another_edit_wants_survives_a_prune(store: Store) -> None:
    store.seed({"a/shared": b"s", "a/old": b"o"})
    async with store.open() as writer:
        await write(writer, edit({"a/new": b"n"}, id="one", prune={"a"}), edit({"a/shared": b"s"}, id="two"))
    assert store.files() == {"a/new": b"n", "a/shared": b"s"}


async def test_a_directory_gives_way_to_a_file_where_the_edit_prunes_it(store: Store) -> None:
    store.seed({"a/thing/x": b"x", "a/thing/y/z": b"z", "a/other": b"o"})
    async with store.open() as writer:
        await write(writer, edit({"a/thing": b"file", "a/other": b"o"}, root="a", prune={"a"}))
    assert store.files() == {"a/thing": b"file", "a/other": b"o"}


async def test_a_file_gives_way_to_a_directory_where_the_edit_prunes_it(store: Store) -> None:
    store.seed({"a/thing": b"file", "a/other": b"o"})
    async with store.open() as writer:
        await write(writer, edit({"a/thing/x": b"x", "a/thing/y/z": b"z", "a/other": b"o"}, root="a", prune={"a"}))
    assert store.files() == {"a/thing/x": b"x", "a/thing/y/z": b"z", "a/other": b"o"}


async def test_a_file_gives_way_to_a_directory_where_the_edit_removes_it(store: Store) -> None:
    store.seed({"a/thing": b"file", "a/sub/x": b"x"})
    async with store.open() as writer:
        await write(writer, edit({"a/thing/x": b"x", "a/sub": b"file"}, remove={"a/thing", "a/sub/x"}))
    assert store.files() == {"a/thing/x": b"x", "a/sub": b"file"}
