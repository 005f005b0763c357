"""write-documents: bring the documents of WorkPlacements to where they belong, and say how it went.

See docs/contract.md#documents.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from shared import conditions, paths
from shared.deadline import Deadline
from shared.errors import (
    InvalidObject,
    KubernetesConflict,
    LandfallError,
    OutOfTime,
    StateStoreError,
    StateStoreNotReady,
    is_out_of_reach,
)
from shared.kube import Cluster, Key, Object, key_of, together
from shared.messages import Reference, Verdict
from shared.plan import Outcome, Written
from shared.queues import Outgoing
from shared.reconcile.batch import Share, Task, Tasks, by_cluster, fold, for_each_cluster, retry
from shared.reconcile.by_place import Done, PlaceWork, Snapshots, for_each_place, locate
from shared.reconcile.connections import Connections
from shared.reconcile.decisions import decide
from shared.reconcile.directories import sharing
from shared.reconcile.locations import directories_annotation, hold, recorded_directories
from shared.reconcile.placement_writes import write_targets
from shared.reconcile.placing import Target, limits_of
from shared.reconcile.store_batch import StateStores
from shared.reconcile.unsaid import unsaid
from shared.reconcile.view import StoreKey, View, place_of, store_key
from shared.resources import STORE_KINDS, Destination
from shared.settings import Settings
from shared.works import DESTINATION_LABEL, REPO_FINALIZER, STATE_FILE_FINALIZER, destination_of

_FINALIZERS = (REPO_FINALIZER, STATE_FILE_FINALIZER)
_GET_AT_MOST = 100  # WorkPlacements one by one; more are listed, though a list brings documents that are not needed
_WORK_PLACEMENT = "WorkPlacement"


async def write_documents(
    messages: Mapping[str, Reference], connections: Connections, deadline: Deadline
) -> dict[str, Exception]:
    """Write the documents of a batch of WorkPlacements, one changeset a State Store.

    Args:
        messages: by message id, a WorkPlacement; or a Destination or a State Store, all of whose WorkPlacements are
            meant.
        connections: of this container.
        deadline: of this invocation.

    Returns:
        By message id: why it has to be delivered again.
    """
    settings = connections.settings

    async def write(name: str, share: Mapping[str, Reference], cluster: Cluster) -> Share:
        snapshots = Snapshots(name, cluster, deadline)
        work = PlaceWork("write-documents", "documents", name, cluster, snapshots)

        async def act(tasks: Tasks, place: str, view: View, within: Deadline) -> Done:
            batch = await _read(tasks, place, view, cluster, deadline)
            await batch.hold(cluster, deadline)
            stores = StateStores(cluster, connections, deadline, within)
            outcomes = {**batch.outcomes, **await write_targets(batch.targets, view, stores, limits_of(settings))}
            done = Done(dict(batch.unreachable), list(batch.unsaid()), stores.settled)
            for key, outcome in outcomes.items():
                if isinstance(outcome, OutOfTime):
                    done.failures.update(dict.fromkeys(batch.origins[key], outcome))
                else:
                    done.outgoing += batch.outgoing(key, outcome, settings)
            done.outgoing += batch.retries(outcomes, settings)
            done.outgoing += [work.elsewhere(*moved) for moved in batch.elsewhere]
            for key, known in {**dict.fromkeys(batch.targets, place), **batch.moved}.items():
                connections.places.learn(name, key, known)
            return done

        places = await _locate(fold(share), work, connections, deadline)
        return await for_each_place(places, act, work, connections, deadline), []

    return await for_each_cluster(by_cluster(messages, connections.clusters), write, connections, deadline)


async def _locate(
    tasks: Tasks, work: PlaceWork, connections: Connections, deadline: Deadline
) -> dict[str, dict[tuple[str, Key], Task]]:
    """Return tasks by the place that they are about; "" for those that have none.

    A WorkPlacement says where it goes only by its Destination's name. Where that Destination's State Store is known
    from before, it is taken to be still the same: under the Lease it is looked at again.
    """
    single = {key: task for (kind, key), task in tasks.items() if kind == _WORK_PLACEMENT}
    found = await locate({key: task for key, task in tasks.items() if key[0] != _WORK_PLACEMENT}, work.snapshots)
    unknown = [key for key, task in single.items() if not task.reference.place]
    placements = await work.cluster.read_many(
        _WORK_PLACEMENT, unknown, deadline, list_above=_GET_AT_MOST, metadata_only=True
    )
    view: View | None = None
    for key, task in single.items():
        place = task.reference.place
        if not place and key in placements:
            name = destination_of(placements[key])
            place = connections.places.of(work.cluster_name, key[0], name)
            if not place:
                view = view or await work.snapshots.read()
                destination = view.target(key[0], name)
                place = "" if destination is None else view.place(destination)
        found.setdefault(place, {})[_WORK_PLACEMENT, key] = task
    return found


async def _read(tasks: Tasks, place: str, view: View, cluster: Cluster, deadline: Deadline) -> "_Batch":
    batch = _Batch(view, place)
    single = {key: task for (kind, key), task in tasks.items() if kind == _WORK_PLACEMENT}
    whole: dict[Key, tuple[frozenset[str], int]] = {}
    for (kind, key), task in tasks.items():
        keys = view.destinations_of((kind, *key)) if kind in STORE_KINDS else [key] if kind == "Destination" else []
        for destination in keys:
            origin, attempt = whole.get(destination, (frozenset(), 0))
            attempts = (reference.attempt for reference in task.references)
            whole[destination] = (origin | task.origin, max(attempt, *attempts))
    objects = await _placements(single, {destination for _, destination in whole}, cluster, deadline)
    for key, obj in objects.items():
        mine, destination_key = single.get(key), view.target(key[0], _target(obj))
        if mine is not None and (reference := mine.current(obj)) is not None:
            batch.take(key, obj, mine.origin, reference.attempt)
        elif destination_key is not None and (its := whole.get(destination_key)) is not None:
            batch.take(key, obj, *its)
    crowded = batch.crowded()
    if crowded:  # modes in which one WorkPlacement's files depend on all the others'
        labels = [{DESTINATION_LABEL: destination} for destination in sorted(crowded)]
        found = await together(cluster.list_all("WorkPlacement", deadline, wanted) for wanted in labels)
        batch.surround({key_of(obj): obj for objects_ in found for obj in objects_})
    shared = await sharing(list(batch.targets.values()), batch.objects.keys(), cluster, deadline)
    batch.surround(shared, one_place=True)
    return batch


async def _placements(
    single: Mapping[Key, Task], whole: Collection[str], cluster: Cluster, deadline: Deadline
) -> dict[Key, Object]:
    if len(whole) > 1 or len(single) > _GET_AT_MOST:
        return {key_of(obj): obj for obj in await cluster.list_all("WorkPlacement", deadline)}
    found: dict[Key, Object] = {}
    for destination in whole:
        for obj in await cluster.list_all("WorkPlacement", deadline, {DESTINATION_LABEL: destination}):
            found[key_of(obj)] = obj
    missing = [key for key in single if key not in found]
    objects = await together(cluster.get("WorkPlacement", *key, deadline) for key in missing)
    return found | {key: obj for key, obj in zip(missing, objects, strict=True) if obj is not None}


def _target(obj: Object) -> str:
    return str((obj.get("spec") or {}).get("targetDestinationName") or "")


@dataclass
class _Batch:
    """One place's share of a batch.

    Attributes:
        view: of the cluster's Destinations and State Stores, read under the place's Lease.
        place: that may be written to; "" for none.
        objects: the WorkPlacements to deal with.
        origins: the messages that they come from.
        attempts: how often each has been tried before.
        targets: by Destination.
        outcomes: of those that need no writing, or cannot be written.
        moved: Destinations that are at another place than they were thought to be.
        unreachable: messages for which the Kubernetes API could not be reached.
        elsewhere: what is another place's by now: reference, place, and the messages that it comes from.
    """

    view: View
    place: str
    objects: dict[Key, Object] = field(default_factory=dict)
    origins: dict[Key, frozenset[str]] = field(default_factory=dict)
    attempts: dict[Key, int] = field(default_factory=dict)
    targets: dict[Key, Target] = field(default_factory=dict)
    outcomes: dict[Key, Outcome | None] = field(default_factory=dict)
    moved: dict[Key, str] = field(default_factory=dict)
    unreachable: dict[str, Exception] = field(default_factory=dict)
    elsewhere: list[tuple[Reference, str, frozenset[str]]] = field(default_factory=list)

    def take(self, key: Key, obj: Object, origin: frozenset[str], attempt: int) -> None:
        """Take a WorkPlacement up, and find out where it goes."""
        self.objects[key], self.origins[key], self.attempts[key] = obj, origin, attempt
        destination_key = self.view.target(key[0], _target(obj))
        if destination_key is None:
            self.outcomes[key] = None  # its Destination is gone: nothing of it can be found, so it is let go
            return
        try:
            target = self._target(destination_key, leaving=bool(obj["metadata"].get("deletionTimestamp")))
        except LandfallError as error:
            self.outcomes[key] = error
            return
        if target is None:
            self.outcomes[key] = None
            return
        if (place := place_of(target.store)) != self.place:
            del self.objects[key]
            reference = self.view.reference(obj, kind=_WORK_PLACEMENT, attempt=attempt)
            self.elsewhere.append((reference, place, origin))
            self.moved[destination_key] = place
            return
        target = self.targets.setdefault(destination_key, target)
        target.add(key, obj)
        target.wanted.add(key)

    def crowded(self) -> set[str]:
        """Return the names of Destinations all of whose WorkPlacements have to be known."""
        return {t.destination.name for t in self.targets.values() if t.mode != "nestedByMetadata" or t.has_moved}

    def surround(self, objects: Mapping[Key, Object], *, one_place: bool = False) -> None:
        """Let Destinations know the WorkPlacements that are not of this batch.

        One that has failed is taken up where what was in its way may be leaving or mended with this batch: in modes in
        which all share a directory, and in that of `nestedByMetadata` that it shares with one of this batch.

        Args:
            objects: WorkPlacements.
            one_place: whether they share a directory with one of this batch.
        """
        for key, obj in objects.items():
            destination_key = self.view.target(key[0], _target(obj))
            target = None if destination_key is None else self.targets.get(destination_key)
            if target is None or key in self.objects:
                continue
            if (one_place or target.mode != "nestedByMetadata") and conditions.write_failed(obj):
                origin = frozenset[str]().union(*(self.origins[wanted] for wanted in target.wanted))
                self.take(key, obj, origin, 0)
            else:
                target.add(key, obj)

    def _target(self, key: Key, *, leaving: bool) -> Target | None:
        """Return where a Destination's documents go; None where it has none, as its directory is another's.

        Raises:
            LandfallError: it takes none now; what is leaving may go from wherever the State Store is known.
        """
        decision = decide(key, self.view)
        if decision is not None and decision.write is not None:
            return Target(decision.write.destination, decision.write.store)
        obj = self.view.destinations[key]
        destination = Destination.parse(obj)
        store = self.view.store(destination) if leaving else None
        if store is not None:
            owner = self.view.owner(store, paths.destination_root(store, destination))
            own = owner is None or owner.metadata.uid == destination.metadata.uid
            return Target(destination, store) if own else None
        why = (
            decision.verdict.message if decision is not None and decision.verdict is not None else "it is being deleted"
        )
        raise StateStoreNotReady(f"Destination {destination.name} cannot be written to: {why}")

    async def hold(self, cluster: Cluster, deadline: Deadline) -> None:
        """Let finalizers and annotations be there before the first byte; what cannot be held is not written."""
        destinations = {
            key: (target.destination, target.store)
            for key, target in self.targets.items()
            if not target.destination.metadata.being_deleted
        }
        for destination_key, error in (await hold(destinations, self.view, cluster, deadline)).items():
            for key in list(self.targets[destination_key].wanted):
                self._let_go(key, error)
        missing = {
            key: patch
            for target in self.targets.values()
            for key in target.wanted
            if (patch := target.missing(key, self.objects[key]))
        }
        patched = await together(self._patch(key, patch, cluster, deadline) for key, patch in missing.items())
        for key, result in zip(missing, patched, strict=True):
            if isinstance(result, LandfallError):
                self._let_go(key, result)
            else:
                self.objects[key] = result

    async def _patch(self, key: Key, patch: Object, cluster: Cluster, deadline: Deadline) -> Object | LandfallError:
        try:
            found = await cluster.patch({**self.objects[key], "kind": _WORK_PLACEMENT}, {"metadata": patch}, deadline)
        except LandfallError as error:
            return error
        return KubernetesConflict(f"WorkPlacement {'/'.join(key)} is gone") if found is None else found

    def _let_go(self, key: Key, error: LandfallError) -> None:
        """Leave a WorkPlacement unwritten that cannot be held."""
        target = next(target for target in self.targets.values() if key in target.wanted)
        target.wanted.discard(key)
        reference = self.view.reference(self.objects[key], kind=_WORK_PLACEMENT, attempt=self.attempts[key])
        if isinstance(error, KubernetesConflict):
            self.elsewhere.append((reference, self.place, self.origins[key]))
        elif is_out_of_reach(error):
            self.unreachable.update(dict.fromkeys(self.origins[key], error))
        else:
            self.outcomes[key] = error

    def unsaid(self) -> Iterator[Outgoing]:
        """Yield what on-work-change found of WorkPlacements and could not report."""
        for key, obj in self.objects.items():
            verdict = unsaid(obj, self.view.reference(obj, kind="WorkPlacement"))
            if verdict is not None:
                yield Outgoing("status", verdict.seeing(obj), self.origins[key])

    def outgoing(self, key: Key, outcome: Outcome | None, settings: Settings) -> Iterator[Outgoing]:
        """Yield the verdict on a WorkPlacement, and what is to be tried again."""
        obj, origin = self.objects[key], self.origins[key]
        reference = self.view.reference(obj, kind="WorkPlacement", attempt=self.attempts[key])
        finalizers = tuple(f for f in obj["metadata"].get("finalizers") or () if f in _FINALIZERS)
        leaving = bool(obj["metadata"].get("deletionTimestamp"))
        if outcome is None or (leaving and (isinstance(outcome, Written) or _waited_enough(obj, outcome, settings))):
            if finalizers and leaving:
                yield Outgoing("status", Verdict(reference=reference, remove_finalizers=finalizers).seeing(obj), origin)
            if not leaving:  # placed while its Destination was being deleted: its Work is to be placed anew
                yield Outgoing("works", reference, origin)
            return
        if isinstance(outcome, LandfallError):
            yield Outgoing("status", conditions.placement_failed(reference, str(outcome)).seeing(obj), origin)
            if leaving or not isinstance(outcome, StateStoreError):
                yield from retry("documents", reference, outcome, origin, settings, whatever_it_was=leaving)
            return
        verdict = conditions.placement_written(reference, outcome.version)
        verdict = verdict.model_copy(update={"annotations": self._remembered(key, obj)})
        if not outcome.changed and conditions.is_written(obj):
            verdict = verdict.model_copy(update={"fields": {}})  # nothing was written, so the version stays
        if verdict.annotations or conditions.merged(verdict, obj) is not None:
            yield Outgoing("status", verdict.seeing(obj), origin)

    def _remembered(self, key: Key, obj: Object) -> dict[str, str]:
        """Return what a WorkPlacement is to remember, where that is something else than it does."""
        target = next((target for target in self.targets.values() if key in target.all), None)
        directory = "" if target is None else target.directory(key)
        return {} if not directory or recorded_directories(obj) == (directory,) else directories_annotation([directory])

    def retries(self, outcomes: Mapping[Key, Outcome | None], settings: Settings) -> Iterator[Outgoing]:
        """Yield one retry a State Store for all its WorkPlacements that it failed."""
        failed: dict[StoreKey, tuple[LandfallError, frozenset[str], int]] = {}
        for target in self.targets.values():
            for key in target.wanted:
                error = outcomes.get(key)
                if isinstance(error, StateStoreError) and error.transient:
                    store = store_key(target.store)
                    known = failed.get(store, (error, frozenset(), 0))
                    failed[store] = (error, known[1] | self.origins[key], max(known[2], self.attempts[key]))
        for store, (error, origin, attempt) in failed.items():
            yield from retry("documents", self.view.store_reference(store, attempt), error, origin, settings)


def _waited_enough(obj: Object, outcome: Outcome | None, settings: Settings) -> bool:
    """Whether a WorkPlacement that is being deleted has waited long enough for a State Store that cannot be had."""
    deleted_at = datetime.fromisoformat(obj["metadata"]["deletionTimestamp"])
    gone = isinstance(outcome, StateStoreNotReady | InvalidObject)
    grace = settings.cleanup_grace_seconds if gone else settings.cleanup_give_up_seconds
    return (datetime.now(UTC) - deleted_at).total_seconds() >= grace
