"""Git's trees as an `Existing`, and new trees made from old ones; nothing here talks to anybody.

Only directories on the way to a change are read and only those that change are made again.
"""

import hashlib
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from dulwich.objects import Blob, ObjectID, Tree

from shared.errors import StoreUnavailable, TooLarge
from shared.plan import MAX_WALKED, Found, too_many

MAX_TREE_BYTES: Final = 8 * 1024 * 1024  # of one directory, as Git stores it; read, it takes six times as much
MAX_PARSED_BYTES: Final = 8 * 1024 * 1024  # of directories that are kept as they were read, as Git stores them
LARGE_TREE: Final = 1_000  # entries
CHECK_EVERY: Final = 1_000  # entries of a walk between two looks at the clock
FILE_MODE: Final = stat.S_IFREG | 0o644
DIRECTORY_MODE: Final = stat.S_IFDIR


class MissingObject(StoreUnavailable):
    """A tree that is needed is not there; the cure is to fetch again."""


def digest(content: bytes) -> str:
    """Return the id that Git gives to a file's content; writers compare by it."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class Trees:
    """An `Existing` over the trees of one commit.

    Args:
        root: id of the commit's tree; None for a repository without commits.
        raw: trees by id, as they were fetched.
        check: called now and then during long walks; raises what ends them.

    All methods raise `MissingObject` where a tree on the way is not in `raw`, and `TooLarge` where one has more entries
    than a function reads.
    """

    def __init__(
        self, root: ObjectID | None, raw: Mapping[bytes, bytes], check: Callable[[], object] = lambda: None
    ) -> None:
        self.root = root
        self._raw = raw
        self._check = check
        self._parsed: dict[bytes, Tree] = {}
        self._parsed_bytes = 0

    def look(self, path: str) -> Found | None:
        """Return what lies at exactly that path."""
        entry = self._entry(path)
        return None if entry is None else _found(*entry)

    def under(self, directory: str) -> Iterator[str]:
        """Yield the paths of everything in a directory that is no directory itself, at any depth.

        A few trees may hold each other many times, and stand for more paths than there is memory for.

        Raises:
            TooLarge: it is more than `MAX_WALKED` entries, directories among them.
        """
        entry = self._entry(directory)
        if entry is None or not stat.S_ISDIR(entry[0]):
            return
        waiting = [(directory, entry[1])]
        walked = 0
        while waiting:
            at, tree = waiting.pop()
            for name, mode, sha in self.tree(tree).iteritems():
                walked += 1
                if walked > MAX_WALKED:
                    raise too_many(directory)
                if walked % CHECK_EVERY == 0:
                    self._check()
                path = f"{at}/{decode(name)}" if at else decode(name)
                if stat.S_ISDIR(mode):
                    waiting.append((path, sha))
                else:
                    yield path

    def tree(self, sha: bytes) -> Tree:
        """Return one tree; the caller must not change it."""
        if (tree := self._parsed.get(sha)) is None:
            try:
                raw = self._raw[sha]
            except KeyError:
                raise MissingObject(f"the repository's server left out the tree {sha.decode()}") from None
            if len(raw) > MAX_TREE_BYTES:
                raise TooLarge(f"a directory of the branch takes {len(raw)} bytes, over {MAX_TREE_BYTES}: split it up")
            self._parsed_bytes += len(raw)
            if self._parsed_bytes > MAX_PARSED_BYTES:
                self._parsed.clear()
                self._parsed_bytes = len(raw)
            self._check()
            tree = self._parsed[sha] = Tree.from_string(raw)
        return tree

    def _entry(self, path: str) -> tuple[int, ObjectID] | None:
        if self.root is None:
            return None
        mode, sha = DIRECTORY_MODE, self.root
        for part in path.split("/") if path else ():
            if not stat.S_ISDIR(mode):
                return None
            try:
                mode, sha = self.tree(sha)[encode(part)]
            except KeyError:
                return None
        return mode, sha


@dataclass
class Built:
    """New trees and files of a change.

    Attributes:
        root: id of the new root tree; where every file is gone, that of the empty tree.
        trees: new trees by id.
        blobs: new files' contents by id.
    """

    root: ObjectID
    trees: dict[ObjectID, Tree] = field(default_factory=dict)
    blobs: dict[ObjectID, Blob] = field(default_factory=dict)


@dataclass(slots=True)
class _Change:
    """What becomes of one name: a file is put there, what is there goes, or something below it changes."""

    put: ObjectID | None = None
    below: dict[bytes, "_Change"] = field(default_factory=dict)


def build(existing: Trees, puts: Mapping[str, bytes], deletes: Iterable[str]) -> Built:
    """Make the trees that hold a plan's outcome.

    Directories that become empty vanish, as Git knows none. Files get the mode 100644, whatever was there before.

    Args:
        existing: the trees that the plan was computed against.
        puts: path to content; nothing that stays is in the way of any.
        deletes: paths of files, symlinks or submodules.
    """
    built = Built(root=ObjectID(b""))
    top = _Change()
    for path in deletes:
        _at(top, path)
    for path, content in puts.items():
        blob = Blob.from_string(content)
        built.blobs[blob.id] = blob
        _at(top, path).put = blob.id
    built.root = _rebuild(existing, existing.root, top, built) or _keep(Tree(), built)
    return built


def _at(top: _Change, path: str) -> _Change:
    node = top
    for part in path.split("/"):
        node = node.below.setdefault(encode(part), _Change())
    return node


def _rebuild(existing: Trees, old: ObjectID | None, change: _Change, built: Built) -> ObjectID | None:
    """Return the id of a directory's new tree, or None where nothing is left in it."""
    tree = Tree() if old is None else Tree.from_string(existing.tree(old).as_raw_string())
    entries = {entry.path: (entry.mode, entry.sha) for entry in tree.iteritems()}
    for name, node in change.below.items():
        mode, sha = entries.get(name, (0, None))
        below = None
        if node.below:
            below = _rebuild(existing, sha if stat.S_ISDIR(mode) else None, node, built)
        if below is not None:
            tree[name] = (DIRECTORY_MODE, below)
        elif node.put is not None:
            tree[name] = (FILE_MODE, node.put)
        elif sha is not None:
            del tree[name]
    return _keep(tree, built) if len(tree) else None


def _keep(tree: Tree, built: Built) -> ObjectID:
    # A large one as Git stores it, not as it was read: that takes several times as much.
    built.trees[tree.id] = tree if len(tree) < LARGE_TREE else Tree.from_string(tree.as_raw_string())
    return tree.id


def _found(mode: int, sha: ObjectID) -> Found:
    if stat.S_ISDIR(mode):
        return Found("directory")
    return Found("file", sha.decode()) if stat.S_ISREG(mode) else Found("other")


def encode(name: str) -> bytes:
    """Return a name as trees hold it; the inverse of `decode` for every name."""
    return name.encode("utf-8", "surrogateescape")


def decode(name: bytes) -> str:
    """Return a tree's name as text; names that are no UTF-8, which others may have written, survive both ways."""
    return name.decode("utf-8", "surrogateescape")
