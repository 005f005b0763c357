"""write-canary: bring the canary documents of a batch of Destinations to where they belong, and say how it went."""

from collections.abc import Mapping
from dataclasses import dataclass

from shared import conditions
from shared.deadline import Deadline
from shared.documents import canary_edit
from shared.errors import InvalidObject, LandfallError, OutOfTime, StateStoreNotReady
from shared.messages import Reference, Verdict
from shared.plan import Edit, Outcome
from shared.queues import Outgoing
from shared.reconcile.batch import Task, retry, tasks_by_cluster
from shared.reconcile.connections import Connections
from shared.reconcile.store_batch import StoreWork, write_all
from shared.reconcile.view import View
from shared.resources import Destination


async def write_canaries(
    messages: Mapping[str, Reference], connections: Connections, deadline: Deadline
) -> dict[str, Exception]:
    """Write the canary documents of a batch of Destinations, one changeset a State Store.

    Args:
        messages: by message id, a Destination to look at.
        connections: of this container.
        deadline: of this invocation.

    Returns:
        By message id: why it has to be delivered again.
    """
    failures: dict[str, Exception] = {}
    outgoing: list[Outgoing] = []
    for name, tasks in tasks_by_cluster(messages).items():
        try:
            cluster = await connections.clusters.get(name)
            view = await View.of(name, cluster, tasks, deadline)
        except LandfallError as error:
            failures.update({message_id: error for task in tasks.values() for message_id in task.origin})
            continue
        pending: list[_Pending] = []
        works: dict[str, StoreWork] = {}
        for task in tasks.values():
            prepared = _prepare(task, view, works)
            if isinstance(prepared, Verdict):
                outgoing.append(Outgoing("status", prepared, task.origin))
            elif prepared is not None:
                pending.append(prepared)
        outcomes = await write_all(list(works.values()), cluster, connections, deadline)
        for item in pending:
            outcome = outcomes[item.edit.id]
            if isinstance(outcome, OutOfTime):
                failures.update(dict.fromkeys(item.task.origin, outcome))
                continue
            verdict = item.verdict(outcome)
            if verdict.status != "True" or conditions.merged(verdict, view.destinations[item.task.key]) is not None:
                outgoing.append(Outgoing("status", verdict, item.task.origin))
            outgoing += retry("canary", item.reference, outcome, item.task.origin, connections.settings)
    return {**failures, **await connections.queues.send(outgoing, deadline)}


@dataclass(frozen=True, slots=True)
class _Pending:
    """A Destination whose documents are being written."""

    task: Task
    reference: Reference
    destination: Destination
    edit: Edit

    def verdict(self, outcome: Outcome) -> Verdict:
        if isinstance(outcome, LandfallError):
            return conditions.destination_failed(self.reference, self.destination.spec.state_store_ref, outcome)
        return conditions.destination_ready(self.reference, self.destination)


def _prepare(task: Task, view: View, works: dict[str, StoreWork]) -> _Pending | Verdict | None:
    """Put a Destination's edit among its State Store's work.

    Returns:
        The Destination; or the verdict where it can have no edit; or None where it is not, or no longer, to be written.
    """
    obj = view.destinations.get(task.key)
    if obj is None or not task.means(obj):
        return None
    reference = view.reference(obj, attempt=task.reference.attempt)
    ref = None
    try:
        destination = Destination.parse(obj)
        if destination.metadata.being_deleted:
            return None
        ref = destination.spec.state_store_ref
        store = view.store(destination)
        if store is None:
            return conditions.store_not_found(reference, ref)
        edit = canary_edit(f"{reference.namespace}/{reference.name}", destination, store)
    except (InvalidObject, StateStoreNotReady) as error:
        return conditions.destination_failed(reference, ref, error)
    works.setdefault(f"{store.kind}/{store.metadata.namespace}/{store.name}", StoreWork(store)).edits.append(edit)
    return _Pending(task, reference, destination, edit)
