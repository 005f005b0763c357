"""on-destination-change: read what an event points at, and decide what has to happen."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from shared.deadline import Deadline
from shared.errors import LandfallError
from shared.events import Change
from shared.kube import Key
from shared.messages import Reference
from shared.queues import Outgoing
from shared.reconcile.connections import Connections
from shared.reconcile.decisions import Decision, decide, says_nothing_new
from shared.reconcile.view import StoreKey, View
from shared.resources import STORE_KINDS

# "First seen" is worth a status only where the first write takes long; when it is overtaken it costs nothing.
FIRST_SEEN_DELAY_SECONDS = 2


async def decide_changes(
    messages: Mapping[str, Sequence[Change]], connections: Connections, deadline: Deadline
) -> dict[str, Exception]:
    """Decide for every object that a batch of changes concerns, and send it on its way.

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
        try:
            view = await View.of_all(name, await connections.clusters.get(name), deadline)
        except LandfallError as error:
            failures.update({message_id: error for message_id, _ in changes})
            continue
        outgoing += _concerned(changes, view).outgoing()
    return {**failures, **await connections.queues.send(outgoing, deadline)}


def decide_everything(view: View, origin: frozenset[str]) -> list[Outgoing]:
    """Return what to send to have every object of a cluster looked at, with nothing sent twice (resync)."""
    concerned = _Concerned(view)
    for store in view.stores:
        concerned.stores[store] = origin
    for key in view.destinations:
        concerned.destinations[key] = origin
    return list(concerned.outgoing())


def _by_cluster(messages: Mapping[str, Sequence[Change]]) -> dict[str, list[tuple[str, Change]]]:
    """Group changes by cluster; a Destination's echo is dropped at the door, before anything is read."""
    clusters: dict[str, list[tuple[str, Change]]] = {}
    for message_id, changes in messages.items():
        for change in changes:
            if not (change.echo and change.reference.kind == "Destination"):
                clusters.setdefault(change.reference.cluster, []).append((message_id, change))
    return clusters


@dataclass
class _Concerned:
    """What a batch of changes concerns, each with the ids of the messages that say so.

    Attributes:
        stores: to be checked, and all their Destinations to be written.
        destinations: to be decided about, and to be written.
        followers: Destinations whose State Store's readiness may have changed: to be written only where their own
            Ready does not agree with it.
    """

    view: View
    stores: dict[StoreKey, frozenset[str]] = field(default_factory=dict)
    destinations: dict[Key, frozenset[str]] = field(default_factory=dict)
    followers: dict[Key, frozenset[str]] = field(default_factory=dict)

    def outgoing(self) -> Iterator[Outgoing]:
        for store, origin in self.stores.items():
            if store in self.view.stores:
                yield Outgoing("canary", self.view.store_reference(store), origin)
        covered = {
            key for store in self.stores if store in self.view.stores for key in self.view.destinations_of(store)
        }
        for key in {**self.followers, **self.destinations}:
            decision = decide(key, self.view)
            if decision is None:
                continue
            origin = self.destinations.get(key, frozenset()) | self.followers.get(key, frozenset())
            write = key in self.destinations or self._waits_for_its_store(key)
            yield from self._send(key, decision, origin, write=write and key not in covered)

    def _send(self, key: Key, decision: Decision, origin: frozenset[str], *, write: bool) -> Iterator[Outgoing]:
        if decision.cleanup:
            yield Outgoing("cleanup", decision.reference, origin)
        verdict = decision.verdict
        if verdict is not None and not says_nothing_new(verdict, self.view.destinations[key]):
            yield Outgoing("status", verdict, origin, FIRST_SEEN_DELAY_SECONDS if verdict.first_seen else 0)
        if decision.write is not None and write:
            yield Outgoing("canary", decision.reference, origin)

    def _waits_for_its_store(self, key: Key) -> bool:
        conditions = (self.view.destinations[key].get("status") or {}).get("conditions") or ()
        return any(c.get("reason") in {"StateStoreNotReady", "StateStoreNotFound"} for c in conditions)


def _concerned(changes: Sequence[tuple[str, Change]], view: View) -> _Concerned:
    concerned = _Concerned(view)

    def add(to: dict[Key, frozenset[str]], keys: Sequence[Key]) -> None:
        for key in keys:
            to[key] = to.get(key, frozenset()) | {message_id}

    for message_id, change in changes:
        reference = change.reference
        key = (reference.namespace, reference.name)
        if reference.kind == "Destination":
            add(concerned.destinations, [key, *view.rivals(key)])
        elif reference.kind not in STORE_KINDS:
            for store in view.stores_of_secret(key):
                concerned.stores[store] = concerned.stores.get(store, frozenset()) | {message_id}
        else:
            store = _store_key(reference)
            if not change.echo and not change.deleted:
                concerned.stores[store] = concerned.stores.get(store, frozenset()) | {message_id}
            add(concerned.followers, view.destinations_of(store))
    return concerned


def _store_key(reference: Reference) -> StoreKey:
    return reference.kind, reference.namespace, reference.name
