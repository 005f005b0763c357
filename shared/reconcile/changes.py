"""on-destination-change: read what an event points at, and decide what has to happen."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Self, TypeVar

from shared.deadline import Deadline
from shared.errors import LandfallError
from shared.events import Change
from shared.kube import Cluster, Key, Object, selectors, together
from shared.messages import Reference
from shared.observability import count_in_cluster, logger
from shared.queues import Outgoing
from shared.reconcile.batch import Share, for_each_cluster
from shared.reconcile.by_place import in_parts
from shared.reconcile.connections import Connections
from shared.reconcile.decisions import Decision, decide, says_nothing_new
from shared.reconcile.ownership import look_again
from shared.reconcile.view import StoreKey, View, destinations_of
from shared.resources import CLEANUP_FINALIZER, STORE_KINDS
from shared.settings import Settings
from shared.works import DESTINATION_LABEL, destination_of

_ASKED_ONE_BY_ONE: Final = 5  # Destinations, whether they have WorkPlacements; of more, their WorkPlacements are listed
_Key = TypeVar("_Key")
_Named = list[tuple[Reference, frozenset[str]]]  # objects, each with the messages that it comes from


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
            concerned = await _Concerned.by(worth_it, name, cluster, deadline)
            outgoing += await concerned.outgoing(cluster, deadline, connections.settings)
        except LandfallError as error:
            return {message_id: error for message_id, _ in worth_it}, outgoing
        return {}, outgoing

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


def _is_worth_a_look(change: Change) -> bool:
    """Whether a change may ask for something here; a Destination's echo is dropped before anything is read."""
    kind = change.reference.kind
    if kind == "WorkPlacement":
        return change.deleted and bool(change.destination)
    return kind != "Work" and not (change.echo and kind == "Destination")


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
        view: of the Destinations and State Stores that changes are about.
        stores: to be checked, and all their Destinations to be written.
        destinations: to be decided about.
        followed: State Stores whose Destinations may have to say something else of them, or wait for them.
        emptied: Destinations of which a WorkPlacement is gone: one that is being deleted waits for the last of them.
    """

    view: View
    stores: dict[StoreKey, frozenset[str]] = field(default_factory=dict)
    destinations: dict[Key, frozenset[str]] = field(default_factory=dict)
    followed: dict[StoreKey, frozenset[str]] = field(default_factory=dict)
    emptied: dict[Key, frozenset[str]] = field(default_factory=dict)

    @classmethod
    async def by(cls, changes: Sequence[tuple[str, Change]], name: str, cluster: Cluster, deadline: Deadline) -> Self:
        """Find out what changes concern, and read it.

        Raises:
            KubernetesError: it could not be read.
        """
        concerned = cls(View(name))
        secrets: dict[Key, frozenset[str]] = {}
        for message_id, change in changes:
            reference = change.reference
            key = (reference.namespace, reference.name)
            if reference.kind == "Destination":
                _add(concerned.destinations, key, message_id)
            elif reference.kind == "WorkPlacement":
                namespaced = await cluster.is_namespaced("Destination", deadline)
                _add(concerned.emptied, (reference.namespace if namespaced else "", change.destination), message_id)
            elif reference.kind not in STORE_KINDS:
                _add(secrets, key, message_id)
            elif change.echo or change.deleted:
                _add(concerned.followed, (reference.kind, *key), message_id)
            else:
                _add(concerned.stores, (reference.kind, *key), message_id)
        if secrets:
            users = (await View.of_stores(name, cluster, deadline)).stores_by_secret()
            for key, ids in secrets.items():
                for store in users.get(key, ()):
                    concerned.stores[store] = concerned.stores.get(store, frozenset()) | ids
        stores = {*concerned.stores, *concerned.followed}
        await concerned.view.read(cluster, deadline, concerned.destinations, stores)
        for store in concerned.followed.keys() & concerned.stores.keys():
            concerned.stores[store] |= concerned.followed.pop(store)  # its check means all its Destinations
        return concerned

    async def outgoing(self, cluster: Cluster, deadline: Deadline, settings: Settings) -> list[Outgoing]:
        """Return what to send.

        Raises:
            KubernetesError: the Destinations of a State Store could not be read.
        """
        found: list[Outgoing] = []
        for store, origin in self.stores.items():
            if store in self.view.stores:
                reference = self.view.store_reference(store)
                found += [Outgoing("canary", reference, origin), Outgoing("documents", reference, origin)]
        followers, leaving = await self._followers(cluster, deadline)
        leaving += await self._waiting_for_the_last(cluster, deadline)
        found += [*in_parts("canary", followers), *in_parts("documents", followers), *in_parts("cleanup", leaving)]
        decisions = {key: decision for key in self.destinations if (decision := decide(key, self.view)) is not None}
        writable = {key for key, decision in decisions.items() if decision.write is not None}
        placed = await placed_at({name for _, name in writable}, cluster, deadline)
        for key, origin in self.destinations.items():
            decision = decisions.get(key)
            found += self._of_destination(key, decision, origin, settings, placed=key in writable and key[1] in placed)
        return found

    def _of_destination(
        self, key: Key, decision: Decision | None, origin: frozenset[str], settings: Settings, *, placed: bool
    ) -> Iterator[Outgoing]:
        if decision is None:  # others may have waited for its directory
            (gone,) = look_again(self.view.cluster, [key], "")
            yield Outgoing("canary", gone, origin)
            return
        obj = self.view.destinations[key]
        if decision.cleanup:
            yield Outgoing("cleanup", decision.reference, origin)
        if decision.verdict is not None and decision.verdict.first_seen:
            yield Outgoing("status", decision.verdict, origin, settings.first_seen_delay_seconds)
        is_leaving = bool(obj["metadata"].get("deletionTimestamp")) and decision.verdict is None
        if is_leaving or self.view.store_key(obj) in self.stores.keys() & self.view.stores.keys():
            return  # the check of its State Store means it, too
        yield Outgoing("canary", decision.reference, origin)
        if placed:
            yield Outgoing("documents", decision.reference, origin)

    async def _followers(self, cluster: Cluster, deadline: Deadline) -> tuple[_Named, _Named]:
        """Return the Destinations that say something else than their State Stores, which are followed.

        And those that are being deleted.
        """
        found: _Named = []
        leaving: _Named = []
        async for key, store in destinations_of(self.followed, self.view, cluster, deadline):
            decision, obj = decide(key, self.view), self.view.destinations[key]
            if decision is None or key in self.destinations:
                continue
            if decision.write is not None:
                is_news = waits_for_its_store(obj)
            else:
                is_news = decision.verdict is not None and not says_nothing_new(decision.verdict, obj)
            (again,) = look_again(self.view.cluster, [key], self.view.place(key))
            if decision.cleanup:
                leaving.append((again, self.followed[store]))
            elif is_news:
                found.append((again, self.followed[store]))
        return found, leaving

    async def _waiting_for_the_last(self, cluster: Cluster, deadline: Deadline) -> _Named:
        """Return the Destinations that are being deleted, and of which a WorkPlacement is gone."""
        found = await cluster.read_many("Destination", self.emptied, deadline, metadata_only=True)
        return [
            (Reference.to(obj, "Destination", self.view.cluster), self.emptied[key])
            for key, obj in found.items()
            if obj["metadata"].get("deletionTimestamp") and CLEANUP_FINALIZER in obj["metadata"].get("finalizers", ())
        ]


async def placed_at(names: Collection[str], cluster: Cluster, deadline: Deadline) -> set[str]:
    """Return which of some Destinations, by name, have WorkPlacements.

    Raises:
        KubernetesError: that could not be found out.
    """
    ordered = sorted(names)
    if len(ordered) <= _ASKED_ONE_BY_ONE:
        calls = [cluster.exists("WorkPlacement", deadline, {DESTINATION_LABEL: name}) for name in ordered]
        return {name for name, is_placed in zip(ordered, await together(calls), strict=True) if is_placed}
    found: set[str] = set()
    for chunk, selector in selectors(DESTINATION_LABEL, ordered):
        async for page in cluster.pages("WorkPlacement", deadline, selector, metadata_only=True):
            found |= {destination_of(obj) for obj in page}
            if found.issuperset(chunk):
                break
    return found


def waits_for_its_store(destination: Object) -> bool:
    """Whether a Destination says of itself that only its State Store is in its way."""
    conditions = (destination.get("status") or {}).get("conditions") or ()
    return any(c.get("reason") in {"StateStoreNotReady", "StateStoreNotFound"} for c in conditions)


def _add(to: dict[_Key, frozenset[str]], key: _Key, message_id: str) -> None:
    to[key] = to.get(key, frozenset()) | {message_id}
