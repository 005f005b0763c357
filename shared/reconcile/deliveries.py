"""write-documents: bring the documents of WorkPlacements to where they belong, and say how it went (spec section 6)."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from shared import conditions, paths
from shared.deadline import Deadline
from shared.errors import InvalidObject, LandfallError, OutOfTime, StateStoreError, StateStoreNotReady
from shared.kube import Cluster, Key, Object, key_of, together
from shared.messages import Reference, Verdict
from shared.plan import Outcome, Written
from shared.queues import Outgoing
from shared.reconcile.batch import Share, Task, Tasks, by_cluster, fold, for_each_cluster, retry
from shared.reconcile.connections import Connections
from shared.reconcile.decisions import decide
from shared.reconcile.directories import sharing
from shared.reconcile.placement_writes import write_targets
from shared.reconcile.placing import Target
from shared.reconcile.second_look import SecondLook
from shared.reconcile.unsaid import unsaid
from shared.reconcile.view import StoreKey, View, store_key
from shared.resources import STORE_KINDS, Destination
from shared.settings import Settings
from shared.works import DESTINATION_LABEL, REPO_FINALIZER, STATE_FILE_FINALIZER

_FINALIZERS = (REPO_FINALIZER, STATE_FILE_FINALIZER)
_GET_AT_MOST = 100  # WorkPlacements one by one; more are listed, though a list brings documents that nobody asked for


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

    async def write(name: str, share: Mapping[str, Reference], cluster: Cluster) -> Share:
        failures: dict[str, Exception] = {}
        batch = await _read(name, fold(share), cluster, deadline)
        outgoing = [*batch.holding(), *batch.unsaid()]
        outcomes = await batch.write(cluster, connections, deadline)
        for key, outcome in outcomes.items():
            if isinstance(outcome, OutOfTime):
                failures.update(dict.fromkeys(batch.origins[key], outcome))
            else:
                outgoing += batch.outgoing(key, outcome, connections.settings)
        outgoing += batch.retries(outcomes, connections.settings)
        look = SecondLook(batch.view, batch.targets, outcomes, batch.origins)
        outgoing += await look.take(cluster, connections, deadline)
        return failures, outgoing

    return await for_each_cluster(by_cluster(messages, connections.clusters), write, connections, deadline)


async def _read(name: str, tasks: Tasks, cluster: Cluster, deadline: Deadline) -> "_Batch":
    view = await View.of_all(name, cluster, deadline)
    batch = _Batch(view)
    single = {task.key: task for (kind, _), task in tasks.items() if kind == "WorkPlacement"}
    whole: dict[Key, tuple[frozenset[str], int]] = {}
    for (kind, key), task in tasks.items():
        keys = view.destinations_of((kind, *key)) if kind in STORE_KINDS else [key] if kind == "Destination" else []
        for destination in keys:
            origin, attempt = whole.get(destination, (frozenset(), 0))
            whole[destination] = (origin | task.origin, max(attempt, task.reference.attempt))
    objects = await _placements(single, {destination for _, destination in whole}, cluster, deadline)
    for key, obj in objects.items():
        mine, destination_key = single.get(key), view.target(key[0], _target(obj))
        if mine is not None and mine.means(obj):
            batch.take(key, obj, mine.origin, mine.reference.attempt)
        elif destination_key is not None and (its := whole.get(destination_key)) is not None:
            batch.take(key, obj, *its)
    crowded = batch.crowded()
    if crowded:  # modes in which one WorkPlacement's files depend on all the others'
        labels = [{DESTINATION_LABEL: destination} for destination in sorted(crowded)]
        found = await together(cluster.list_all("WorkPlacement", deadline, wanted) for wanted in labels)
        batch.surround({key_of(obj): obj for objects_ in found for obj in objects_})
    batch.surround(await sharing(list(batch.targets.values()), batch.objects.keys(), cluster, deadline))
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
    """One cluster's share of a batch.

    Attributes:
        view: of the cluster's Destinations and State Stores.
        objects: the WorkPlacements to deal with.
        origins: the messages that they come from.
        attempts: how often each has been tried before.
        targets: by Destination.
        outcomes: of those that need no writing, or cannot be written.
        unheld: the finalizers that have to be there before the first write.
    """

    view: View
    objects: dict[Key, Object] = field(default_factory=dict)
    origins: dict[Key, frozenset[str]] = field(default_factory=dict)
    attempts: dict[Key, int] = field(default_factory=dict)
    targets: dict[Key, Target] = field(default_factory=dict)
    outcomes: dict[Key, Outcome | None] = field(default_factory=dict)
    unheld: dict[Key, tuple[str, ...]] = field(default_factory=dict)

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
        target = self.targets.setdefault(destination_key, target)
        unheld = _missing_finalizers(obj, target)
        target.add(key, obj)
        if unheld:  # made by hand, or let go while its Destination was away; setting them comes back as a change
            self.unheld[key] = unheld
            return
        target.wanted.add(key)

    def crowded(self) -> set[str]:
        """Return the names of Destinations all of whose WorkPlacements have to be known."""
        return {t.destination.name for t in self.targets.values() if t.mode != "nestedByMetadata"}

    def surround(self, objects: Mapping[Key, Object]) -> None:
        """Let Destinations know the WorkPlacements that are not of this batch."""
        for key, obj in objects.items():
            destination_key = self.view.target(key[0], _target(obj))
            target = None if destination_key is None else self.targets.get(destination_key)
            if target is None or key in self.objects:
                continue
            if conditions.write_failed(obj):  # what stood in its way may be leaving or mended with this batch
                origin = frozenset[str]().union(*(self.origins[wanted] for wanted in target.wanted))
                self.take(key, obj, origin, 0)
            else:
                target.add(key, obj)

    async def write(self, cluster: Cluster, connections: Connections, deadline: Deadline) -> dict[Key, Outcome | None]:
        """Write everything; None stands for a WorkPlacement that is let go without a write."""
        written = await write_targets(self.targets, self.view, cluster, connections, deadline)
        return {**self.outcomes, **written}

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

    def holding(self) -> Iterator[Outgoing]:
        """Yield the verdicts that set missing finalizers."""
        for key, finalizers in self.unheld.items():
            reference = self.view.reference(self.objects[key], kind="WorkPlacement")
            verdict = Verdict(reference=reference, add_finalizers=finalizers).seeing(self.objects[key])
            yield Outgoing("status", verdict, self.origins[key])

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
            if finalizers:
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
        if not outcome.changed and conditions.is_written(obj):
            verdict = verdict.model_copy(update={"fields": {}})  # nothing was written, so the version stays
        if conditions.merged(verdict, obj) is not None:
            yield Outgoing("status", verdict.seeing(obj), origin)

    def retries(self, outcomes: Mapping[Key, Outcome | None], settings: Settings) -> Iterator[Outgoing]:
        """Yield one retry a State Store for all its WorkPlacements that it failed."""
        failed: dict[StoreKey, tuple[LandfallError, frozenset[str], int]] = {}
        for target in self.targets.values():
            for key in target.wanted:
                error = outcomes.get(key)
                if isinstance(error, StateStoreError) and not isinstance(error, StateStoreNotReady):
                    store = store_key(target.store)
                    known = failed.get(store, (error, frozenset(), 0))
                    failed[store] = (error, known[1] | self.origins[key], max(known[2], self.attempts[key]))
        for store, (error, origin, attempt) in failed.items():
            yield from retry("documents", self.view.store_reference(store, attempt), error, origin, settings)


def _missing_finalizers(obj: Object, target: Target) -> tuple[str, ...]:
    metadata = obj["metadata"]
    needed = _FINALIZERS if target.mode == "none" else (REPO_FINALIZER,)
    if metadata.get("deletionTimestamp"):
        return ()
    return tuple(finalizer for finalizer in needed if finalizer not in (metadata.get("finalizers") or ()))


def _waited_enough(obj: Object, outcome: Outcome | None, settings: Settings) -> bool:
    """Whether a WorkPlacement that is being deleted has waited long enough for a State Store that cannot be had."""
    deleted_at = datetime.fromisoformat(obj["metadata"]["deletionTimestamp"])
    gone = isinstance(outcome, StateStoreNotReady | InvalidObject)
    grace = settings.cleanup_grace_seconds if gone else settings.cleanup_give_up_seconds
    return (datetime.now(UTC) - deleted_at).total_seconds() >= grace
