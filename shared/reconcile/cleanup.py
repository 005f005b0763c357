"""cleanup: delete what a Destination has in a State Store where it is being deleted, or has moved away from.

A Destination that is being deleted is then let go (docs/contract.md#deletion). The Lease of one place is held at a
time, so the locations that a Destination remembers are cleaned one after the other.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from shared import conditions
from shared.deadline import Deadline
from shared.errors import (
    InvalidObject,
    KubernetesConflict,
    LandfallError,
    OutOfTime,
    StateStoreNotReady,
)
from shared.kube import Cluster, Key, Object, each, key_of, selectors
from shared.messages import Reference, Verdict
from shared.plan import Edit, Outcome, Written
from shared.queues import Outgoing
from shared.reconcile.batch import Share, Task, Tasks, by_cluster, fold, for_each_cluster, retry
from shared.reconcile.by_place import Done, PlaceWork, for_each_place, locate
from shared.reconcile.connections import Connections
from shared.reconcile.locations import Location, left_behind, location_annotation, own_directories, recorded
from shared.reconcile.ownership import Site, look_again, remembered_stores
from shared.reconcile.pausing import is_store_paused, why_paused
from shared.reconcile.store_batch import StateStores
from shared.reconcile.view import View
from shared.reconcile.waiting import Waiting
from shared.resources import CLEANUP_FINALIZER, Destination, StateStore, is_label_value
from shared.settings import Settings
from shared.works import DESTINATION_LABEL, destination_of


async def clean_up(
    messages: Mapping[str, Reference], connections: Connections, deadline: Deadline
) -> dict[str, Exception]:
    """Delete the files of a batch of Destinations, one changeset a State Store, and release their finalizers.

    Whether a Destination is being deleted or has moved is read from the cluster: a message alone deletes nothing.

    Args:
        messages: by message id, a Destination to look at.
        connections: of this container.
        deadline: of this invocation.

    Returns:
        By message id: why it has to be delivered again.
    """

    async def clean(name: str, share: Mapping[str, Reference], cluster: Cluster) -> Share:
        work = PlaceWork.of("cleanup", "cleanup", name, cluster, settings=connections.settings, deadline=deadline)

        async def act(tasks: Tasks, site: Site | None) -> Done:
            place = "" if site is None else site.place
            view = await View.of(name, cluster, deadline, [task.key for task in tasks.values()])
            await view.read(cluster, deadline, stores=remembered_stores(view))
            leaving = _leaving(tasks.values(), place, view)
            outcomes = await _delete_workplacements(leaving, view, cluster, deadline)
            edits = {} if site is None else await _edits(leaving, site, view, outcomes)
            stores = StateStores(cluster, connections, deadline, deadline if site is None else site.deadline)
            outcomes |= await stores.write_all(edits)
            done = Done(settled=stores.settled)
            if site is not None:
                done.outgoing += await _let_go(leaving, outcomes, site)
            for edit_id, one in leaving.items():
                try:
                    done.outgoing += await one.follow(outcomes.get(edit_id), work, deadline, connections.settings)
                except KubernetesConflict:
                    done.outgoing.append(work.elsewhere(one.reference, place, one.task.origin))
                except LandfallError as error:  # it is this Destination's alone
                    done.failures.update(dict.fromkeys(one.task.origin, error))
            return done

        places = await locate(fold(share), work, deadline)
        return await for_each_place(places, act, work, connections, deadline), []

    return await for_each_cluster(by_cluster(messages, connections.clusters), clean, connections, deadline)


@dataclass(frozen=True, slots=True)
class _Leaving:
    """A Destination with what it has to leave.

    Attributes:
        task: what asked for it.
        reference: to it, as it is now.
        obj: the Destination as the API server has it.
        destination: the same, read.
        locations: that are still to be cleaned.
        location: of those, the one at hand: at this place where there is one; None where none is left, or the State
            Stores of all that are left are paused.
        current: where a living Destination is now, which is kept.
        unknown: why its location cannot be known.
    """

    task: Task
    reference: Reference
    obj: Object
    destination: Destination
    locations: tuple[Location, ...]
    location: Location | None
    current: Location | None = None
    unknown: LandfallError | None = None

    async def edit(self, edit_id: str, view: View, site: Site) -> tuple[StateStore, Edit]:
        """Return the deletion of everything at the location at hand, but for what is another's.

        Raises:
            LandfallError: it cannot be had, or must not be deleted.
        """
        location = self.location
        store = None if location is None else location.store(view)
        if location is None or store is None:
            raise StateStoreNotReady("not found", reason="StateStoreNotFound")
        kept = set(await site.others_inside(location.root, self.destination.metadata.uid))
        if self.current is not None and self.current.place == location.place:
            kept |= own_directories(self.current, location.root, self.destination)
        return store, Edit(
            edit_id, self.destination.name, location.root, prune=frozenset({location.root}), keep=frozenset(kept)
        )

    async def follow(
        self, outcome: Outcome | None, work: PlaceWork, deadline: Deadline, settings: Settings
    ) -> list[Outgoing]:
        """Return what follows from what became of the location at hand; None where it is at another place.

        Raises:
            OutOfTime: it was not tried.
            KubernetesError: the Destination could not be told.
        """
        if isinstance(outcome, OutOfTime):
            raise outcome
        if isinstance(outcome, LandfallError):
            return list(self._failed(outcome, settings))
        if outcome is None and self.location is not None:
            return [work.elsewhere(self.reference, self.location.place, self.task.origin)]
        return await self._cleaned(work, deadline)

    async def _cleaned(self, work: PlaceWork, deadline: Deadline) -> list[Outgoing]:
        """Return what follows once the location at hand is clean.

        Raises:
            KubernetesError: the Destination could not be told.
        """
        rest = tuple(location for location in self.locations if location != self.location)
        if self.current is None and not rest:
            return [self._release()]
        if self.location is None:
            return []
        remembered = location_annotation([*rest, *([self.current] if self.current is not None else [])])
        obj = {**self.obj, "kind": "Destination"}
        patched = await work.cluster.patch(obj, {"metadata": {"annotations": remembered}}, deadline)
        if patched is None or not rest:
            return []
        return [work.elsewhere(self.reference, rest[0].place, self.task.origin)]

    def _failed(self, error: LandfallError, settings: Settings) -> Iterator[Outgoing]:
        """Yield what follows where files could not be deleted."""
        origin = self.task.origin
        metadata = self.destination.metadata
        since = metadata.deletion_timestamp
        waited = (datetime.now(UTC) - since).total_seconds() if since else 0.0
        gone = isinstance(error, StateStoreNotReady | InvalidObject)
        if since and waited >= (settings.cleanup_grace_seconds if gone else settings.cleanup_give_up_seconds):
            # Better some files that are not read any more than an object that cannot be deleted.
            skipped = conditions.cleanup_skipped(self.reference, self._what(), str(error))
            # One message: an Event that came after the release would find no object to be about.
            yield Outgoing("status", skipped.model_copy(update={"remove_finalizers": (CLEANUP_FINALIZER,)}), origin)
            return
        if since and not isinstance(error, _StillHasWorkPlacements):
            ref = self.destination.spec.state_store_ref
            failed = conditions.destination_failed(self.reference, ref, error)
            yield Outgoing("status", failed.seeing(self.obj), origin)
        yield from retry("cleanup", self.reference, error, origin, settings, whatever_it_was=True)

    def _what(self) -> str:
        ref = self.destination.spec.state_store_ref
        if self.locations:
            return f"everything below {', '.join(map(str, self.locations))}"
        return f"everything below path {self.destination.spec.path or self.destination.name!r} of {ref.kind}/{ref.name}"

    def _release(self) -> Outgoing:
        release = Verdict(reference=self.reference, remove_finalizers=(CLEANUP_FINALIZER,))
        return Outgoing("status", release, self.task.origin)


async def _edits(
    leaving: Mapping[str, _Leaving], site: Site, view: View, outcomes: dict[str, Outcome]
) -> dict[str, tuple[StateStore, Edit]]:
    """Return the deletions at a place; what cannot be deleted goes to the outcomes."""
    edits: dict[str, tuple[StateStore, Edit]] = {}
    for edit_id, one in leaving.items():
        if edit_id in outcomes or one.location is None or one.location.place != site.place:
            continue
        try:
            edits[edit_id] = await one.edit(edit_id, view, site)
        except LandfallError as error:
            outcomes[edit_id] = error
    return edits


async def _let_go(leaving: Mapping[str, _Leaving], outcomes: Mapping[str, Outcome], site: Site) -> list[Outgoing]:
    """Give up the claims to directories that are clean; return the messages to those that wait for them.

    Raises:
        KubernetesError: claims could not be read or written; what is clean is found clean again.
    """
    written = (one for edit_id, one in leaving.items() if isinstance(outcomes.get(edit_id), Written))
    clean = [(one, one.location) for one in written if one.location is not None]
    if not clean:
        return []
    await site.give_up((location.root, one.destination.metadata.uid) for one, location in clean)
    waiting = await Waiting.read(site.namespace, site.cluster, site.deadline)
    return [
        Outgoing("canary", reference, one.task.origin)
        for one, location in clean
        for key, wait in waiting.on(one.task.key)
        if (wait.place, wait.root) == (site.place, location.root)
        for reference in look_again(site.cluster_name, [key], site.place)
    ]


class _StillHasWorkPlacements(LandfallError):
    """Their own finalizers hold them until their files are gone."""


def _leaving(tasks: Iterable[Task], place: str, view: View) -> dict[str, _Leaving]:
    """Return the Destinations of a batch that have something to leave, by edit id."""
    found: dict[str, _Leaving] = {}
    for task in tasks:
        obj = view.destinations.get(task.key)
        reference = None if obj is None else task.current(obj)
        if obj is None or reference is None or why_paused(task.key, view):
            continue
        try:
            destination = Destination.parse(obj)
        except InvalidObject:
            continue  # no file of it can be found; on-destination-change has said what is wrong with it
        # A cleanup that is turned off before the deletion, or while it is under way, keeps the files: the finalizer
        # goes by what on-destination-change decides.
        if destination.spec.cleanup != "all":
            continue
        one = _Leaving(task, view.reference(obj, attempt=reference.attempt), obj, destination, (), None)
        leaving = _locate(one, place, view)
        if leaving is not None:
            found[f"{task.key[0]}/{task.key[1]}"] = leaving
    return found


def _locate(one: _Leaving, place: str, view: View) -> _Leaving | None:
    """Return a Destination with its locations; None where it has nothing to leave."""
    metadata = one.destination.metadata
    if metadata.being_deleted and CLEANUP_FINALIZER not in metadata.finalizers:
        return None
    current: Location | None = None
    error: LandfallError | None = None
    try:
        store = view.store(one.destination)
        if store is None:
            raise StateStoreNotReady("not found", reason="StateStoreNotFound")
        current = Location.of(one.destination, store)
    except LandfallError as unknown:
        error = unknown
    known = recorded(one.obj)
    if not metadata.being_deleted:
        locations = () if current is None else left_behind(one.obj, current)
        if current is None or not locations:
            return None
        return _with(one, locations, place, view, current=current)
    if known is None:
        if current is None:
            return _with(one, (), place, view, unknown=error)
        known = (current,)
    return _with(one, known, place, view)


def _with(
    one: _Leaving,
    locations: tuple[Location, ...],
    place: str,
    view: View,
    *,
    current: Location | None = None,
    unknown: LandfallError | None = None,
) -> _Leaving:
    possible = [at for at in locations if not is_store_paused(at.store_key, view)]
    location = next((at for at in possible if at.place == place), possible[0] if possible else None)
    return _Leaving(one.task, one.reference, one.obj, one.destination, locations, location, current, unknown)


async def _delete_workplacements(
    leaving: Mapping[str, _Leaving], view: View, cluster: Cluster, deadline: Deadline
) -> dict[str, Outcome]:
    """Delete the WorkPlacements of Destinations that go; return, by edit id, why some are not to be cleaned yet."""
    blocked: dict[str, Outcome] = {edit_id: one.unknown for edit_id, one in leaving.items() if one.unknown is not None}
    going = {edit_id: one for edit_id, one in leaving.items() if one.destination.metadata.being_deleted}
    if not going:
        return blocked
    found: dict[Key | None, int] = {}
    refused: dict[Key | None, LandfallError] = {}
    names = sorted({one.destination.name for one in going.values() if is_label_value(one.destination.name)})
    for _, selector in selectors(DESTINATION_LABEL, names):
        async for page in cluster.pages("WorkPlacement", deadline, selector, metadata_only=True):
            deleted = await each(cluster.delete("WorkPlacement", *key_of(obj), deadline) for obj in page)
            for obj, why in zip(page, deleted, strict=True):
                key = view.target(key_of(obj)[0], destination_of(obj))
                found[key] = found.get(key, 0) + 1
                if isinstance(why, LandfallError):
                    refused[key] = why
    for edit_id, one in going.items():
        if (count := found.get(one.task.key)) is not None:
            words = f"{count} WorkPlacements of it are still being deleted"
            blocked[edit_id] = refused.get(one.task.key) or _StillHasWorkPlacements(words)
    return blocked
