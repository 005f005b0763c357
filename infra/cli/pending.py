"""What the next write would put and delete for a Destination: the functions' own decisions and edits, nothing written.

This is the one place that assembles them. tests/integration/test_diff_agrees.py compares it with what is then written.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from infra.cli.fleet import Fleet
from shared import conditions, paths
from shared.documents import Limits
from shared.errors import InvalidObject, LandfallError, StateStoreNotReady
from shared.kube import Key
from shared.plan import Edit
from shared.reconcile.decisions import Decision, Write, decide
from shared.reconcile.locations import Location, left_behind, old_files, own_directories, recorded
from shared.reconcile.pausing import is_store_paused
from shared.reconcile.placing import Target
from shared.resources import CLEANUP_FINALIZER, Destination, StateStore


@dataclass
class Pending:
    """What the functions would do for one Destination.

    Attributes:
        key: of the Destination.
        store: that it writes to; None where it has none that can be read.
        root: its directory there.
        why_not: why nothing would be written; empty where something may be.
        targets: how its WorkPlacements become edits, once `records` of mode none have been read.
        canary: the edit of its canary documents.
        leaving: deletions at locations that it leaves, with the State Store of each.
        left: locations whose files stay, because its `cleanup` is `none`.
    """

    key: Key
    store: StateStore | None = None
    root: str = ""
    why_not: str = ""
    target: Target | None = None
    canary: Edit | None = None
    leaving: list[tuple[StateStore, Edit]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    errors: dict[str, LandfallError] = field(default_factory=dict)

    def records(self) -> list[str]:
        """Return the paths that have to be read before `edits` can be made (mode none)."""
        return [] if self.target is None else self.target.record_paths()

    def edits(self, fleet: Fleet, limits: Limits, records: Mapping[str, bytes]) -> Iterator[tuple[StateStore, Edit]]:
        """Yield each edit with where it goes; what is refused goes to `errors` under the name of what it is for."""
        if self.canary is not None and self.store is not None:
            yield self.store, self.canary
        documents = [] if self.target is None else list(self._documents(self.target, fleet, limits, records))
        if self.target is None or not self.target.destination.metadata.being_deleted:
            yield from documents
            yield from self.leaving
        else:  # its WorkPlacements go first, and what one of them cannot delete holds everything else
            yield from documents if self.target.refused else self.leaving

    def _documents(
        self, target: Target, fleet: Fleet, limits: Limits, records: Mapping[str, bytes]
    ) -> Iterator[tuple[StateStore, Edit]]:
        target.records = records
        kept = fleet.others_within(target.store, self.root, target.destination.metadata.uid) - {self.root}
        for edit, _ in target.edits(limits):
            named = replace(edit, id=f"{_id(self.key)} {edit.id}")
            yield target.store, replace(named, keep=named.keep | kept) if kept else named
        for key, error in target.refused.items():
            self.errors[f"workplacement/{'/'.join(key)}"] = error


def pending(key: Key, fleet: Fleet) -> Pending:
    """Return what the functions would do for a Destination as it is in the fleet.

    The fleet has all Destinations and State Stores, and the WorkPlacements of this one.
    """
    obj = fleet.destinations[key]
    found = Pending(key)
    try:
        destination = Destination.parse(obj)
    except InvalidObject as error:
        found.why_not = str(error)
        return found
    try:
        found.store = fleet.view.store(destination)
        if found.store is not None:
            found.root = paths.destination_root(found.store, destination)
    except LandfallError as error:
        found.why_not = str(error)
    decision = _decide(key, destination, fleet)
    if decision is None:
        return found
    if decision.cleanup:
        _leave_all(found, destination, fleet)
        return found
    if decision.write is None:
        found.why_not = decision.verdict.message if decision.verdict is not None else "it is being deleted"
        return found
    owner = fleet.owner(decision.write.store, found.root)
    if owner is not None and owner.metadata.uid != destination.metadata.uid:
        leaving = fleet.is_leaving(owner, decision.write.store, found.root)
        found.why_not = conditions.path_clash(decision.reference, owner.name, leaving=leaving).message
        return found
    _write(found, destination, decision.write, fleet)
    return found


def _write(found: Pending, destination: Destination, write: Write, fleet: Fleet) -> None:
    """Plan the write of a Destination's documents, and the cleanup of where it has been before."""
    obj = fleet.destinations[found.key]
    current = Location.of(destination, write.store)
    remove = write.edit.remove | old_files(obj, current)
    found.canary = replace(write.edit, id=f"{_id(found.key)} canary", remove=remove)
    found.target = _target(found.key, destination, write.store, fleet)
    others = left_behind(obj, current)
    if destination.spec.cleanup == "all":
        _leave(found, destination, others, fleet, current)
    else:
        found.left = [str(location) for location in others]


def _target(key: Key, destination: Destination, store: StateStore, fleet: Fleet) -> Target:
    """Return a Destination's WorkPlacements; those of one that is being deleted are deleted with it."""
    target = Target(destination, store)
    for own, obj in fleet.placements_of(key).items():
        deleted_at = obj["metadata"].get("deletionTimestamp") or destination.metadata.deletion_timestamp
        placement = {**obj, "metadata": {**obj["metadata"], "deletionTimestamp": deleted_at}} if deleted_at else obj
        target.add(own, placement)
        target.wanted.add(own)
    return target


def _decide(key: Key, destination: Destination, fleet: Fleet) -> Decision | None:
    decision = decide(key, fleet.view)
    if decision is None or decision.write is not None or decision.verdict is None or decision.verdict.reason:
        return decision
    # A finalizer that is not needed goes first; with that change the Destination is written.
    obj = fleet.destinations[key]
    finalizers = [name for name in destination.metadata.finalizers if name != CLEANUP_FINALIZER]
    without = {**obj, "metadata": {**obj["metadata"], "finalizers": finalizers}}
    return decide(key, replace(fleet.view, destinations={key: without}))


def _leave_all(found: Pending, destination: Destination, fleet: Fleet) -> None:
    """Plan the cleanup of a Destination that is being deleted."""
    if found.store is not None:
        owner = fleet.owner(found.store, found.root)
        if owner is None or owner.metadata.uid == destination.metadata.uid:
            found.target = _target(found.key, destination, found.store, fleet)
    known = recorded(fleet.destinations[found.key])
    if known is None:
        if found.store is None:
            found.why_not = f"its State Store is needed to clean up: {found.why_not or 'not found'}"
            return
        known = (Location.of(destination, found.store),)
    _leave(found, destination, known, fleet, None)


def _leave(
    found: Pending, destination: Destination, locations: tuple[Location, ...], fleet: Fleet, current: Location | None
) -> None:
    for number, location in enumerate(locations):
        try:
            store = location.store(fleet.view)
            if store is None:
                raise StateStoreNotReady(f"{location.kind}/{location.name}: not found")
            if is_store_paused(location.store_key, fleet.view):
                raise StateStoreNotReady(f"{location.kind}/{location.name} is paused: its files stay until it is not")
            kept = set(fleet.others_within(store, location.root, destination.metadata.uid))
            if current is not None and current.place == location.place:
                kept |= own_directories(current, location.root, destination)
        except LandfallError as error:
            found.errors[str(location)] = error
            continue
        prune = frozenset({location.root})
        edit_id = f"{_id(found.key)} cleanup {number}"
        found.leaving.append((store, Edit(edit_id, destination.name, location.root, prune=prune, keep=frozenset(kept))))


def _id(key: Key) -> str:
    return f"{key[0]}/{key[1]}"
