"""cleanup: delete what a Destination that is being deleted has in its State Store, then let it go (spec section 5)."""

import asyncio
from collections.abc import Mapping

from shared import conditions
from shared.deadline import Deadline
from shared.documents import cleanup_edit
from shared.errors import InvalidObject, LandfallError, OutOfTime, StateStoreNotReady, StoreUnavailable
from shared.kube import Cluster, key_of
from shared.messages import Reference, Verdict
from shared.plan import Edit, Outcome
from shared.queues import Outgoing
from shared.reconcile.batch import Task, retry, tasks_by_cluster
from shared.reconcile.connections import Connections
from shared.reconcile.store_batch import StoreWork, write_all
from shared.reconcile.view import View
from shared.resources import CLEANUP_FINALIZER, Destination, StateStore

DESTINATION_LABEL = "kratix.io/targetDestinationName"


async def clean_up(
    messages: Mapping[str, Reference], connections: Connections, deadline: Deadline
) -> dict[str, Exception]:
    """Delete the files of a batch of Destinations, one changeset a State Store, and release their finalizers.

    Whether a Destination is being deleted is read from the cluster: a message alone deletes nothing.

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
            view = await View.of_all(name, cluster, deadline)
            leaving = _leaving(tasks, view)
            remaining = await _delete_workplacements(leaving, cluster, deadline)
        except LandfallError as error:
            failures.update({message_id: error for task in tasks.values() for message_id in task.origin})
            continue
        outcomes: dict[str, Outcome] = {}
        works: dict[str, StoreWork] = {}
        for edit_id, (_, destination) in leaving.items():
            if edit_id in remaining:
                why = f"{remaining[edit_id]} WorkPlacements of Destination {destination.name} are still being deleted"
                outcomes[edit_id] = StoreUnavailable(why)
                continue
            prepared = _prepare(edit_id, destination, view, works)
            if isinstance(prepared, LandfallError):
                outcomes[edit_id] = prepared
        outcomes |= await write_all(list(works.values()), cluster, connections, deadline)
        for edit_id, (task, destination) in leaving.items():
            outcome = outcomes[edit_id]
            reference = view.reference(view.destinations[task.key], attempt=task.reference.attempt)
            if isinstance(outcome, OutOfTime):
                failures.update(dict.fromkeys(task.origin, outcome))
            elif isinstance(outcome, LandfallError):
                if edit_id not in remaining:
                    failed = conditions.destination_failed(reference, destination.spec.state_store_ref, outcome)
                    outgoing.append(Outgoing("status", failed, task.origin))
                outgoing += retry("cleanup", reference, outcome, task.origin, connections.settings)
            else:
                released = Verdict(reference=reference, remove_finalizer=CLEANUP_FINALIZER)
                outgoing.append(Outgoing("status", released, task.origin))
    return {**failures, **await connections.queues.send(outgoing, deadline)}


def _leaving(tasks: Mapping[tuple[str, str], Task], view: View) -> dict[str, tuple[Task, Destination]]:
    """Return the Destinations of a batch that are being deleted and wait for our finalizer, by edit id."""
    leaving: dict[str, tuple[Task, Destination]] = {}
    for key, task in tasks.items():
        obj = view.destinations.get(key)
        if obj is None or not task.means(obj):
            continue
        try:
            destination = Destination.parse(obj)
        except InvalidObject:
            continue  # no file of it can be found; on-destination-change has said what is wrong with it
        if destination.metadata.being_deleted and CLEANUP_FINALIZER in destination.metadata.finalizers:
            leaving[f"{key[0]}/{key[1]}"] = (task, destination)
    return leaving


async def _delete_workplacements(
    leaving: Mapping[str, tuple[Task, Destination]], cluster: Cluster, deadline: Deadline
) -> dict[str, int]:
    """Delete the WorkPlacements of Destinations; return how many each still has (their own finalizers hold them)."""
    if not leaving:
        return {}
    by_destination: dict[str, list[tuple[str, str]]] = {}
    for obj in await cluster.list_all("WorkPlacement", deadline):
        name = ((obj.get("metadata") or {}).get("labels") or {}).get(DESTINATION_LABEL)
        if name:
            by_destination.setdefault(name, []).append(key_of(obj))
    theirs = {edit_id: by_destination.get(destination.name, []) for edit_id, (_, destination) in leaving.items()}
    async with asyncio.TaskGroup() as group:
        for namespace, name in {key for keys in theirs.values() for key in keys}:
            group.create_task(cluster.delete("WorkPlacement", namespace, name, deadline))
    return {edit_id: len(keys) for edit_id, keys in theirs.items() if keys}


def _prepare(edit_id: str, destination: Destination, view: View, works: dict[str, StoreWork]) -> Edit | LandfallError:
    ref = destination.spec.state_store_ref
    try:
        store = view.store(destination)
        if store is None:
            return StateStoreNotReady(f"{ref.kind}/{ref.name}: not found")
        edit = cleanup_edit(edit_id, destination, store, _others(destination, store, view))
    except (InvalidObject, StateStoreNotReady) as error:
        return error
    works.setdefault(f"{store.kind}/{store.metadata.namespace}/{store.name}", StoreWork(store)).edits.append(edit)
    return edit


def _others(destination: Destination, store: StateStore, view: View) -> list[str]:
    """Return the directories that are other Destinations' in the same place.

    A Destination that was refused for this one's path (PathClash) owns none; where this one is the refused one, the
    directory is the other's, and nothing in it is deleted.
    """
    own_uid = destination.metadata.uid
    others = [(other, root) for other, root in view.roots(store).values() if other.metadata.uid != own_uid]
    return [
        root
        for other, root in others
        if (owner := view.owner(store, root)) and owner.metadata.uid == other.metadata.uid
    ]
