"""A cluster as it is, or as it would be once manifests are applied: Destinations, State Stores, WorkPlacements."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

from shared import conditions, paths
from shared.deadline import Deadline
from shared.errors import InvalidObject, KubernetesForbidden, LandfallError
from shared.kube import Cluster, Key, Object, key_of, together, uid_of
from shared.reconcile.claims import PLACE_LABEL, Claimant, named_in
from shared.reconcile.decisions import decide
from shared.reconcile.locations import recorded
from shared.reconcile.ownership import Standing, claimant_of, standing
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
        claims: by place and directory, the Destination that the functions know as its owner.
    """

    destinations: dict[Key, Object] = field(default_factory=dict)
    stores: dict[StoreKey, Object] = field(default_factory=dict)
    placements: dict[Key, Object] = field(default_factory=dict)
    secrets: dict[Key, Object] = field(default_factory=dict)
    claims: dict[str, dict[str, Claimant]] = field(default_factory=dict)

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

    async def read_claims(self, namespace: str, cluster: Cluster, deadline: Deadline) -> None:
        """Read which Destinations own which directories; without permission, what Destinations say decides alone.

        Args:
            namespace: of the functions' Leases and claims.
            cluster: where they are.
            deadline: of the calls.

        Raises:
            KubernetesError: they could not be read.
        """
        with suppress(KubernetesForbidden):
            async for page in cluster.pages("ConfigMap", deadline, PLACE_LABEL, namespace=namespace):
                for obj in page:
                    for place, root, claimant in named_in(obj):
                        self.claims.setdefault(place, {})[root] = claimant

    @cached_property
    def view(self) -> View:
        """What the functions' decisions read."""
        namespaced = frozenset(kind for kind, namespace, _ in self.stores if namespace)
        return View("", self.destinations, self.stores, namespaced)

    @cached_property
    def _wanted(self) -> dict[str, dict[str, list[Key]]]:
        """By place and directory, the Destinations that have it, the oldest first, and then those that leave it."""
        own: list[tuple[Claimant, Key, tuple[str, str]]] = []
        left: list[tuple[Claimant, Key, tuple[str, str]]] = []
        for key, obj in self.destinations.items():
            with suppress(InvalidObject):  # one that cannot be read owns nothing
                claimant = claimant_of(Destination.parse(obj))
                if (where := self.view.where(key)) is not None:
                    own.append((claimant, key, where))
                left += [(claimant, key, (at.place, at.root)) for at in recorded(obj) or ()]
        found: dict[str, dict[str, list[Key]]] = {}
        for _, key, (place, root) in (*sorted(own), *sorted(left)):
            found.setdefault(place, {}).setdefault(root, []).append(key)
        return found

    def owner(self, store: StateStore, root: str) -> Destination | None:
        """Return the Destination that has a directory of a State Store once all have been written.

        It is the claim's, unless an older one takes the directory over (`shared.reconcile.ownership.Site.claim`).
        """
        there = place_of(store), root
        claim = self.claims.get(there[0], {}).get(root)
        claimed = None if claim is None else (claim.namespace, claim.name)
        if claim is None or uid_of(self.destinations.get((claim.namespace, claim.name))) != claim.uid:
            claimed = None
        stands = Standing.LOST if claimed is None else standing(claimed, there, self.view)
        if claimed is not None and stands is Standing.LEAVES:
            return Destination.parse(self.destinations[claimed])
        wanting = self._wanted.get(there[0], {}).get(root, ())
        found = next((key for key in wanting if key == claimed or self._has(key, there)), None)
        if found is None and not self.claims:
            found = next((key for key in wanting if standing(key, there, self.view) is Standing.LEAVES), None)
        return None if found is None else Destination.parse(self.destinations[found])

    def _has(self, key: Key, there: tuple[str, str]) -> bool:
        """Whether a Destination gets a directory: it may be written, or where claims are not known, it has been."""
        if standing(key, there, self.view) is not Standing.HAS:
            return False
        if not self.claims and any((at.place, at.root) == there for at in recorded(self.destinations[key]) or ()):
            return True
        decision = decide(key, self.view)
        return decision is not None and decision.write is not None

    def is_leaving(self, destination: Destination, store: StateStore, root: str) -> bool:
        """Whether a Destination still has files in a directory that is not its own any more."""
        key = destination.metadata.namespace, destination.name
        return standing(key, (place_of(store), root), self.view) is Standing.LEAVES

    def others_within(self, store: StateStore, root: str, uid: str) -> frozenset[str]:
        """Return the directories at or below one that are other Destinations', in the place of a State Store."""
        place = place_of(store)
        known = self._wanted.get(place, {}).keys() | self.claims.get(place, {}).keys()
        owners = {own: self.owner(store, own) for own in known if paths.is_within(own, root)}
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
        return self.view.store_key(obj)

    def placements_of(self, key: Key) -> dict[Key, Object]:
        """Return the WorkPlacements of a Destination that have been read."""
        return {
            own: obj
            for own, obj in sorted(self.placements.items())
            if self.view.target(own[0], str((obj.get("spec") or {}).get("targetDestinationName") or "")) == key
        }


_NAMES = 20  # Destinations whose WorkPlacements are listed by label; of more, all are read


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
