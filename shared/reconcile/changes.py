"""on-destination-change: read what an event points at, and decide what has to happen."""

from collections.abc import Iterator, Mapping, Sequence

from shared import conditions, paths
from shared.deadline import Deadline
from shared.documents import canary_edit
from shared.errors import InvalidObject, LandfallError, StateStoreNotReady
from shared.events import Change
from shared.kube import Key
from shared.messages import Reference, Verdict
from shared.queues import Outgoing
from shared.reconcile.connections import Connections
from shared.reconcile.view import STORE_KINDS, StoreKey, View, secret_key
from shared.resources import CLEANUP_FINALIZER, Destination, parse_state_store

# "First seen" is worth a status only where the first write takes long; when it is overtaken it costs nothing.
FIRST_SEEN_DELAY_SECONDS = 2


async def decide_changes(
    messages: Mapping[str, Sequence[Change]], connections: Connections, deadline: Deadline
) -> dict[str, Exception]:
    """Decide for every Destination that a batch of changes concerns, and send it on its way.

    Args:
        messages: by message id, the changes that its event told of.
        connections: of this container.
        deadline: of this invocation.

    Returns:
        By message id: why it has to be delivered again.
    """
    failures: dict[str, Exception] = {}
    outgoing: list[Outgoing] = []
    for name, changes in _by_cluster(messages).items():
        worth_it = [(message_id, change) for message_id, change in changes if not change.echo]
        if not worth_it:
            continue
        try:
            view = await View.of_all(name, await connections.clusters.get(name), deadline)
        except LandfallError as error:
            failures.update({message_id: error for message_id, _ in worth_it})
            continue
        for key, origin in _concerned(worth_it, view).items():
            outgoing += [Outgoing(queue, message, origin, delay) for queue, message, delay in _decide(key, view)]
    return {**failures, **await connections.queues.send(outgoing, deadline)}


def _by_cluster(messages: Mapping[str, Sequence[Change]]) -> dict[str, list[tuple[str, Change]]]:
    clusters: dict[str, list[tuple[str, Change]]] = {}
    for message_id, changes in messages.items():
        for change in changes:
            clusters.setdefault(change.reference.cluster, []).append((message_id, change))
    return clusters


def _concerned(changes: Sequence[tuple[str, Change]], view: View) -> dict[Key, frozenset[str]]:
    """Return the Destinations that changes concern, each with the ids of the messages that say so."""
    concerned: dict[Key, frozenset[str]] = {}
    by_store = _destinations_by_store(view)
    by_secret = _stores_by_secret(view)
    for message_id, change in changes:
        reference = change.reference
        key = (reference.namespace, reference.name)
        if reference.kind == "Destination":
            found = {key} if not change.deleted else _waiting_for_a_path(view)
        elif reference.kind in STORE_KINDS:
            found = by_store.get((reference.kind, *key), set())
        else:
            found = {d for store in by_secret.get(key, ()) for d in by_store.get(store, ())}
        for destination in found:
            concerned[destination] = concerned.get(destination, frozenset()) | {message_id}
    return concerned


def _destinations_by_store(view: View) -> dict[StoreKey, set[Key]]:
    found: dict[StoreKey, set[Key]] = {}
    for key, obj in view.destinations.items():
        ref = (obj.get("spec") or {}).get("stateStoreRef") or {}
        for namespace in {"", key[0]}:
            found.setdefault((ref.get("kind", ""), namespace, ref.get("name", "")), set()).add(key)
    return found


def _stores_by_secret(view: View) -> dict[Key, list[StoreKey]]:
    found: dict[Key, list[StoreKey]] = {}
    for store_key, obj in view.stores.items():
        try:
            secret = secret_key(parse_state_store(obj))
        except InvalidObject:
            continue
        if secret is not None:
            found.setdefault(secret, []).append(store_key)
    return found


def _waiting_for_a_path(view: View) -> set[Key]:
    """Return the Destinations that were refused for another's path: that other one may be what was deleted."""
    return {
        key
        for key, obj in view.destinations.items()
        if any(
            condition.get("reason") == "PathClash" for condition in (obj.get("status") or {}).get("conditions") or ()
        )
    }


def _decide(key: Key, view: View) -> Iterator[tuple[str, Reference | Verdict, int]]:
    """Yield what to send about one Destination: the queue, the message, the delay."""
    obj = view.destinations.get(key)
    if obj is None:
        return
    reference = view.reference(obj)
    try:
        destination = Destination.parse(obj)
    except InvalidObject as error:
        yield "status", conditions.destination_failed(reference, None, error), 0
        return
    metadata = destination.metadata
    has_finalizer = CLEANUP_FINALIZER in metadata.finalizers
    if metadata.being_deleted:
        if has_finalizer:
            yield "cleanup", reference, 0
        return
    if destination.spec.cleanup == "all" and not has_finalizer:
        # Nothing is written before the finalizer is there; setting it comes back as the next change.
        yield "status", Verdict(reference=reference, add_finalizer=CLEANUP_FINALIZER), 0
        return
    if destination.spec.cleanup == "none" and has_finalizer:
        yield "status", Verdict(reference=reference, remove_finalizer=CLEANUP_FINALIZER), 0
    refusal = _refusal(reference, destination, view)
    if refusal is not None:
        yield "status", refusal, 0
        return
    if destination.condition(conditions.READY) is None:
        yield "status", conditions.destination_first_seen(reference), FIRST_SEEN_DELAY_SECONDS
    yield "canary", reference, 0


def _refusal(reference: Reference, destination: Destination, view: View) -> Verdict | None:
    ref = destination.spec.state_store_ref
    try:
        store = view.store(destination)
        if store is None:
            return conditions.store_not_found(reference, ref)
        canary_edit("", destination, store)  # all that can be wrong with its paths
    except (InvalidObject, StateStoreNotReady) as error:
        return conditions.destination_failed(reference, ref, error)
    owner = view.owner(store, paths.destination_root(store, destination))
    itself = owner is None or owner.metadata.uid == destination.metadata.uid
    return None if itself or owner is None else conditions.path_clash(reference, owner)
