"""What the next write changes in the State Stores, file by file."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from infra.cli.fleet import Fleet, destination_name, store_name
from infra.cli.pending import Pending, pending
from infra.cli.stores import Stores
from shared.deadline import Deadline
from shared.documents import Limits
from shared.errors import LandfallError
from shared.kube import Key
from shared.plan import Edit
from shared.reconcile.view import StoreKey, store_key
from shared.resources import StateStore
from shared.writers.preview import Preview

# Of files that are read at once for a diff: a bucket's writer reads no more in one call.
_READ_AT_ONCE: Final = 32

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class FileChange:
    """One file that the next write puts or deletes.

    Attributes:
        store: the State Store's kind and name, as in output.
        path: in the State Store.
        before: the content now; None where there is no file, or where contents were not asked for.
        after: the content after the write; None where it deletes the file.
        replaces: whether a file is there now.
        owner: what it is written for: the label of its edit.
    """

    store: str
    path: str
    before: bytes | None = field(repr=False)
    after: bytes | None = field(repr=False)
    replaces: bool
    owner: str

    @property
    def kind(self) -> Literal["put", "change", "delete"]:
        """Whether a file is added, changed or deleted."""
        if self.after is None:
            return "delete"
        return "change" if self.replaces else "put"


@dataclass
class DestinationChanges:
    """What the next write does for one Destination.

    Attributes:
        name: of the Destination, as in output.
        store: its State Store, as in output; empty where it has none.
        root: its directory there.
        why_not: why nothing would be written; empty where something may be.
        files: that would change.
        wanted: paths that it wants to be there, with what each is for.
        listed: everything below its root, where that was asked for.
        errors: what would be refused, by what it is for.
        left: locations whose files stay.
        unreadable: whether a State Store could not be read, so that this is not all.
    """

    name: str
    store: str = ""
    root: str = ""
    why_not: str = ""
    files: list[FileChange] = field(default_factory=list)
    wanted: dict[str, str] = field(default_factory=dict)
    listed: frozenset[str] = frozenset()
    errors: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    unreadable: bool = False


async def changes(
    keys: Sequence[Key],
    fleet: Fleet,
    stores: Stores,
    limits: Limits,
    deadline: Deadline,
    *,
    list_roots: bool = False,
    contents: bool = True,
    progress: Progress = lambda _: None,
) -> list[DestinationChanges]:
    """Return what the next write would change for Destinations; nothing is written.

    Args:
        keys: of the Destinations, which are in the fleet with their WorkPlacements.
        fleet: as it is, or would be.
        stores: opens State Stores.
        limits: of what a WorkPlacement may bring.
        deadline: of all calls.
        list_roots: whether everything below their directories is listed.
        contents: whether the contents of changed files are read.
        progress: gets what is being read.
    """
    found = {key: pending(key, fleet) for key in keys}
    done = {key: _begun(one) for key, one in found.items()}
    by_store: dict[StoreKey, _Share] = {}
    for key, one in found.items():
        try:
            records = await stores.read(one.target.store, one.records(), deadline) if one.target else {}
            edits = list(one.edits(fleet, limits, records))
        except LandfallError as error:
            done[key].errors[done[key].store], done[key].unreadable = str(error), True
            continue
        done[key].errors |= {name: str(error) for name, error in one.errors.items()}
        roots = [(one.store, one.root)] if list_roots and one.store is not None else []
        for store, edit in edits:
            by_store.setdefault(store_key(store), _Share(store)).add(key, edit)
        for store, root in roots:
            by_store.setdefault(store_key(store), _Share(store)).directories[key] = root
    for name, share in by_store.items():
        progress(f"reading {store_name(name)}")
        try:
            preview = await stores.preview(share.store, share.edits, set(share.directories.values()), deadline)
            files = await _files(share, preview, stores, deadline) if contents else {}
        except LandfallError as error:
            for key in {*share.owners.values(), *share.directories}:
                done[key].errors[store_name(name)], done[key].unreadable = str(error), True
            continue
        share.settle(preview, files, done)
    return list(done.values())


def _begun(one: Pending) -> DestinationChanges:
    store = "" if one.store is None else store_name(store_key(one.store))
    return DestinationChanges(destination_name(one.key), store, one.root, one.why_not, left=list(one.left))


@dataclass
class _Share:
    """What is to be looked at in one State Store.

    Attributes:
        edits: in the order in which they count.
        owners: by edit id, the Destination that it is for.
        directories: by Destination, what is to be listed.
    """

    store: StateStore
    edits: list[Edit] = field(default_factory=list)
    owners: dict[str, Key] = field(default_factory=dict)
    directories: dict[Key, str] = field(default_factory=dict)

    def add(self, key: Key, edit: Edit) -> None:
        self.edits.append(edit)
        self.owners[edit.id] = key

    def settle(self, preview: Preview, contents: Mapping[str, bytes], done: Mapping[Key, DestinationChanges]) -> None:
        """Enter into each Destination what the preview says of it."""
        plan, store = preview.plan, store_name(store_key(self.store))
        for edit in self.edits:
            one = done[self.owners[edit.id]]
            if (refusal := plan.refused.get(edit.id)) is not None:
                one.errors[edit.label] = str(refusal)
                continue
            one.wanted |= dict.fromkeys(edit.files, edit.label)
            for path in sorted(plan.touched.get(edit.id, ())):
                replaces = path in preview.replaced
                before = contents.get(path)
                one.files.append(FileChange(store, path, before, plan.puts.get(path), replaces, edit.label))
        for key, directory in self.directories.items():
            done[key].listed = preview.listed.get(directory, frozenset())


async def _files(share: _Share, preview: Preview, stores: Stores, deadline: Deadline) -> dict[str, bytes]:
    """Return the present contents of what changes."""
    wanted = sorted(preview.replaced | preview.plan.deletes)
    found: dict[str, bytes] = {}
    for at in range(0, len(wanted), _READ_AT_ONCE):
        found |= await stores.read(share.store, wanted[at : at + _READ_AT_ONCE], deadline)
    return found


def is_anything(found: Collection[DestinationChanges]) -> bool:
    """Whether the next write changes any file."""
    return any(one.files for one in found)
