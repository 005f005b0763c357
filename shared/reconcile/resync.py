"""resync: on a schedule, have everything looked at again; what events were lost is repaired by it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from shared.deadline import Deadline
from shared.kube import Cluster, Key, Object, key_of, uid_of
from shared.messages import Reference
from shared.queues import Outgoing
from shared.reconcile.batch import Share, for_each_cluster
from shared.reconcile.by_place import in_parts
from shared.reconcile.claims import CLAIM, PLACE_LABEL, named_in
from shared.reconcile.connections import Connections
from shared.reconcile.locations import recorded
from shared.reconcile.ownership import is_cleaned_up, look_again
from shared.reconcile.readiness import Unready
from shared.reconcile.view import View
from shared.reconcile.waiting import Waiting
from shared.settings import Settings
from shared.works import destination_of

# A resync's messages are retries: a failure of one of many has no State Store checked that is checked anyway.
_ATTEMPT: Final = 1


async def resync(messages: Mapping[str, object], connections: Connections, deadline: Deadline) -> dict[str, Exception]:
    """Read everything once, page by page, and have every State Store checked and every Destination compared.

    Each cluster is looked at for itself: one that is down leaves the others' resync whole. A message means some hundred
    Destinations, so that no function ever has a whole fleet to do at once.

    Args:
        messages: the schedule's one event; what it holds does not matter.
        connections: of this container.
        deadline: of this invocation.

    Returns:
        By message id: why the resync is not complete.
    """

    async def look(name: str, share: Mapping[str, object], cluster: Cluster) -> Share:
        everything = _Everything(View(name), Unready(name, connections.settings.not_ready_seconds))
        await everything.read(cluster, deadline, connections.settings)
        everything.unready.record()
        return {}, everything.outgoing(frozenset(share))

    return await for_each_cluster(dict.fromkeys(connections.settings.served, messages), look, connections, deadline)


@dataclass
class _Everything:
    """What one cluster has, as far as it decides what to send: names, and no objects but State Stores.

    Attributes:
        view: of the State Stores.
        unready: counts what is not Ready.
        places: by Destination, its Lease; empty where it has none.
        leaving: Destinations whose files have to go.
        directories: by uid of a Destination, its directories, with their places.
        placed: Destinations that have WorkPlacements.
        let_go: WorkPlacements that our finalizers hold and that no Destination's message means.
        claims: by place, the directories whose claims no Destination confirms.
        waiting: Destinations that are gone and still listed as waiting.
    """

    view: View
    unready: Unready
    places: dict[Key, str] = field(default_factory=dict)
    leaving: list[Key] = field(default_factory=list)
    directories: dict[str, set[tuple[str, str]]] = field(default_factory=dict)
    placed: set[Key] = field(default_factory=set)
    let_go: list[Key] = field(default_factory=list)
    claims: dict[str, list[str]] = field(default_factory=dict)
    waiting: list[Key] = field(default_factory=list)

    async def read(self, cluster: Cluster, deadline: Deadline, settings: Settings) -> None:
        """Read a cluster, page by page: claims first, so that one that is made meanwhile is not taken for a leftover.

        Raises:
            KubernetesError: it could not be read.
        """
        namespace = settings.lease_namespace
        claims = [
            (place, root, claimant.uid)
            async for page in cluster.pages("ConfigMap", deadline, PLACE_LABEL, namespace=namespace)
            for obj in page
            for place, root, claimant in named_in(obj)
        ]
        waiting = await Waiting.read(namespace, cluster, deadline)
        self.view = await View.of_stores(self.view.cluster, cluster, deadline)
        self.unready.state_stores(list(self.view.stores.values()))
        async for page in cluster.pages("Destination", deadline):
            self.unready.destinations(page)
            for obj in page:
                self._take(key_of(obj), obj)
        for place, root, uid in claims:
            if (place, root) not in self.directories.get(uid, ()):
                self.claims.setdefault(place, []).append(root)
        self.waiting = [key for key in waiting if key not in self.places]
        async for page in cluster.pages("WorkPlacement", deadline, columns=True):
            self.unready.placements(page)
            for obj in page:
                self._take_placement(obj)

    def outgoing(self, origin: frozenset[str]) -> Iterator[Outgoing]:
        """Yield what has every object looked at, with nothing sent twice."""
        cluster = self.view.cluster

        def named(keys: Mapping[Key, str]) -> list[tuple[Reference, frozenset[str]]]:
            return [(again, origin) for key, at in keys.items() for again in look_again(cluster, [key], at, _ATTEMPT)]

        for store in self.view.stores:
            yield Outgoing("canary", self.view.store_reference(store).model_copy(update={"alone": True}), origin)
        yield from in_parts("canary", named(self.places | dict.fromkeys(self.waiting, "")))
        yield from in_parts("cleanup", named({key: self.places[key] for key in self.leaving}))
        yield from in_parts("documents", named({key: self.places[key] for key in self.places if key in self.placed}))
        let_go = (Reference(cluster=cluster, kind="WorkPlacement", namespace=at, name=name) for at, name in self.let_go)
        yield from in_parts("documents", ((reference, origin) for reference in let_go))
        doubted = (
            Reference(cluster=cluster, kind=CLAIM, name=f"/{root}", place=place)
            for place, roots in self.claims.items()
            for root in roots
        )
        yield from in_parts("canary", ((reference, origin) for reference in doubted))
        yield Outgoing("works", Reference(cluster=cluster, kind="Destination", name="*"), origin)

    def _take(self, key: Key, obj: Object) -> None:
        self.view.destinations[key] = obj
        where = self.view.where(key)
        self.view.forget(key)
        self.places[key] = "" if where is None else where[0]
        if obj["metadata"].get("deletionTimestamp") and is_cleaned_up(obj):
            self.leaving.append(key)
        remembered = {(location.place, location.root) for location in recorded(obj) or ()}
        self.directories[uid_of(obj)] = remembered | ({where} if where is not None else set())

    def _take_placement(self, obj: Object) -> None:
        metadata, target = obj["metadata"], self._target(obj)
        leaving = target is None or bool(metadata.get("deletionTimestamp"))
        if target is not None and self.places[target]:
            self.placed.add(target)
        elif metadata.get("finalizers") and leaving:
            self.let_go.append(key_of(obj))

    def _target(self, obj: Object) -> Key | None:
        """Return the Destination that a WorkPlacement names; None where there is none."""
        name = destination_of(obj)
        return next((key for key in ((key_of(obj)[0], name), ("", name)) if key in self.places), None)
