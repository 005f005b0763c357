"""The last look after a clean-up: what a write that was under way may have left behind after the files were deleted.

A function that read a Destination while it lived may write after its files were deleted, and be killed before it looks
again (failures 19). So some time after a Destination is released, longer than any function runs, its canary documents
are removed once more, unless the directory is a living Destination's by then.
"""

from collections.abc import Mapping

from shared import paths
from shared.deadline import Deadline
from shared.errors import InvalidObject, OutOfTime
from shared.kube import Cluster
from shared.messages import Reference
from shared.plan import Edit
from shared.queues import Outgoing
from shared.reconcile.batch import retry
from shared.reconcile.connections import Connections
from shared.reconcile.store_batch import write_all
from shared.reconcile.view import View, store_key
from shared.resources import StateStore, parse_state_store


def sweep_later(store: StateStore, root: str, cluster: str, origin: frozenset[str], delay: int) -> Outgoing:
    """Return the message that lets a Destination's directory be swept after a while."""
    kind, namespace, name = store_key(store)
    reference = Reference(cluster=cluster, kind=kind, namespace=namespace, name=name, path=root, why="sweep")
    return Outgoing("cleanup", reference, origin, delay)


async def sweep(
    messages: Mapping[str, Reference], view: View, cluster: Cluster, connections: Connections, deadline: Deadline
) -> tuple[dict[str, Exception], list[Outgoing]]:
    """Remove canary documents from the directories of Destinations that are gone.

    Args:
        messages: by message id, a State Store with the directory in `path`.
        view: of the whole cluster.
        cluster: that all messages are about.
        connections: of this container.
        deadline: of this invocation.

    Returns:
        By message id: why it has to be delivered again; and what to send.
    """
    failures: dict[str, Exception] = {}
    outgoing: list[Outgoing] = []
    edits: dict[str, tuple[StateStore, Edit]] = {}
    for message_id, reference in messages.items():
        try:
            edit = _edit(message_id, reference, view)
        except InvalidObject as error:
            failures[message_id] = error
            continue
        if edit is not None:
            edits[message_id] = edit
    for message_id, outcome in (await write_all(edits, cluster, connections, deadline)).items():
        if isinstance(outcome, OutOfTime):
            failures[message_id] = outcome
        else:
            origin = frozenset({message_id})
            outgoing += retry("cleanup", messages[message_id], outcome, origin, connections.settings)
    return failures, outgoing


def _edit(edit_id: str, reference: Reference, view: View) -> tuple[StateStore, Edit] | None:
    obj = view.stores.get((reference.kind, reference.namespace, reference.name))
    if obj is None:
        return None
    store, root = parse_state_store(obj), paths.check_directory(reference.path, "path")
    living = [other for _, other in view.roots(store).values()]
    if root in living:
        return None
    canaries = frozenset(
        paths.join(root, directory, name)
        for directory, name in (
            ("dependencies", paths.CANARY_NAMESPACE),
            ("resources", paths.CANARY_CONFIGMAP),
            ("", paths.CANARY_NAMESPACE),
            ("", paths.CANARY_CONFIGMAP),
        )
    )
    kept = frozenset(other for other in living if paths.is_within(other, root))
    return store, Edit(edit_id, f"what is left of {root or '/'}", root, remove=canaries, keep=kept)
