"""cleanup: delete what a Destination that is being deleted has in its State Store, then let it go (spec section 5)."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

from shared import conditions
from shared.deadline import Deadline
from shared.documents import cleanup_edit
from shared.errors import InvalidObject, LandfallError, OutOfTime, StateStoreNotReady
from shared.kube import Cluster, Key, key_of, together
from shared.messages import Reference, Verdict
from shared.plan import Edit, Outcome
from shared.queues import Outgoing
from shared.reconcile.batch import Share, Task, by_cluster, fold, for_each_cluster, retry
from shared.reconcile.connections import Connections
from shared.reconcile.store_batch import write_all
from shared.reconcile.sweeps import sweep, sweep_later
from shared.reconcile.view import View
from shared.resources import CLEANUP_FINALIZER, STORE_KINDS, Destination, StateStore
from shared.settings import Settings
from shared.works import destination_of


async def clean_up(
    messages: Mapping[str, Reference], connections: Connections, deadline: Deadline
) -> dict[str, Exception]:
    """Delete the files of a batch of Destinations, one changeset a State Store, and release their finalizers.

    Whether a Destination is being deleted is read from the cluster: a message alone deletes nothing.

    Args:
        messages: by message id, a Destination to look at, or a State Store with a directory to sweep.
        connections: of this container.
        deadline: of this invocation.

    Returns:
        By message id: why it has to be delivered again.
    """

    async def clean(name: str, share: Mapping[str, Reference], cluster: Cluster) -> Share:
        view = await View.of_all(name, cluster, deadline)
        sweeps = {message_id: reference for message_id, reference in share.items() if reference.kind in STORE_KINDS}
        failures, outgoing = await sweep(sweeps, view, cluster, connections, deadline)
        tasks = fold({message_id: reference for message_id, reference in share.items() if message_id not in sweeps})
        leaving = _leaving(tasks.values(), view)
        remaining = await _delete_workplacements(leaving, view, cluster, deadline)
        outcomes: dict[str, Outcome] = {}
        edits: dict[str, tuple[StateStore, Edit]] = {}
        for edit_id, (_, destination) in leaving.items():
            if edit_id in remaining:
                outcomes[edit_id] = remaining[edit_id]
                continue
            try:
                edits[edit_id] = _prepare(edit_id, destination, view)
            except LandfallError as error:
                outcomes[edit_id] = error
        outcomes |= await write_all(edits, cluster, connections, deadline)
        for edit_id, (task, destination) in leaving.items():
            outcome = outcomes[edit_id]
            if isinstance(outcome, OutOfTime):
                failures.update(dict.fromkeys(task.origin, outcome))
                continue
            reference = view.reference(view.destinations[task.key], attempt=task.reference.attempt)
            outgoing += _after(reference, destination, outcome, task.origin, connections.settings)
            if not isinstance(outcome, LandfallError):
                store, edit = edits[edit_id]
                delay = connections.settings.sweep_delay_seconds
                outgoing.append(sweep_later(store, edit.root, name, task.origin, delay))
        return failures, outgoing

    return await for_each_cluster(by_cluster(messages, connections.clusters), clean, connections, deadline)


def _after(
    reference: Reference, destination: Destination, outcome: Outcome, origin: frozenset[str], settings: Settings
) -> Iterator[Outgoing]:
    """Yield the release of a Destination whose files are gone, or what follows where they are not."""
    release = Verdict(reference=reference, remove_finalizers=(CLEANUP_FINALIZER,))
    if not isinstance(outcome, LandfallError):
        yield Outgoing("status", release, origin)
        return
    deleted_at = destination.metadata.deletion_timestamp
    waited = (datetime.now(UTC) - deleted_at).total_seconds() if deleted_at else 0.0
    gone = isinstance(outcome, StateStoreNotReady | InvalidObject)
    if waited >= (settings.cleanup_grace_seconds if gone else settings.cleanup_give_up_seconds):
        # Better some files that nobody reads than an object that nobody can delete.
        ref = destination.spec.state_store_ref
        what = f"everything below path {destination.spec.path or destination.name!r} of {ref.kind}/{ref.name}"
        skipped = conditions.cleanup_skipped(reference, what, str(outcome))
        # One message: an Event that came after the release would find no object to be about.
        yield Outgoing("status", skipped.model_copy(update={"remove_finalizers": (CLEANUP_FINALIZER,)}), origin)
        return
    if not isinstance(outcome, _StillHasWorkPlacements):
        failed = conditions.destination_failed(reference, destination.spec.state_store_ref, outcome)
        yield Outgoing("status", failed, origin)
    yield from retry("cleanup", reference, outcome, origin, settings, whatever_it_was=True)


class _StillHasWorkPlacements(LandfallError):
    """Their own finalizers hold them until their files are gone."""


def _leaving(tasks: Iterable[Task], view: View) -> dict[str, tuple[Task, Destination]]:
    """Return the Destinations of a batch that are being deleted and wait for our finalizer, by edit id."""
    leaving: dict[str, tuple[Task, Destination]] = {}
    for task in tasks:
        obj = view.destinations.get(task.key)
        if obj is None or not task.means(obj):
            continue
        try:
            destination = Destination.parse(obj)
        except InvalidObject:
            continue  # no file of it can be found; on-destination-change has said what is wrong with it
        held = destination.metadata.being_deleted and CLEANUP_FINALIZER in destination.metadata.finalizers
        # Who turns clean-up off before the deletion, or while it is under way, keeps the files: the finalizer goes by
        # what on-destination-change decides.
        if held and destination.spec.cleanup == "all":
            leaving[f"{task.key[0]}/{task.key[1]}"] = (task, destination)
    return leaving


async def _delete_workplacements(
    leaving: Mapping[str, tuple[Task, Destination]], view: View, cluster: Cluster, deadline: Deadline
) -> dict[str, LandfallError]:
    """Delete the WorkPlacements of Destinations; return, by edit id, those that still have some."""
    if not leaving:
        return {}
    by_destination: dict[Key | None, list[Key]] = {}
    for obj in await cluster.list_all("WorkPlacement", deadline, metadata_only=True):
        key = key_of(obj)
        by_destination.setdefault(view.target(key[0], destination_of(obj)), []).append(key)
    theirs = {edit_id: by_destination.get(task.key, []) for edit_id, (task, _) in leaving.items()}
    placements = {key for keys in theirs.values() for key in keys}
    await together(cluster.delete("WorkPlacement", namespace, name, deadline) for namespace, name in placements)
    return {
        edit_id: _StillHasWorkPlacements(f"{len(keys)} WorkPlacements of it are still being deleted")
        for edit_id, keys in theirs.items()
        if keys
    }


def _prepare(edit_id: str, destination: Destination, view: View) -> tuple[StateStore, Edit]:
    store = view.store(destination)
    if store is None:
        raise StateStoreNotReady("not found", reason="StateStoreNotFound")
    return store, cleanup_edit(edit_id, destination, store, _others(destination, store, view))


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
