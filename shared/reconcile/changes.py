"""on-destination-change: read what an event points at, and decide what has to happen."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from shared.deadline import Deadline
from shared.errors import LandfallError
from shared.events import Change
from shared.kube import Cluster, Key, Object, key_of
from shared.messages import Reference
from shared.observability import count_in_cluster, logger
from shared.queues import Outgoing
from shared.reconcile.batch import Share, for_each_cluster
from shared.reconcile.connections import Connections
from shared.reconcile.decisions import Decision, decide, says_nothing_new
from shared.reconcile.view import StoreKey, View
from shared.resources import STORE_KINDS
from shared.settings import Settings
from shared.works import destination_of


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
    shares: dict[str, dict[str, list[Change]]] = {}
    for message_id, changes in messages.items():
        for change in changes:
            name = connections.clusters.name(change.reference.cluster)
            if change.heartbeat:
                _count_heartbeat(name, connections.settings)
                continue
            named = change.reference.model_copy(update={"cluster": name})  # what follows from it carries the name
            shares.setdefault(name, {}).setdefault(message_id, []).append(replace(change, reference=named))

    async def decide_share(name: str, share: Mapping[str, Sequence[Change]], cluster: Cluster) -> Share:
        all_of_it = [(message_id, change) for message_id, changes in share.items() for change in changes]
        outgoing = list(_of_works(all_of_it))
        worth_it = [(message_id, change) for message_id, change in all_of_it if _is_worth_a_look(change)]
        if not worth_it:
            return {}, outgoing
        try:
            view, placements = await read_cluster(name, cluster, deadline)
        except LandfallError as error:
            return {message_id: error for message_id, _ in worth_it}, outgoing
        return {}, [*outgoing, *_concerned(worth_it, view, _placed(placements)).outgoing(connections.settings)]

    return await for_each_cluster(shares, decide_share, connections, deadline)


def _count_heartbeat(cluster: str, settings: Settings) -> None:
    if cluster in settings.served:  # a name becomes a metric, and only these are known to be few
        count_in_cluster(cluster, {"ForwarderHeartbeats": 1})
    else:
        logger.warning(
            "a forwarder's heartbeat names the cluster %r, which is not served here: correct LANDFALL_CLUSTER of the"
            " forwarder, or add the cluster",
            cluster[:100],
        )


async def read_cluster(
    name: str, cluster: Cluster, deadline: Deadline, *, columns: bool = False
) -> tuple[View, list[Object]]:
    """Return all Destinations and State Stores, and the metadata of all WorkPlacements.

    Args:
        name: of the cluster.
        cluster: to read.
        deadline: of the calls.
        columns: whether the WorkPlacements come with what `kubectl get` prints of them, as in `Cluster.list_all`.

    Raises:
        KubernetesError: a list could not be had.
    """
    placements = asyncio.create_task(cluster.list_all("WorkPlacement", deadline, metadata_only=True, columns=columns))
    try:
        view = await View.of_all(name, cluster, deadline)
        listed = await placements
    finally:
        placements.cancel()
    return view, listed


def decide_everything(
    view: View, placements: Sequence[Object], origin: frozenset[str], settings: Settings
) -> list[Outgoing]:
    """Return what to send to have every object of a cluster looked at, with nothing sent twice (resync)."""
    concerned = _Concerned(view, _placed(placements))
    for store in view.stores:
        concerned.stores[store] = origin
    for key in view.destinations:
        concerned.destinations[key] = origin
    reached = {key for store in view.stores for key in view.destinations_of(store)}

    def waits_to_be_let_go(obj: Object) -> bool:
        """Whether our finalizers hold a WorkPlacement that no State Store's message means."""
        metadata, target = obj["metadata"], view.target(key_of(obj)[0], destination_of(obj))
        leaving = target is None or bool(metadata.get("deletionTimestamp"))
        return bool(metadata.get("finalizers")) and leaving and target not in reached

    return [
        *concerned.outgoing(settings),
        *(
            Outgoing("documents", view.reference(obj, kind="WorkPlacement"), origin)
            for obj in placements
            if waits_to_be_let_go(obj)
        ),
        Outgoing("works", Reference(cluster=view.cluster, kind="Destination", name="*"), origin),
    ]


def _placed(placements: Iterable[Object]) -> frozenset[str]:
    """Return the names of the Destinations that have WorkPlacements."""
    return frozenset(name for obj in placements if (name := destination_of(obj)))


def _is_worth_a_look(change: Change) -> bool:
    """Whether a change may ask for something here; a Destination's echo is dropped before anything is read."""
    kind = change.reference.kind
    return kind not in {"Work", "WorkPlacement"} and not (change.echo and kind == "Destination")


def _of_works(changes: Iterable[tuple[str, Change]]) -> Iterator[Outgoing]:
    """Yield what goes on to on-work-change and write-documents, which read it themselves.

    Any change of a Destination may be one of its labels, which no generation tells. Of a WorkPlacement that is gone,
    the name says which Work may have to place another one.
    """
    for message_id, change in changes:
        reference, origin = change.reference, frozenset({message_id})
        of_work = reference.kind == "Work" and not change.echo and not change.deleted
        if reference.kind == "Destination" or of_work or (reference.kind == "WorkPlacement" and change.deleted):
            yield Outgoing("works", reference, origin)
        elif reference.kind == "WorkPlacement" and not change.echo:
            yield Outgoing("documents", reference, origin)


@dataclass
class _Concerned:
    """What a batch of changes concerns, each with the ids of the messages that say so.

    Attributes:
        placed: names of the Destinations that have WorkPlacements.
        stores: to be checked, and all their Destinations to be written.
        destinations: to be decided about, and to be written.
        followers: Destinations whose State Store's readiness may have changed: to be written only where their own
            Ready does not agree with it.
    """

    view: View
    placed: frozenset[str]
    stores: dict[StoreKey, frozenset[str]] = field(default_factory=dict)
    destinations: dict[Key, frozenset[str]] = field(default_factory=dict)
    followers: dict[Key, frozenset[str]] = field(default_factory=dict)

    def outgoing(self, settings: Settings) -> Iterator[Outgoing]:
        covered: set[Key] = set()
        for store, origin in self.stores.items():
            if store not in self.view.stores:
                continue
            reference = self.view.store_reference(store)
            yield Outgoing("canary", reference, origin)
            if any(name in self.placed for _, name in self.view.destinations_of(store)):
                yield Outgoing("documents", reference, origin)
            covered.update(self.view.destinations_of(store))
        for key in {**self.followers, **self.destinations}:
            decision = decide(key, self.view)
            if decision is None:
                continue
            origin = self.destinations.get(key, frozenset()) | self.followers.get(key, frozenset())
            write = key in self.destinations or waits_for_its_store(self.view.destinations[key])
            yield from self._send(key, decision, origin, settings, write=write and key not in covered)

    def _send(
        self, key: Key, decision: Decision, origin: frozenset[str], settings: Settings, *, write: bool
    ) -> Iterator[Outgoing]:
        if decision.cleanup:
            yield Outgoing("cleanup", decision.reference, origin)
        verdict = decision.verdict
        obj = self.view.destinations[key]
        if verdict is not None and verdict.first_seen:
            yield Outgoing("status", verdict, origin, settings.first_seen_delay_seconds)
        elif verdict is not None and not says_nothing_new(verdict, obj):
            yield Outgoing("status", verdict.seeing(obj), origin)
        if decision.write is not None and write:
            yield Outgoing("canary", decision.reference, origin)
            if key[1] in self.placed:
                yield Outgoing("documents", decision.reference, origin)


def waits_for_its_store(destination: Object) -> bool:
    """Whether a Destination says of itself that only its State Store is in its way."""
    conditions = (destination.get("status") or {}).get("conditions") or ()
    return any(c.get("reason") in {"StateStoreNotReady", "StateStoreNotFound"} for c in conditions)


def _concerned(changes: Sequence[tuple[str, Change]], view: View, placed: frozenset[str]) -> _Concerned:
    concerned = _Concerned(view, placed)

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
