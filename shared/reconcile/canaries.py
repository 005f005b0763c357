"""write-canary: check State Stores, bring canary documents to where they belong, and say how it went."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final, Self

from shared import conditions
from shared.deadline import Deadline
from shared.errors import (
    InvalidObject,
    KubernetesConflict,
    LandfallError,
    OutOfTime,
    StateStoreError,
    is_out_of_reach,
)
from shared.kube import Cluster, Key, Object
from shared.messages import Reference, Verdict
from shared.plan import Outcome
from shared.queues import Outgoing
from shared.reconcile.batch import Share, Task, Tasks, by_cluster, fold, for_each_cluster, retry
from shared.reconcile.by_place import Done, PlaceWork, Snapshots, for_each_place, locate
from shared.reconcile.connections import Connections
from shared.reconcile.decisions import Write, decide, says_nothing_new
from shared.reconcile.locations import Location, hold, left_behind, location_annotation, old_files, recorded
from shared.reconcile.store_batch import StateStores
from shared.reconcile.view import StoreKey, View, place_of, store_key
from shared.resources import STORE_KINDS, StateStore, parse_state_store
from shared.settings import Settings

# After a move, before the old directory is cleaned: the WorkPlacements' documents are to be at the new one by then.
_CLEANED_AFTER_SECONDS: Final = 30


async def write_canaries(
    messages: Mapping[str, Reference], connections: Connections, deadline: Deadline
) -> dict[str, Exception]:
    """Check the State Stores and write the canary documents of a batch, one changeset a State Store.

    Args:
        messages: by message id, a Destination to write, or a State Store to check and whose Destinations to write.
        connections: of this container.
        deadline: of this invocation.

    Returns:
        By message id: why it has to be delivered again.
    """

    async def write(name: str, share: Mapping[str, Reference], cluster: Cluster) -> Share:
        snapshots = Snapshots(name, cluster, deadline)
        work = PlaceWork("write-canary", "canary", name, cluster, snapshots)

        async def act(tasks: Tasks, place: str, view: View, within: Deadline) -> Done:
            batch = _Batch.of(tasks, place, view)
            stores = StateStores(cluster, connections, deadline, within)
            checked = await stores.check_all(batch.stores.values())
            batch.decide(checked)
            await batch.hold(cluster, deadline)
            edits = {write.edit.id: (write.store, write.edit) for write in batch.writes.values()}
            outcomes = await stores.write_all(edits)
            outgoing = [
                *batch.outgoing(checked, outcomes, connections.settings),
                *(work.elsewhere(*moved) for moved in batch.elsewhere),
            ]
            return Done(batch.out_of_time(checked, outcomes), outgoing, stores.settled)

        places = await locate(fold(share), snapshots)
        return await for_each_place(places, act, work, connections, deadline), []

    return await for_each_cluster(by_cluster(messages, connections.clusters), write, connections, deadline)


@dataclass
class _Batch:
    """One place's share of a batch.

    Attributes:
        view: of the cluster, read under the place's Lease.
        place: that may be written to; "" for none.
        origins: the Destinations to write, with the messages that they come from.
        attempts: how often a Destination has been tried before, where it came by itself.
        stores: the State Stores to check.
        store_tasks: what asked for those checks, and with which reference.
        writes: the Destinations that may be written, as decided.
        verdicts: what is known of Destinations before anything is written.
        elsewhere: what is another place's by now: reference, place, and the messages that it comes from.
        unreachable: messages for which the Kubernetes API could not be reached.
    """

    view: View
    place: str
    origins: dict[Key, frozenset[str]] = field(default_factory=dict)
    attempts: dict[Key, int] = field(default_factory=dict)
    stores: dict[StoreKey, StateStore] = field(default_factory=dict)
    store_tasks: dict[StoreKey, tuple[Task, Reference]] = field(default_factory=dict)
    writes: dict[Key, Write] = field(default_factory=dict)
    verdicts: dict[Key, Verdict] = field(default_factory=dict)
    elsewhere: list[tuple[Reference, str, frozenset[str]]] = field(default_factory=list)
    unreachable: dict[str, Exception] = field(default_factory=dict)

    @classmethod
    def of(cls, tasks: Tasks, place: str, view: View) -> Self:
        """Take up what is to be done at a place."""
        batch = cls(view, place)
        for (kind, key), task in tasks.items():
            if kind in STORE_KINDS:
                batch.add_store((kind, *key), task)
            elif (obj := view.destinations.get(key)) is not None and (reference := task.current(obj)) is not None:
                batch.origins[key] = batch.origins.get(key, frozenset()) | task.origin
                batch.attempts[key] = reference.attempt
        return batch

    def add_store(self, key: StoreKey, task: Task) -> None:
        """Take a State Store up, with all its Destinations."""
        obj = self.view.stores.get(key)
        reference = None if obj is None else task.current(obj)
        if obj is None or reference is None:
            return
        with suppress(InvalidObject):  # `_of_stores` reports it, and decide() tells its Destinations
            store = parse_state_store(obj)
            if (place := place_of(store)) != self.place:
                self.elsewhere.append((self.view.store_reference(key, reference.attempt), place, task.origin))
                return
            self.stores[key] = store
        self.store_tasks[key] = task, reference
        for destination in self.view.destinations_of(key):
            self.origins[destination] = self.origins.get(destination, frozenset()) | task.origin

    def decide(self, checked: Mapping[StoreKey, LandfallError | None]) -> None:
        """Decide about each Destination, with what the checks of this very batch have found."""
        known = {key: error for key, error in checked.items() if not isinstance(error, OutOfTime)}
        for key in self.origins:
            decision = decide(key, self.view, known)
            if decision is None:
                continue
            if decision.write is not None and (place := place_of(decision.write.store)) != self.place:
                self.elsewhere.append((decision.reference, place, self.origins[key]))
            elif decision.write is not None:
                self.writes[key] = _without_old_files(decision.write, self.view.destinations[key])
            elif decision.verdict is not None:
                self.verdicts[key] = decision.verdict

    async def hold(self, cluster: Cluster, deadline: Deadline) -> None:
        """Let finalizers and annotations be there before the first byte; what cannot be held is not written."""
        writes = {key: (write.destination, write.store) for key, write in self.writes.items()}
        for key, error in (await hold(writes, self.view, cluster, deadline)).items():
            del self.writes[key]
            reference = self.view.reference(self.view.destinations[key], attempt=self.attempts.get(key, 0))
            if isinstance(error, KubernetesConflict):
                self.elsewhere.append((reference, self.place, self.origins[key]))
            elif is_out_of_reach(error):
                self.unreachable.update(dict.fromkeys(self.origins[key], error))
            else:
                self.verdicts[key] = conditions.finalizer_failed(reference, error)

    def out_of_time(
        self, checked: Mapping[StoreKey, LandfallError | None], outcomes: Mapping[str, Outcome]
    ) -> dict[str, Exception]:
        """Return the messages whose work nobody has tried, for want of time."""
        failures = dict(self.unreachable)
        for store, error in checked.items():
            if isinstance(error, OutOfTime):
                failures.update(dict.fromkeys(self.store_tasks[store][0].origin, error))
        for key, write in self.writes.items():
            outcome = outcomes[write.edit.id]
            if isinstance(outcome, OutOfTime):
                failures.update(dict.fromkeys(self.origins[key], outcome))
        return failures

    def outgoing(
        self, checked: Mapping[StoreKey, LandfallError | None], outcomes: Mapping[str, Outcome], settings: Settings
    ) -> Iterator[Outgoing]:
        """Yield the verdicts, and what is to be tried again."""
        yield from self._of_stores(checked, settings)
        for key, verdict in self.verdicts.items():
            if not says_nothing_new(verdict, obj := self.view.destinations[key]):
                yield Outgoing("status", verdict.seeing(obj), self.origins[key])
        doubted: dict[StoreKey, tuple[LandfallError, frozenset[str]]] = {}
        for key, write in self.writes.items():
            outcome, origin = outcomes[write.edit.id], self.origins[key]
            if isinstance(outcome, OutOfTime):
                continue
            reference = self.view.reference(self.view.destinations[key], attempt=self.attempts.get(key, 0))
            yield from self._of_destination(reference, write, outcome, origin)
            store = store_key(write.store)
            if isinstance(outcome, StateStoreError) and outcome.transient:
                if reference.attempt and store not in checked:
                    continue  # the failure before this one has started the store's chain of retries
                doubted[store] = (outcome, doubted.get(store, (outcome, frozenset()))[1] | origin)
            else:
                yield from retry("canary", reference, outcome, origin, settings)
        for store, (error, origin) in doubted.items():
            if store not in checked:  # let its check speak for all its Destinations, and heal them together
                yield Outgoing("canary", self.view.store_reference(store), origin)
            elif checked[store] is None:
                again = self.view.store_reference(store, self.store_tasks[store][1].attempt)
                yield from retry("canary", again, error, origin, settings)

    def _follow_move(self, reference: Reference, write: Write, origin: frozenset[str]) -> Iterator[Outgoing]:
        """Yield what follows where a Destination has been somewhere else before."""
        obj = self.view.destinations[(reference.namespace, reference.name)]
        others = left_behind(obj, Location.of(write.destination, write.store))
        if write.destination.spec.cleanup == "all":
            for place in sorted({location.place for location in others}):
                moved = reference.model_copy(update={"place": place, "attempt": 0})
                yield Outgoing("cleanup", moved, origin, _CLEANED_AFTER_SECONDS)
        else:
            for location in others:
                yield Outgoing("status", conditions.files_left_behind(reference, str(location)), origin)

    def _of_stores(self, checked: Mapping[StoreKey, LandfallError | None], settings: Settings) -> Iterator[Outgoing]:
        for key, (task, asked) in self.store_tasks.items():
            reference = self.view.store_reference(key, attempt=asked.attempt)
            error = checked.get(key)
            if key not in checked:
                error = self._unreadable(key)
            if isinstance(error, OutOfTime):
                continue
            if error is None:
                verdict = conditions.store_ready(reference)
            else:
                verdict = conditions.store_failed(reference, error)
                yield from retry("canary", reference, error, task.origin, settings)
            news = not says_nothing_new(verdict, self.view.stores[key])
            if error is not None or news:
                yield Outgoing("status", verdict.seeing(self.view.stores[key]), task.origin)
            if error is None and news:  # what could not be delivered while it was not ready is delivered now
                yield Outgoing("documents", reference, task.origin)

    def _unreadable(self, key: StoreKey) -> LandfallError | None:
        try:
            parse_state_store(self.view.stores[key])
        except InvalidObject as error:
            return error
        return None

    def _of_destination(
        self, reference: Reference, write: Write, outcome: Outcome, origin: frozenset[str]
    ) -> Iterator[Outgoing]:
        obj = self.view.destinations[(reference.namespace, reference.name)]
        if isinstance(outcome, LandfallError):
            ref = write.destination.spec.state_store_ref
            yield Outgoing("status", conditions.destination_failed(reference, ref, outcome).seeing(obj), origin)
            return
        verdict = conditions.destination_ready(reference, write.destination)
        verdict = verdict.model_copy(update={"annotations": _remembered(obj, write)})
        if verdict.annotations or not says_nothing_new(verdict, obj):
            yield Outgoing("status", verdict.seeing(obj), origin)
        yield from self._follow_move(reference, write, origin)


def _without_old_files(write: Write, obj: Object) -> Write:
    """Return a write that also removes the files that mode aggregatedYAML had under other names."""
    old = old_files(obj, Location.of(write.destination, write.store))
    return replace(write, edit=replace(write.edit, remove=write.edit.remove | old)) if old else write


def _remembered(obj: Object, write: Write) -> dict[str, str]:
    """Return what a Destination is to remember once it is written, where that is something else than it does.

    What it still has to clean stays remembered: cleanup strikes it out.
    """
    current, known = Location.of(write.destination, write.store), recorded(obj)
    if known == (current,) or (write.destination.spec.cleanup == "all" and left_behind(obj, current)):
        return {}
    return location_annotation([current])
