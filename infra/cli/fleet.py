"""A cluster as it is, or as it would be once manifests are applied: Destinations, State Stores, WorkPlacements."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

from shared import conditions, paths
from shared.deadline import Deadline
from shared.errors import InvalidObject, LandfallError, StateStoreNotReady
from shared.kube import Cluster, Key, Object, key_of, together
from shared.reconcile.view import StoreKey, View, place_of
from shared.resources import STORE_KINDS, Destination, StateStore, parse_state_store
from shared.works import DESTINATION_LABEL, destination_of


@dataclass
class Fleet:
    """Destinations and State Stores as the API server has them, and the WorkPlacements that were asked for.

    Attributes:
        destinations: by namespace and name.
        stores: by kind, namespace and name.
        placements: WorkPlacements by namespace and name, of the Destinations that were asked for.
        secrets: that manifests bring, by namespace and name; the others are read where they are needed.
    """

    destinations: dict[Key, Object] = field(default_factory=dict)
    stores: dict[StoreKey, Object] = field(default_factory=dict)
    placements: dict[Key, Object] = field(default_factory=dict)
    secrets: dict[Key, Object] = field(default_factory=dict)

    @classmethod
    async def read(cls, cluster: Cluster, deadline: Deadline) -> Self:
        """List all Destinations and all State Stores.

        Raises:
            KubernetesError: a list could not be read.
        """
        kinds = ("Destination", *STORE_KINDS)
        destinations, *stores = await together(cluster.list_all(kind, deadline) for kind in kinds)
        return cls(
            {key_of(obj): obj for obj in destinations},
            {(obj["kind"], *key_of(obj)): obj for objects in stores for obj in objects},
        )

    async def read_placements(self, keys: Iterable[Key], cluster: Cluster, deadline: Deadline) -> None:
        """Read the WorkPlacements of some Destinations, whole.

        Raises:
            KubernetesError: they could not be read.
        """
        names = sorted({name for _, name in keys})
        if len(names) > _NAMES:
            wanted = set(names)
            async for page in cluster.pages("WorkPlacement", deadline):
                self.placements |= {key_of(obj): obj for obj in page if destination_of(obj) in wanted}
            return
        calls = [cluster.list_all("WorkPlacement", deadline, {DESTINATION_LABEL: name}) for name in names]
        for objects in await together(calls):
            self.placements |= {key_of(obj): obj for obj in objects}

    @cached_property
    def view(self) -> View:
        """What the functions' decisions read."""
        return View("", self.destinations, self.stores)

    @cached_property
    def _roots(self) -> dict[str, dict[Key, tuple[Destination, str]]]:
        """By place, the Destinations there with their directories; those that cannot be read own none."""
        found: dict[str, dict[Key, tuple[Destination, str]]] = {}
        for key, obj in self.destinations.items():
            try:
                destination = Destination.parse(obj)
                store = self.view.store(destination)
                if store is not None:
                    root = paths.destination_root(store, destination)
                    found.setdefault(place_of(store), {})[key] = destination, root
            except (InvalidObject, StateStoreNotReady):
                continue
        return found

    def owner(self, store: StateStore, root: str) -> Destination | None:
        """Return the oldest Destination whose directory that is in the place of a State Store."""
        same = [destination for destination, own in self._roots.get(place_of(store), {}).values() if own == root]
        return min(same, key=_age, default=None)

    def others_within(self, store: StateStore, root: str, uid: str) -> frozenset[str]:
        """Return the directories at or below one that are other Destinations', in the place of a State Store."""
        found = self._roots.get(place_of(store), {}).values()
        within = {own for destination, own in found if destination.metadata.uid != uid and paths.is_within(own, root)}
        owners = {own: self.owner(store, own) for own in within}
        return frozenset(own for own, owner in owners.items() if owner is not None and owner.metadata.uid != uid)

    def of_store(self, key: StoreKey) -> list[Key]:
        """Return the Destinations that refer to a State Store, by name."""
        return sorted(own for own, obj in self.destinations.items() if self.store_key(obj) == key)

    def store_of(self, key: Key) -> StateStore | None:
        """Return a Destination's State Store; None where it has none that can be read."""
        try:
            return self.view.store(Destination.parse(self.destinations[key]))
        except LandfallError:
            return None

    def store_key(self, obj: Object) -> StoreKey:
        """Return the State Store that a Destination refers to, which may not exist."""
        ref = (obj.get("spec") or {}).get("stateStoreRef") or {}
        kind, name = str(ref.get("kind")), str(ref.get("name"))
        namespace = key_of(obj)[0]  # State Stores of older clusters have one
        return kind, namespace if (kind, namespace, name) in self.stores else "", name

    def placements_of(self, key: Key) -> dict[Key, Object]:
        """Return the WorkPlacements of a Destination that have been read."""
        return {
            own: obj
            for own, obj in sorted(self.placements.items())
            if self.view.target(own[0], str((obj.get("spec") or {}).get("targetDestinationName") or "")) == key
        }


_NAMES = 20  # Destinations whose WorkPlacements are listed by label; of more, all are read


def _age(destination: Destination) -> tuple[float, str, str]:
    created = destination.metadata.creation_timestamp
    return (created.timestamp() if created else 0.0, destination.metadata.namespace, destination.name)


def ready_of(obj: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an object's condition Ready; one of status Unknown where it has none."""
    found = conditions.find((obj.get("status") or {}).get("conditions") or (), conditions.READY)
    return found or {"status": "Unknown", "reason": "NoCondition", "message": "no function has reported on it yet"}


def store_name(key: StoreKey) -> str:
    """Return what a State Store is called in output: kind and name."""
    kind, namespace, name = key
    return f"{kind.lower()}/{f'{namespace}/' if namespace else ''}{name}"


def destination_name(key: Key) -> str:
    """Return what a Destination is called in output."""
    return f"destination/{'/'.join(filter(None, key))}"


def readable_store(obj: Object) -> StateStore | None:
    """Return a State Store, or None where it cannot be read as one."""
    try:
        return parse_state_store(obj)
    except InvalidObject:
        return None
