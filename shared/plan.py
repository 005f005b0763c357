"""Desired against existing: which files to put and which to delete, decided without any I/O.

Every writer hands over what it found and carries out the plan, so that all of them refuse, replace and protect alike.
"""

import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from shared import paths
from shared.errors import InvalidPath, LandfallError, PathConflict, StoreUnavailable, TooLarge

MAX_WALKED: Final = 200_000  # of what lies in a directory that an edit prunes, and of what a batch deletes


@dataclass(frozen=True, slots=True)
class Edit:
    """What one item of a batch wants a State Store to hold; it is carried out whole or refused whole.

    Attributes:
        id: the caller's own name for it; the result is given under it.
        label: what people call it; it stands in the commit message.
        root: the directory that it may touch; `""` is the whole store.
        files: path to content, to be there afterwards.
        remove: files to be gone afterwards.
        prune: directories that hold exactly `files` afterwards; everything else in them is deleted.
        keep: directories that belong to someone else and are never touched, whatever else the edit says.
        record: the one among `files` and `remove` by which a later run knows the others; a store that cannot change
            all at once changes it last (docs/failure-modes.md#13-crash-in-a-write), so that it never forgets a file
            that may be there.
        interim: what such a store puts there before it changes anything else; empty where what is there names all.
        same: what lies at `record` in another form that means the same: it stays until the edit changes another file.
    """

    id: str
    label: str
    root: str
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    remove: frozenset[str] = frozenset()
    prune: frozenset[str] = frozenset()
    keep: frozenset[str] = frozenset()
    record: str = ""
    interim: bytes = field(default=b"", repr=False)
    same: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Written:
    """An edit that is now in the State Store.

    Attributes:
        version: the Git commit that holds it, or for a bucket a digest of its files.
        changed: whether anything had to be written or deleted for it.
    """

    version: str
    changed: bool


Outcome = Written | LandfallError


@dataclass(frozen=True, slots=True)
class Found:
    """What lies at a path.

    Attributes:
        type: `other` is what documents never are: a symlink, a submodule.
        digest: of a file's content, made by the store's own rule; empty for anything else.
    """

    type: Literal["file", "directory", "other"]
    digest: str = ""


class Existing(Protocol):
    """What a State Store holds, as far as the edits concern it."""

    def look(self, path: str) -> Found | None:
        """Return what lies at exactly that path."""

    def under(self, directory: str) -> Iterable[str]:
        """Return the paths of everything in a directory that is no directory itself, at any depth.

        Raises:
            TooLarge: it is more than `MAX_WALKED`.
        """


class Listing:
    """An `Existing` made from a list of files: what a bucket gives, which knows no directories.

    Args:
        digests: of the files, by path.
        unread: directories that hold more files than are listed; who asks for something in one of them gets `TooLarge`.
    """

    def __init__(self, digests: Mapping[str, str], unread: Iterable[str] = ()) -> None:
        self._digests = digests
        self._sorted = sorted(digests)
        self._unread = tuple(unread)

    def look(self, path: str) -> Found | None:
        """Return what lies at exactly that path."""
        for directory in self._unread:
            if paths.is_within(path, directory):
                raise too_many(directory)
        if (digest := self._digests.get(path)) is not None:
            return Found("file", digest)
        return Found("directory") if next(self._below(path), None) is not None else None

    def under(self, directory: str) -> Iterator[str]:
        """Return the paths of the files in a directory, at any depth."""
        for unread in self._unread:
            if paths.is_within(directory, unread) or paths.is_within(unread, directory):
                raise too_many(unread)
        yield from self._below(directory)

    def _below(self, directory: str) -> Iterator[str]:
        prefix = f"{directory}/" if directory else ""
        for at in range(bisect.bisect_left(self._sorted, prefix), len(self._sorted)):
            if not self._sorted[at].startswith(prefix):
                return
            yield self._sorted[at]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do for a batch of edits.

    Attributes:
        puts: path to content, only where it differs from what is there.
        deletes: what is there and must go.
        refused: by edit id, why that edit is not carried out.
        touched: by edit id, the paths among puts and deletes that are its own; edits that change nothing have none.
    """

    puts: dict[str, bytes]
    deletes: set[str]
    refused: dict[str, LandfallError]
    touched: dict[str, set[str]]

    def without(self, edits: AbstractSet[str]) -> "Plan":
        """Return the plan without what only those edits change; what they want stays protected from the others."""
        if self.touched.keys().isdisjoint(edits):
            return self
        touched = {edit: paths for edit, paths in self.touched.items() if edit not in edits}
        kept = {path for paths in touched.values() for path in paths}
        puts = {path: content for path, content in self.puts.items() if path in kept}
        return Plan(puts, self.deletes & kept, self.refused, touched)


class _NextTime(StoreUnavailable):
    """The batch has enough to delete without this edit."""


def compute(edits: Sequence[Edit], existing: Existing, digest: Callable[[bytes], str]) -> Plan:
    """Decide what a batch of edits changes.

    Edits count in their order: where two want one path, the first has it and the second is refused with both names;
    a path that one edit wants is never deleted for another.

    Args:
        edits: with different ids.
        existing: what the store holds.
        digest: the rule by which `existing` made its digests.
    """
    claims = _Claims()
    refused: dict[str, LandfallError] = {}
    accepted: list[tuple[Edit, set[str]]] = []
    leaving = 0
    for edit in edits:
        try:
            check(edit)
            going = set(_going(edit, existing))
            for path in edit.files:
                claims.check(path, edit)
                _check_way(path, existing, edit, going)
            _check_room(leaving, going)
        except (InvalidPath, PathConflict, TooLarge, _NextTime) as error:
            refused[edit.id] = error
            continue
        claims.add(edit)
        accepted.append((edit, going))
        leaving += len(going)

    puts: dict[str, bytes] = {}
    deletes: set[str] = set()
    touched: dict[str, set[str]] = {}
    for edit, going in accepted:
        mine = touched.setdefault(edit.id, set())
        for path, content in edit.files.items():
            found = existing.look(path)
            if found is None or found.type != "file" or found.digest != digest(content):
                puts[path] = content
                mine.add(path)
        for path in going:
            if path not in claims.files:
                deletes.add(path)
                mine.add(path)
        if edit.same and mine == {edit.record} and existing.look(edit.record) == Found("file", digest(edit.same)):
            del puts[edit.record]
            mine.clear()
    return Plan(puts, deletes, refused, touched)


def too_many(directory: str) -> TooLarge:
    """Return the error for a directory that holds more than is looked at."""
    return TooLarge(f"{directory or '/'!r} holds over {MAX_WALKED} files: delete those that are not needed by hand")


def check(edit: Edit) -> None:
    """Refuse an edit for what it says itself, whatever the store holds; a writer need not look such an edit up.

    Raises:
        InvalidPath: a path is refused, leaves the edit's root or lies in a directory that it must keep.
    """
    for path in (*edit.files, *edit.remove):
        if paths.check(path) != path or not paths.is_within(path, edit.root):
            raise InvalidPath(f"path {path!r} does not lie in {edit.root or '/'!r}, the place of {edit.label}")
    for directory in edit.prune:
        if paths.check_directory(directory, "directory") != directory or not paths.is_within(directory, edit.root):
            raise InvalidPath(
                f"directory {directory!r} does not lie in {edit.root or '/'!r}, the place of {edit.label}"
            )
    for path in edit.files:
        if any(paths.is_within(path, kept) for kept in edit.keep):
            raise InvalidPath(f"path {path!r} of {edit.label} lies in another Destination's directory")
        if (kept := next((kept for kept in edit.keep if paths.is_within(kept, path)), None)) is not None:
            raise InvalidPath(f"path {path!r} of {edit.label} is on the way to another Destination's, {kept!r}")


def _check_room(leaving: int, going: set[str]) -> None:
    if leaving + len(going) > MAX_WALKED:
        raise _NextTime(f"others of its batch delete {leaving} files already: it is tried again later")


def _going(edit: Edit, existing: Existing) -> Iterator[str]:
    """Yield what is there and that the edit wants gone."""

    def may_go(path: str) -> bool:
        return path not in edit.files and not any(paths.is_within(path, kept) for kept in edit.keep)

    for directory in edit.prune:
        yield from filter(may_go, existing.under(directory))
    for path in filter(may_go, edit.remove):
        found = existing.look(path)
        if found is not None and found.type != "directory":
            yield path


def _check_way(path: str, existing: Existing, edit: Edit, going: set[str]) -> None:
    """Refuse a path that something occupies which does not go with this very edit."""
    for parent in paths.parents(path):
        found = existing.look(parent)
        if found is None:
            return
        if found.type != "directory":
            if parent not in going:
                what = "a file" if found.type == "file" else "a symlink or submodule"
                raise PathConflict(f"{path!r} of {edit.label} needs the directory {parent!r}, but {what} is there")
            return
    found = existing.look(path)
    if found is None or found.type == "file":
        return
    if found.type == "other":
        raise PathConflict(f"{path!r} of {edit.label} would replace a symlink or submodule: remove that first")
    staying = next((inside for inside in existing.under(path) if inside not in going), None)
    if staying is not None:
        raise PathConflict(f"{path!r} of {edit.label} is a directory that holds {staying!r}: a file cannot replace it")


class _Claims:
    """The paths that accepted edits of this batch want, and the directories that those need."""

    def __init__(self) -> None:
        self.files: dict[str, Edit] = {}
        self._directories: dict[str, Edit] = {}

    def check(self, path: str, edit: Edit) -> None:
        other = self.files.get(path)
        if other is not None and other.files[path] != edit.files[path]:
            raise PathConflict(f"{path!r} is wanted by {edit.label} and by {other.label}, with different content")
        if (other := self._directories.get(path)) is not None:
            raise PathConflict(f"{path!r} of {edit.label} is a directory of {other.label}: one of them must move")
        for parent in paths.parents(path):
            other = self.files.get(parent) or (edit if parent in edit.files else None)
            if other is not None:
                raise PathConflict(f"{path!r} of {edit.label} needs a directory where {other.label} has a file")

    def add(self, edit: Edit) -> None:
        for path in edit.files:
            self.files.setdefault(path, edit)
            for parent in paths.parents(path):
                self._directories.setdefault(parent, edit)
