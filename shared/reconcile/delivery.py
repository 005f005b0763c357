"""One part of what write-documents brings to a place: where each WorkPlacement goes, and what is to be said of it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from shared import conditions
from shared.deadline import Deadline
from shared.errors import (
    InvalidObject,
    KubernetesConflict,
    LandfallError,
    StateStoreError,
    StateStoreNotReady,
    is_out_of_reach,
)
from shared.kube import Cluster, Key, Object, together
from shared.messages import Reference, Verdict
from shared.plan import Outcome, Written
from shared.queues import Outgoing
from shared.reconcile.batch import retry
from shared.reconcile.by_place import retries
from shared.reconcile.decisions import decide
from shared.reconcile.locations import directories_annotation, hold, recorded_directories
from shared.reconcile.ownership import Site
from shared.reconcile.pausing import why_paused
from shared.reconcile.placing import Target
from shared.reconcile.unsaid import unsaid
from shared.reconcile.view import View, place_of
from shared.resources import Destination
from shared.settings import Settings
from shared.works import REPO_FINALIZER, STATE_FILE_FINALIZER

WORK_PLACEMENT: Final = "WorkPlacement"
_FINALIZERS: Final = (REPO_FINALIZER, STATE_FILE_FINALIZER)


def target_of(obj: Object) -> str:
    """Return the name of the Destination that a WorkPlacement, read whole, goes to."""
    return str((obj.get("spec") or {}).get("targetDestinationName") or "")


@dataclass
class Delivery:
    """One part of a place's share of a batch.

    Attributes:
        view: of the Destinations and State Stores that are concerned, read under the place's Lease.
        place: that may be written to; "" for none.
        objects: the WorkPlacements to deal with.
        origins: the messages that they come from.
        asked: the references by which they were asked for.
        targets: by Destination.
        letting_go: Destinations that take nothing now, but from where what is deleted may go.
        outcomes: of those that need no writing, or cannot be written.
        moved: Destinations that are at another place than they were thought to be.
        unreachable: messages for which the Kubernetes API could not be reached.
        elsewhere: what is another place's by now: reference, place, and the messages that it comes from.
    """

    view: View
    place: str
    objects: dict[Key, Object] = field(default_factory=dict)
    origins: dict[Key, frozenset[str]] = field(default_factory=dict)
    asked: dict[Key, Reference] = field(default_factory=dict)
    targets: dict[Key, Target] = field(default_factory=dict)
    letting_go: set[Key] = field(default_factory=set)
    outcomes: dict[Key, Outcome | None] = field(default_factory=dict)
    moved: dict[Key, str] = field(default_factory=dict)
    unreachable: dict[str, Exception] = field(default_factory=dict)
    elsewhere: list[tuple[Reference, str, frozenset[str]]] = field(default_factory=list)

    def take(self, key: Key, obj: Object, origin: frozenset[str], asked: Reference) -> None:
        """Take a WorkPlacement up, and find out where it goes."""
        self.objects[key], self.origins[key], self.asked[key] = obj, origin, asked
        destination_key = self.view.target(key[0], target_of(obj))
        if destination_key is None:
            self.outcomes[key] = None  # its Destination is gone: nothing of it can be found, so it is let go
            return
        if why_paused(destination_key, self.view):
            del self.objects[key]  # it stays as it is; with the Destination, it is looked at again
            return
        try:
            target = self._target(destination_key, leaving=bool(obj["metadata"].get("deletionTimestamp")))
        except LandfallError as error:
            self.outcomes[key] = error
            return
        if (place := place_of(target.store)) != self.place:
            del self.objects[key]
            self.elsewhere.append((self._reference(key, obj), place, origin))
            self.moved[destination_key] = place
            return
        target = self.targets.setdefault(destination_key, target)
        target.add(key, obj)
        target.wanted.add(key)

    async def claim(self, site: Site) -> None:
        """Claim the Destinations' directories; nothing is written to one that is another Destination's.

        Raises:
            KubernetesError: claims could not be read or written.
        """
        wanted = {key: (t.destination, t.root) for key, t in self.targets.items() if key not in self.letting_go}
        lost = {
            key: conditions.path_clash(self.asked[min(self.targets[key].wanted)], clash.holder.name).message
            for key, clash in (await site.claim(wanted, None, take_over=False)).clashes.items()
        }
        for key in self.letting_go & self.targets.keys():
            target = self.targets[key]
            if not await site.owns(target.root, target.destination.metadata.uid):
                lost[key] = "its directory is another Destination's"
        for destination_key, why in lost.items():
            target = self.targets.pop(destination_key)
            for key in target.wanted:
                leaving = bool(self.objects[key]["metadata"].get("deletionTimestamp"))
                self.outcomes[key] = None if leaving else _not_writable(target.destination, why)

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
            destination_key = self.view.target(key[0], target_of(obj))
            target = None if destination_key is None else self.targets.get(destination_key)
            if target is None or key in self.objects:
                continue
            if (one_place or target.mode != "nestedByMetadata") and conditions.write_failed(obj):
                origin = frozenset[str]().union(*(self.origins[wanted] for wanted in target.wanted))
                self.take(key, obj, origin, self.view.reference(obj, kind=WORK_PLACEMENT))
            else:
                target.add(key, obj)

    def _target(self, key: Key, *, leaving: bool) -> Target:
        """Return where a Destination's documents go.

        Raises:
            LandfallError: it takes none now; what is leaving may go from wherever the State Store is known.
        """
        decision = decide(key, self.view)
        if decision is not None and decision.write is not None:
            return Target(decision.write.destination, decision.write.store)
        destination = Destination.parse(self.view.destinations[key])
        store = self.view.store(destination) if leaving else None
        if store is not None:
            self.letting_go.add(key)
            return Target(destination, store)
        verdict = None if decision is None else decision.verdict
        raise _not_writable(destination, "it is being deleted" if verdict is None else verdict.message)

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
            found = await cluster.patch({**self.objects[key], "kind": WORK_PLACEMENT}, {"metadata": patch}, deadline)
        except LandfallError as error:
            return error
        return KubernetesConflict(f"WorkPlacement {'/'.join(key)} is gone") if found is None else found

    def _let_go(self, key: Key, error: LandfallError) -> None:
        """Leave a WorkPlacement unwritten that cannot be held."""
        target = next(target for target in self.targets.values() if key in target.wanted)
        target.wanted.discard(key)
        reference = self._reference(key, self.objects[key])
        if isinstance(error, KubernetesConflict):
            self.elsewhere.append((reference, self.place, self.origins[key]))
        elif is_out_of_reach(error):
            self.unreachable.update(dict.fromkeys(self.origins[key], error))
        else:
            self.outcomes[key] = error

    def unsaid(self) -> Iterator[Outgoing]:
        """Yield what on-work-change found of WorkPlacements and could not report."""
        for key, obj in self.objects.items():
            verdict = unsaid(obj, self.view.reference(obj, kind=WORK_PLACEMENT))
            if verdict is not None:
                yield Outgoing("status", verdict.seeing(obj), self.origins[key])

    def outgoing(self, key: Key, outcome: Outcome | None, settings: Settings) -> Iterator[Outgoing]:
        """Yield the verdict on a WorkPlacement, and what is to be tried again."""
        obj, origin = self.objects[key], self.origins[key]
        reference = self._reference(key, obj)
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
        """Yield the messages that try again what State Stores failed: few, whatever the number of WorkPlacements."""
        failed: list[tuple[Reference, frozenset[str]]] = []
        for target in self.targets.values():
            for key in target.wanted:
                error, asked = outcomes.get(key), self.asked[key]
                if not isinstance(error, StateStoreError) or not error.transient or (asked.attempt and asked.uid):
                    continue  # a look that follows a failure has a chain of retries already, which names no uid
                named = self._reference(key, self.objects[key])
                nameless = named.model_copy(update={"uid": "", "generation": 0, "place": self.place})
                failed.append((nameless, self.origins[key]))
        yield from retries("documents", failed, settings)

    def _reference(self, key: Key, obj: Object) -> Reference:
        return self.view.reference(obj, kind=WORK_PLACEMENT, attempt=self.asked[key].attempt)


def _not_writable(destination: Destination, why: str) -> StateStoreNotReady:
    return StateStoreNotReady(f"Destination {destination.name} cannot be written to: {why}")


def _waited_enough(obj: Object, outcome: Outcome | None, settings: Settings) -> bool:
    """Whether a WorkPlacement that is being deleted has waited long enough for a State Store that cannot be had."""
    deleted_at = datetime.fromisoformat(obj["metadata"]["deletionTimestamp"])
    gone = isinstance(outcome, StateStoreNotReady | InvalidObject)
    grace = settings.cleanup_grace_seconds if gone else settings.cleanup_give_up_seconds
    return (datetime.now(UTC) - deleted_at).total_seconds() >= grace
