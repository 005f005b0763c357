"""write-canary: check State Stores, bring canary documents to where they belong, and say how it went."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from shared import conditions
from shared.deadline import Deadline
from shared.errors import InvalidObject, LandfallError, OutOfTime, StateStoreError
from shared.kube import Cluster, Key, uid_of
from shared.messages import Reference, Verdict
from shared.observability import logger
from shared.plan import Edit, Outcome
from shared.queues import Outgoing
from shared.reconcile.batch import Share, Task, Tasks, by_cluster, fold, for_each_cluster, may_have_written, retry
from shared.reconcile.connections import Connections
from shared.reconcile.decisions import Write, decide, says_nothing_new
from shared.reconcile.store_batch import check_all, write_all
from shared.reconcile.view import StoreKey, View, store_key
from shared.resources import STORE_KINDS, StateStore, parse_state_store
from shared.settings import Settings


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
        batch = await _read(name, fold(share), cluster, deadline)
        checked = await check_all(batch.stores.values(), cluster, connections, deadline)
        batch.decide(checked)
        edits = {write.edit.id: (write.store, write.edit) for write in batch.writes.values()}
        outcomes = await write_all(edits, cluster, connections, deadline)
        outgoing = list(batch.outgoing(checked, outcomes, connections.settings))
        outgoing += await batch.undo_resurrections(outcomes, cluster, connections, deadline)
        return batch.out_of_time(checked, outcomes), outgoing

    return await for_each_cluster(by_cluster(messages, connections.clusters), write, connections, deadline)


async def _read(name: str, tasks: Tasks, cluster: Cluster, deadline: Deadline) -> "_Batch":
    wanted = [task for (kind, _), task in tasks.items() if kind == "Destination"]
    stores = [task for (kind, _), task in tasks.items() if kind in STORE_KINDS]
    if stores:
        view = await View.of_all(name, cluster, deadline)
    else:
        view = await View.of(name, cluster, [task.key for task in wanted], deadline)
    batch = _Batch(view)
    for task in wanted:
        obj = view.destinations.get(task.key)
        if obj is not None and task.means(obj):
            batch.origins[task.key] = task.origin
            batch.attempts[task.key] = task.reference.attempt
    for task in stores:
        batch.add_store(task)
    return batch


@dataclass
class _Batch:
    """One cluster's share of a batch.

    Attributes:
        view: of the cluster.
        origins: the Destinations to write, with the messages that they come from.
        attempts: how often a Destination has been tried before, where it came by itself.
        stores: the State Stores to check.
        store_tasks: what asked for those checks.
        writes: the Destinations that may be written, as decided.
        verdicts: what is known of Destinations before anything is written.
    """

    view: View
    origins: dict[Key, frozenset[str]] = field(default_factory=dict)
    attempts: dict[Key, int] = field(default_factory=dict)
    stores: dict[StoreKey, StateStore] = field(default_factory=dict)
    store_tasks: dict[StoreKey, Task] = field(default_factory=dict)
    writes: dict[Key, Write] = field(default_factory=dict)
    verdicts: dict[Key, Verdict] = field(default_factory=dict)

    def add_store(self, task: Task) -> None:
        """Take a State Store up, with all its Destinations."""
        key = (task.reference.kind, *task.key)
        obj = self.view.stores.get(key)
        if obj is None or not task.means(obj):
            return
        self.store_tasks[key] = task
        with suppress(InvalidObject):  # `_of_stores` reports it, and decide() tells its Destinations
            self.stores[key] = parse_state_store(obj)
        for destination in self.view.destinations_of(key):
            self.origins[destination] = self.origins.get(destination, frozenset()) | task.origin

    def decide(self, checked: Mapping[StoreKey, LandfallError | None]) -> None:
        """Decide about each Destination, with what the checks of this very batch have found."""
        known = {key: error for key, error in checked.items() if not isinstance(error, OutOfTime)}
        for key in self.origins:
            decision = decide(key, self.view, known)
            if decision is None:
                continue
            if decision.write is not None:
                self.writes[key] = decision.write
            elif decision.verdict is not None:
                self.verdicts[key] = decision.verdict

    def out_of_time(
        self, checked: Mapping[StoreKey, LandfallError | None], outcomes: Mapping[str, Outcome]
    ) -> dict[str, Exception]:
        """Return the messages whose work nobody has tried, for want of time."""
        failures: dict[str, Exception] = {}
        for store, error in checked.items():
            if isinstance(error, OutOfTime):
                failures.update(dict.fromkeys(self.store_tasks[store].origin, error))
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
            if not says_nothing_new(verdict, self.view.destinations[key]):
                yield Outgoing("status", verdict, self.origins[key])
        doubted: dict[StoreKey, tuple[LandfallError, frozenset[str]]] = {}
        for key, write in self.writes.items():
            outcome, origin = outcomes[write.edit.id], self.origins[key]
            if isinstance(outcome, OutOfTime):
                continue
            reference = self.view.reference(self.view.destinations[key], attempt=self.attempts.get(key, 0))
            yield from self._of_destination(reference, write, outcome, origin)
            if isinstance(outcome, StateStoreError) and outcome.transient:
                store = store_key(write.store)
                doubted[store] = (outcome, doubted.get(store, (outcome, frozenset()))[1] | origin)
            else:
                yield from retry("canary", reference, outcome, origin, settings)
        for store, (error, origin) in doubted.items():
            if store not in checked:  # let its check speak for all its Destinations, and heal them together
                yield Outgoing("canary", self.view.store_reference(store), origin)
            elif checked[store] is None:
                again = self.view.store_reference(store, self.store_tasks[store].reference.attempt)
                yield from retry("canary", again, error, origin, settings)

    def _of_stores(self, checked: Mapping[StoreKey, LandfallError | None], settings: Settings) -> Iterator[Outgoing]:
        for key, task in self.store_tasks.items():
            reference = self.view.store_reference(key, attempt=task.reference.attempt)
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
                yield Outgoing("status", verdict, task.origin)
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
        if not says_nothing_new(verdict, obj):
            yield Outgoing("status", verdict.seeing(obj), origin)

    async def undo_resurrections(
        self, outcomes: Mapping[str, Outcome], cluster: Cluster, connections: Connections, deadline: Deadline
    ) -> list[Outgoing]:
        """Undo what this batch wrote for Destinations that were deleted meanwhile.

        A write that lands after the files were deleted would leave them there for ever (failures 19). So whoever has
        written looks again: where the Destination is being deleted by now, its clean-up is done once more; where it is
        gone, what was just written goes too. Whoever has the path by now keeps it, under whichever name.

        Returns:
            The clean-ups to send.
        """
        written = {
            key: write
            for key, write in self.writes.items()
            if write.destination.spec.cleanup == "all" and may_have_written(outcomes[write.edit.id])
        }
        if not written:
            return []
        try:
            now = await cluster.read_many("Destination", list(written), deadline)
            gone = [write for key, write in written.items() if uid_of(now.get(key)) != write.destination.metadata.uid]
            if gone:
                view = await View.of_all(self.view.cluster, cluster, deadline)
                undone = [write for write in gone if view.owner(write.store, write.edit.root) is None]
                edits = {write.edit.id: (write.store, _undoing(write.edit)) for write in undone}
                await write_all(edits, cluster, connections, deadline)
        except LandfallError as error:
            # The verdicts must not wait for this; a clean-up looks by itself whether there is anything to clean up.
            logger.warning("whether Destinations were deleted during their write is left to their clean-up: %s", error)
            now = {key: self.view.destinations[key] for key in written}
            return [Outgoing("cleanup", self.view.reference(obj), self.origins[key]) for key, obj in now.items()]
        return [
            Outgoing("cleanup", self.view.reference(obj), self.origins[key])
            for key, obj in now.items()
            if obj["metadata"].get("deletionTimestamp")
        ]


def _undoing(edit: Edit) -> Edit:
    return replace(edit, files={}, remove=frozenset(edit.files))
