"""One place's share of what write-canary does: what is decided, what is written, and what is to be said of it."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final, Self

from shared import conditions, paths
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
from shared.observability import logger
from shared.plan import Outcome
from shared.queues import Outgoing
from shared.reconcile.batch import Task, Tasks, retry
from shared.reconcile.by_place import retries
from shared.reconcile.decisions import Write, decide, says_nothing_new
from shared.reconcile.locations import Location, hold, left_behind, location_annotation, old_files, recorded
from shared.reconcile.ownership import Site, Standing, look_again, standing
from shared.reconcile.pausing import GO_ON, is_store_paused
from shared.reconcile.view import StoreKey, View, place_of, store_key
from shared.reconcile.waiting import Waiting
from shared.resources import CLEANUP_FINALIZER, STORE_KINDS, Destination, StateStore, parse_state_store
from shared.settings import Settings

# After a move, before the old directory is cleaned: the WorkPlacements' documents are to be at the new one by then.
_CLEANED_AFTER_SECONDS: Final = 30


@dataclass
class CanaryBatch:
    """One place's share of a batch.

    Attributes:
        view: of what the batch is about, read under the place's Lease.
        place: that may be written to; "" for none.
        named: all Destinations that the batch names, with the messages that do; some may be gone.
        origins: those to write, with the messages that they come from.
        asked: the references by which those are named.
        stores: the State Stores to check.
        store_tasks: what asked for those checks, and with which reference.
        unheld: Destinations that are not to be written, and should have our finalizer all the same.
        clashes: Destinations whose directory another one has.
        looked_at_again: Destinations that have lost their directory, or may get one, by now; with the place.
        awaited: Destinations whose files have to go before others of this batch get their directories.
        regained: Destinations that have got the directory that they waited for.
        writes: the Destinations that may be written, as decided.
        wanting: Destinations that cannot be written yet, with the directory here that they want.
        verdicts: what is known of Destinations before anything is written.
        elsewhere: what is another place's by now: reference, place, and the messages that it comes from.
        unreachable: messages for which the Kubernetes API could not be reached.
    """

    view: View
    place: str
    named: dict[Key, frozenset[str]] = field(default_factory=dict)
    origins: dict[Key, frozenset[str]] = field(default_factory=dict)
    asked: dict[Key, Reference] = field(default_factory=dict)
    stores: dict[StoreKey, StateStore] = field(default_factory=dict)
    store_tasks: dict[StoreKey, tuple[Task, Reference]] = field(default_factory=dict)
    writes: dict[Key, Write] = field(default_factory=dict)
    wanting: dict[Key, tuple[Destination, str]] = field(default_factory=dict)
    verdicts: dict[Key, Verdict] = field(default_factory=dict)
    unheld: dict[Key, Destination] = field(default_factory=dict)
    clashes: set[Key] = field(default_factory=set)
    looked_at_again: list[tuple[Key, str, frozenset[str]]] = field(default_factory=list)
    awaited: list[tuple[Key, frozenset[str]]] = field(default_factory=list)
    regained: set[Key] = field(default_factory=set)
    elsewhere: list[tuple[Reference, str, frozenset[str]]] = field(default_factory=list)
    unreachable: dict[str, Exception] = field(default_factory=dict)

    @classmethod
    def of(cls, tasks: Tasks, place: str, view: View) -> Self:
        """Take up what is to be done at a place."""
        batch = cls(view, place)
        for (kind, key), task in tasks.items():
            if kind in STORE_KINDS:
                batch.add_store((kind, *key), task)
            if kind != "Destination":
                continue
            batch.named[key] = task.origin
            if (obj := view.destinations.get(key)) is not None and (reference := task.current(obj)) is not None:
                batch.origins[key] = batch.origins.get(key, frozenset()) | task.origin
                batch.asked[key] = reference
        return batch

    def add_store(self, key: StoreKey, task: Task) -> None:
        """Take a State Store up, to be checked."""
        obj = self.view.stores.get(key)
        reference = None if obj is None else task.current(obj)
        if obj is None or reference is None:
            return
        with suppress(InvalidObject):  # `_of_stores` reports it, and decide() tells its Destinations
            store = parse_state_store(obj)
            if (place := place_of(store)) != self.place:
                self.elsewhere.append((self.view.store_reference(key, reference.attempt), place, task.origin))
                return
            if not is_store_paused(key, self.view):
                self.stores[key] = store
        self.store_tasks[key] = task, reference

    @property
    def looked_at(self) -> dict[Key, frozenset[str]]:
        """The Destinations that have been dealt with here, with the messages that they come from."""
        moved = {(r.namespace, r.name) for r, _, _ in self.elsewhere if r.kind == "Destination"}
        return {key: origin for key, origin in self.origins.items() if key not in moved}

    @property
    def checked(self) -> dict[StoreKey, frozenset[str]]:
        """The State Stores that have been dealt with here, with the messages that they come from."""
        return {key: task.origin for key, (task, _) in self.store_tasks.items()}

    def decide(self, checked: Mapping[StoreKey, LandfallError | None]) -> None:
        """Decide about each Destination, with what the checks of this very batch have found."""
        known = {key: error for key, error in checked.items() if not isinstance(error, OutOfTime)}
        for key in self.origins:
            decision = decide(key, self.view, known)
            if decision is None:
                continue
            destination = decision.destination
            if decision.write is None and destination is not None and _lacks_finalizer(destination):
                self.unheld[key] = destination
            if decision.write is not None and (place := place_of(decision.write.store)) != self.place:
                self.elsewhere.append((decision.reference, place, self.origins[key]))
            elif decision.write is not None:
                self.writes[key] = _without_old_files(decision.write, self.view.destinations[key])
            elif decision.verdict is not None:
                self.verdicts[key] = decision.verdict
                where = self.view.where(key)
                if decision.wants and destination is not None and where is not None and where[0] == self.place:
                    self.wanting[key] = destination, where[1]

    async def claim(self, site: Site, waiting: Waiting | None) -> None:
        """Claim directories; a Destination whose directory an older one has is not written."""
        wanted = self.wanting | {
            key: (write.destination, paths.destination_root(write.store, write.destination))
            for key, write in self.writes.items()
        }
        claimed = await site.claim(wanted, waiting, take_over=True)
        self.clashes |= claimed.clashes.keys()
        for key, clash in claimed.clashes.items():
            if (write := self.writes.pop(key, None)) is None:
                continue
            reference = self.view.reference(self.view.destinations[key])
            self.verdicts[key] = conditions.path_clash(reference, clash.holder.name, leaving=clash.leaving)
            if _lacks_finalizer(write.destination):
                self.unheld[key] = write.destination
            if clash.leaving:
                self.awaited.append(((clash.holder.namespace, clash.holder.name), self.origins[key]))
        everything = frozenset[str]().union(*self.origins.values())
        self.looked_at_again += [(key, site.place, everything) for key in claimed.displaced]
        self.regained = {key for key in self.writes if waiting is not None and key in waiting}

    async def wake(self, waiting: Waiting) -> None:
        """Find those that wait for what Destinations of this batch had, and strike out those that wait no more."""
        for key in self.named:
            for other, wait in waiting.on(key):
                if standing(key, (wait.place, wait.root), self.view) is Standing.LOST:
                    self.looked_at_again.append((other, wait.place, self.named[key]))
        # One that a late message names, which is not about it any more, has not been decided about.
        decided = (key for key in self.named if key in self.origins or key not in self.view.destinations)
        try:
            await waiting.change({}, [key for key in decided if key not in self.clashes])
        except LandfallError as error:  # an entry too many costs a message
            logger.warning("Destinations that wait no more are still listed: %s", error)

    async def hold(self, cluster: Cluster, deadline: Deadline) -> None:
        """Let finalizers and annotations be there before the first byte; what cannot be held is not written."""
        writes: dict[Key, tuple[Destination, StateStore | None]] = {
            **{key: (destination, None) for key, destination in self.unheld.items()},
            **{key: (write.destination, write.store) for key, write in self.writes.items()},
        }
        for key, error in (await hold(writes, self.view, cluster, deadline)).items():
            self.writes.pop(key, None)
            self.verdicts.pop(key, None)
            reference = self._reference(key)
            if isinstance(error, KubernetesConflict):
                self.elsewhere.append((reference, self.place, self.origins[key]))
            elif is_out_of_reach(error):
                self.unreachable.update(dict.fromkeys(self.origins[key], error))
            else:
                self.verdicts[key] = conditions.finalizer_failed(reference, error)

    def out_of_time(
        self, checked: Mapping[StoreKey, LandfallError | None], outcomes: Mapping[str, Outcome]
    ) -> dict[str, Exception]:
        """Return the messages whose work was not tried, for want of time."""
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
        for key, place, origin in self.looked_at_again:
            for reference in look_again(self.view.cluster, [key], place):
                yield Outgoing("canary", reference, origin)
        for key, origin in self.awaited:  # two that change places wait for each other, and neither is written before
            for reference in look_again(self.view.cluster, [key], self.place):
                yield Outgoing("cleanup", reference, origin, _CLEANED_AFTER_SECONDS)
        for key, verdict in self.verdicts.items():
            if not says_nothing_new(verdict, obj := self.view.destinations[key]):
                yield Outgoing("status", verdict.seeing(obj), self.origins[key])
        for key, write in self.writes.items():
            outcome, origin = outcomes[write.edit.id], self.origins[key]
            if isinstance(outcome, OutOfTime):
                continue
            yield from self._of_destination(self._reference(key), write, outcome, origin)
            if key in self.regained and not isinstance(outcome, LandfallError):
                yield Outgoing("documents", self._reference(key).model_copy(update={"attempt": 0}), origin)
        yield from self._tried_again(checked, outcomes, settings)

    def _tried_again(
        self, checked: Mapping[StoreKey, LandfallError | None], outcomes: Mapping[str, Outcome], settings: Settings
    ) -> Iterator[Outgoing]:
        """Yield what tries failed writes again; what a State Store failed is one chain of retries, the store's."""
        doubted: dict[StoreKey, tuple[LandfallError, frozenset[str]]] = {}
        of_many: list[tuple[Reference, frozenset[str]]] = []
        for key, write in self.writes.items():
            outcome, origin, store = outcomes[write.edit.id], self.origins[key], store_key(write.store)
            if isinstance(outcome, OutOfTime):
                continue
            if not (isinstance(outcome, StateStoreError) and outcome.transient):
                yield from retry("canary", self._reference(key), outcome, origin, settings)
            elif not self.asked[key].attempt or store in checked:
                doubted[store] = (outcome, doubted.get(store, (outcome, frozenset()))[1] | origin)
            elif not self.asked[key].uid:  # one of many, whose store is in another message
                of_many.append((self.asked[key], origin))
        yield from retries("canary", of_many, settings)
        for store, (error, origin) in doubted.items():
            if store not in checked:  # let its check speak for all its Destinations, and heal them together
                yield Outgoing("canary", self.view.store_reference(store), origin)
            elif checked[store] is None:
                again = self.view.store_reference(store, self.store_tasks[store][1].attempt)
                yield from retry("canary", again, error, origin, settings)

    def _reference(self, key: Key) -> Reference:
        return self.view.reference(self.view.destinations[key], attempt=self.asked[key].attempt)

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
            if is_store_paused(key, self.view):
                verdict = conditions.paused(reference, GO_ON)
                if not says_nothing_new(verdict, self.view.stores[key]):
                    yield Outgoing("status", verdict.seeing(self.view.stores[key]), task.origin)
                continue
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


def _lacks_finalizer(destination: Destination) -> bool:
    """Whether a Destination's files are to be cleaned up, and nothing holds it yet until they are."""
    metadata = destination.metadata
    cleaned_up = destination.spec.cleanup == "all" and not metadata.being_deleted
    return cleaned_up and CLEANUP_FINALIZER not in metadata.finalizers


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
