"""A bad edit fails alone, with a sentence that names what is in its way; the rest of its batch is written."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shared.errors import InvalidPath, LandfallError, PathConflict
from shared.plan import Edit, Written
from tests.contract.harness import Store, edit, soon

if TYPE_CHECKING:
    from collections.abc import Mapping

GOOD = edit({"good/file": b"good"}, id="good", root="good")

# Each: what the bad edit is, and what its refusal says.
INVALID: dict[str, tuple[Edit, tuple[str, ...]]] = {
    "dot-dot": (edit({"bad/../good/x": b""}, id="bad", root="bad"), ("'..'", "bad/../good/x")),
    "outside-root": (edit({"good/x": b""}, id="bad", root="bad"), ("good/x", "'bad'", "Destination/bad")),
    "sibling-of-root": (edit({"bad-2/x": b""}, id="bad", root="bad"), ("bad-2/x", "'bad'")),
    "dot-git": (edit({"bad/.git/config": b""}, id="bad", root="bad"), (".git",)),
    "dot-GIT": (edit({"bad/.GIT/config": b""}, id="bad", root="bad"), (".GIT",)),
    "dot-git-stream": (edit({"bad/.git:x": b""}, id="bad", root="bad"), (".git:x",)),
    "dot-git-short-name": (edit({"bad/git~1 ./x": b""}, id="bad", root="bad"), ("git~1",)),
    "dot-git-on-hfs": (edit({"bad/.g\u200cit/x": b""}, id="bad", root="bad"), ("Git's own",)),
    "absolute": (edit({"/bad/x": b""}, id="bad", root="bad"), ("absolute",)),
    "empty": (edit({"": b""}, id="bad"), ("no file",)),
    "not-cleaned": (edit({"bad//x": b""}, id="bad", root="bad"), ("bad//x",)),
    "nul": (edit({"bad/\0x": b""}, id="bad", root="bad"), ("control character",)),
    "newline": (edit({"bad/x\ny": b""}, id="bad", root="bad"), ("control character",)),
    "backslash": (edit({"bad/x\\y": b""}, id="bad", root="bad"), ("backslash",)),
    "256-bytes": (edit({"bad/" + "x" * 256: b""}, id="bad", root="bad"), ("255 bytes",)),
    "no-text": (edit({"bad/\ud800": b""}, id="bad", root="bad"), ("Unicode",)),
    "remove-outside": (edit(remove={"good/file"}, id="bad", root="bad"), ("good/file", "'bad'")),
    "prune-outside": (edit(prune={"good"}, id="bad", root="bad"), ("'good'", "'bad'")),
    "prune-dot-dot": (edit(prune={"bad/../good"}, id="bad", root="bad"), ("'..'",)),
    "on-the-way-to-kept": (
        edit({"bad/inner": b""}, id="bad", root="bad", prune={"bad"}, keep={"bad/inner/deep"}),
        ("'bad/inner'", "another Destination's, 'bad/inner/deep'"),
    ),
    "inside-kept": (
        edit({"bad/inner/x": b""}, id="bad", root="bad", prune={"bad"}, keep={"bad/inner"}),
        ("bad/inner/x", "another Destination"),
    ),
}


async def refusal(store: Store, bad: Edit, *, good: Edit = GOOD) -> LandfallError:
    """Write the bad edit between two good ones; return why it was refused, and see that the others were written."""
    last = edit({"last": b"last"}, id="last")
    async with store.open() as writer:
        outcomes = await writer.write([good, bad, last], soon())
    error = outcomes["bad"]
    assert isinstance(error, LandfallError)
    assert not error.transient
    assert isinstance(outcomes[good.id], Written)
    assert isinstance(outcomes["last"], Written)
    files = store.files()
    assert dict(good.files).items() <= files.items()
    assert files["last"] == b"last"
    return error


@pytest.mark.parametrize(("bad", "words"), INVALID.values(), ids=INVALID)
async def test_an_edit_with_a_bad_path_fails_alone(store: Store, bad: Edit, words: tuple[str, ...]) -> None:
    store.seed({"good/file": b"before", "bad/kept": b"kept"})
    error = await refusal(store, bad)
    assert isinstance(error, InvalidPath)
    assert all(word in str(error) for word in words), error
    assert store.files() == {"good/file": b"good", "last": b"last", "bad/kept": b"kept"}


# Each: what is there before, the bad edit, and what its refusal says.
OCCUPIED: dict[str, tuple[Mapping[str, bytes], Edit, tuple[str, ...]]] = {
    "file-where-a-directory-is-needed": (
        {"bad/thing": b"file"},
        edit({"bad/thing/x": b"x"}, id="bad", root="bad"),
        ("bad/thing/x", "Destination/bad", "'bad/thing'", "a file is there"),
    ),
    "file-far-up": (
        {"bad": b"file"},
        edit({"bad/a/b/c/x": b"x"}, id="bad", root="bad"),
        ("bad/a/b/c/x", "'bad'", "a file is there"),
    ),
    "directory-where-a-file-is-wanted": (
        {"bad/thing/x": b"x", "bad/thing/y": b"y"},
        edit({"bad/thing": b"file"}, id="bad", root="bad"),
        ("'bad/thing'", "Destination/bad", "bad/thing/x"),
    ),
    "directory-of-which-only-a-part-is-removed": (
        {"bad/thing/x": b"x", "bad/thing/y": b"y"},
        edit({"bad/thing": b"file"}, id="bad", root="bad", remove={"bad/thing/x"}),
        ("'bad/thing'", "bad/thing/y"),
    ),
    "directory-beside-names-that-sort-before-it": (
        {"bad/thing.txt": b"1", "bad/thing-2/x": b"2", "bad/thing!": b"3", "bad/thing/x": b"4"},
        edit({"bad/thing": b"file"}, id="bad", root="bad"),
        ("'bad/thing'", "bad/thing/x"),
    ),
    "one-good-file-does-not-help": (
        {"bad/thing": b"file"},
        edit({"bad/good": b"new", "bad/thing/x": b"x"}, id="bad", root="bad", prune={"bad/other"}),
        ("bad/thing/x", "a file is there"),
    ),
}


@pytest.mark.parametrize(("before", "bad", "words"), OCCUPIED.values(), ids=OCCUPIED)
async def test_an_edit_whose_path_is_occupied_fails_alone_and_whole(
    store: Store, before: Mapping[str, bytes], bad: Edit, words: tuple[str, ...]
) -> None:
    store.seed(before)
    error = await refusal(store, bad)
    assert isinstance(error, PathConflict)
    assert all(word in str(error) for word in words), error
    assert store.files() == {**before, "good/file": b"good", "last": b"last"}


# Each: the edit that comes first, and the one that is refused for it.
RIVALS: dict[str, tuple[Edit, Edit, tuple[str, ...]]] = {
    "same-path-other-content": (
        edit({"a/x": b"first"}, id="first"),
        edit({"a/x": b"second"}, id="bad"),
        ("'a/x'", "Destination/first", "Destination/bad"),
    ),
    "directory-of-the-first": (
        edit({"a/x/y": b"first"}, id="first"),
        edit({"a/x": b"second"}, id="bad"),
        ("'a/x'", "Destination/first", "Destination/bad"),
    ),
    "file-of-the-first": (
        edit({"a/x": b"first"}, id="first"),
        edit({"a/x/y": b"second"}, id="bad"),
        ("'a/x/y'", "Destination/first", "Destination/bad"),
    ),
}


@pytest.mark.parametrize(("first", "bad", "words"), RIVALS.values(), ids=RIVALS)
async def test_of_two_edits_that_exclude_each_other_the_first_is_written(
    store: Store, first: Edit, bad: Edit, words: tuple[str, ...]
) -> None:
    error = await refusal(store, bad, good=first)
    assert isinstance(error, PathConflict)
    assert all(word in str(error) for word in words), error
    assert store.files() == {**first.files, "last": b"last"}


async def test_an_edit_that_contradicts_itself_is_refused(store: Store) -> None:
    error = await refusal(store, edit({"a/x": b"file", "a/x/y": b"inside"}, id="bad"))
    assert isinstance(error, PathConflict)
    assert "'a/x/y'" in str(error)
    assert store.files() == {"good/file": b"good", "last": b"last"}


async def test_what_git_reads_from_a_checkout_are_ordinary_documents(store: Store) -> None:
    files = {f"a/{name}": b"x\n" for name in (".gitmodules", ".gitattributes", ".gitignore", ".mailmap", "git~2")}
    async with store.open() as writer:
        outcomes = await writer.write([edit(files)], soon())
    assert isinstance(outcomes["one"], Written)
    assert store.files() == files


async def test_a_batch_of_bad_edits_alone_touches_nothing(store: Store) -> None:
    store.seed({"a/x": b"x"})
    async with store.open() as writer:
        outcomes = await writer.write([edit({"../x": b""}, id="bad"), edit({"a": b""}, id="worse")], soon())
    assert [type(outcome) for outcome in outcomes.values()] == [InvalidPath, PathConflict]
    assert store.files() == {"a/x": b"x"}
