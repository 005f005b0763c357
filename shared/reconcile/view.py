"""What the cluster says now about the objects that a batch concerns: read again, never taken from a message."""

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

from shared import paths
from shared.deadline import Deadline
from shared.errors import InvalidObject, StateStoreNotReady
from shared.kube import Cluster, Key, Object, key_of, together
from shared.messages import Reference
from shared.reconcile.leases import lease_name
from shared.resources import STORE_KINDS, Destination, Secret, SecretRef, StateStore, parse_state_store

StoreKey = tuple[str, str, str]  # kind, namespace, name


@dataclass
class View:
    """Some Destinations and their State Stores as the API server has them.

    Attributes:
        cluster: the name that messages carry.
        destinations: by namespace and name.
        stores: by kind, namespace and name.
        namespaced: the kinds of State Stores that have a namespace; on older clusters.
    """

    cluster: str
    destinations: dict[Key, Object] = field(default_factory=dict)
    stores: dict[StoreKey, Object] = field(default_factory=dict)
    namespaced: frozenset[str] = frozenset()
    _where: dict[Key, tuple[Object, tuple[str, str]]] = field(default_factory=dict, repr=False, compare=False)
    _parsed: dict[StoreKey, tuple[Object, StateStore]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    async def of(
        cls,
        name: str,
        cluster: Cluster,
        deadline: Deadline,
        destinations: Collection[Key] = (),
        stores: Collection[StoreKey] = (),
    ) -> Self:
        """Read Destinations with their State Stores, and further State Stores, by name.

        Raises:
            KubernetesError: they could not be read.
        """
        view = cls(name)
        await view.read(cluster, deadline, destinations, stores)
        return view

    @classmethod
    async def of_stores(cls, name: str, cluster: Cluster, deadline: Deadline) -> Self:
        """Read all State Stores, for work that goes over all Destinations page by page.

        Raises:
            KubernetesError: they could not be read.
        """
        view = cls(name, namespaced=await _namespaced(cluster, deadline))
        for kind in STORE_KINDS:
            async for page in cluster.pages(kind, deadline):
                view.stores |= {(kind, *key_of(obj)): obj for obj in page}
        return view

    async def read(
        self,
        cluster: Cluster,
        deadline: Deadline,
        destinations: Collection[Key] = (),
        stores: Collection[StoreKey] = (),
    ) -> None:
        """Read Destinations as they are now, and what is not known yet of their State Stores and of further ones.

        Raises:
            KubernetesError: they could not be read.
        """
        found = await cluster.read_many("Destination", destinations, deadline)
        for key in destinations:
            self.destinations.pop(key, None)
        self.destinations |= found
        if any(namespace for namespace, _ in found) and not self.namespaced:
            self.namespaced = await _namespaced(cluster, deadline)
        wanted = {*stores, *(self.store_key(obj) for obj in found.values())} - self.stores.keys()
        by_kind = {kind: {(at, name) for of, at, name in wanted if of == kind} for kind in STORE_KINDS}
        read = await together(cluster.read_many(kind, keys, deadline) for kind, keys in by_kind.items() if keys)
        kinds = [kind for kind, keys in by_kind.items() if keys]
        for kind, objects in zip(kinds, read, strict=True):
            self.stores |= {(kind, *key): {**obj, "kind": kind} for key, obj in objects.items()}

    def forget(self, key: Key) -> None:
        """Let go of a Destination, where all are looked at one by one."""
        self.destinations.pop(key, None)
        self._where.pop(key, None)

    def store_key(self, obj: Object) -> StoreKey:
        """Return which State Store object a Destination refers to, which may not exist.

        A State Store that has a namespace is one of the Destination's, on older clusters (docs/contract.md#objects).
        """
        ref = (obj.get("spec") or {}).get("stateStoreRef") or {}
        kind = str(ref.get("kind"))
        return kind, key_of(obj)[0] if kind in self.namespaced else "", str(ref.get("name"))

    def store(self, destination: Destination) -> StateStore | None:
        """Return a Destination's State Store, or None where it does not exist.

        Raises:
            StateStoreNotReady: the store exists, but cannot be read as one.
        """
        ref = destination.spec.state_store_ref
        namespace = destination.metadata.namespace if ref.kind in self.namespaced else ""
        key = (ref.kind, namespace, ref.name)
        obj, (known, parsed) = self.stores.get(key), self._parsed.get(key, (None, None))
        if obj is None:
            return None
        if known is not obj:  # many Destinations have the same
            try:
                parsed = parse_state_store(obj)
            except InvalidObject as error:
                raise StateStoreNotReady(str(error)) from None
            self._parsed[key] = obj, parsed
        return parsed

    def stores_by_secret(self) -> dict[Key, list[StoreKey]]:
        """Return the State Stores that use each Secret."""
        found: dict[Key, list[StoreKey]] = {}
        for key, obj in self.stores.items():
            with suppress(InvalidObject):
                secret = secret_key(parse_state_store(obj))
                if secret is not None:
                    found.setdefault(secret, []).append(key)
        return found

    def target(self, namespace: str, name: str) -> Key | None:
        """Return the Destination that a WorkPlacement of a namespace names, or None where there is none.

        On older clusters, where Destinations are namespaced, it is one of the WorkPlacement's own namespace.
        """
        return next((key for key in ((namespace, name), ("", name)) if key in self.destinations), None)

    def reference(self, obj: Mapping[str, Any], *, kind: str = "Destination", attempt: int = 0) -> Reference:
        """Return a reference to an object as it is now, a Destination's with its place."""
        reference = Reference.to(obj, kind, self.cluster, attempt)
        place = self.place(key_of(obj)) if kind == "Destination" else ""
        return reference.model_copy(update={"place": place}) if place else reference

    def store_reference(self, key: StoreKey, attempt: int = 0) -> Reference:
        """Return a reference to a State Store as it is now, with its place."""
        reference = self.reference(self.stores[key], kind=key[0], attempt=attempt)
        return reference.model_copy(update={"place": self.store_place(key)})

    def place(self, key: Key) -> str:
        """Return the Lease of a Destination's State Store; empty where it has none that can be written to."""
        where = self.where(key)
        return "" if where is None else where[0]

    def where(self, key: Key) -> tuple[str, str] | None:
        """Return a Destination's place and directory; None where it is gone, or cannot be read, or has none."""
        obj, (known, where) = self.destinations.get(key), self._where.get(key, (None, None))
        if obj is None:
            return None
        if known is obj:  # asked several times for each Destination
            return where
        try:
            destination = Destination.parse(obj)
            store = self.store(destination)
            where = None if store is None else (place_of(store), paths.destination_root(store, destination))
        except (InvalidObject, StateStoreNotReady):
            where = None
        if where is not None:
            self._where[key] = obj, where
        return where

    def store_place(self, key: StoreKey) -> str:
        """Return a State Store's Lease; empty where it is gone or cannot be read."""
        obj = self.stores.get(key)
        if obj is None:
            return ""
        try:
            return place_of(parse_state_store(obj))
        except InvalidObject:
            return ""


async def destinations_of(
    stores: Collection[StoreKey], view: View, cluster: Cluster, deadline: Deadline
) -> AsyncIterator[tuple[Key, StoreKey]]:
    """Yield the Destinations that refer to State Stores, which may be gone; all Destinations are read, page by page.

    Args:
        stores: the State Stores.
        view: it has a Destination while that one is yielded.
        cluster: where they are.
        deadline: of the calls.

    Raises:
        KubernetesError: they could not be read.
    """
    if not stores:
        return
    view.namespaced = await _namespaced(cluster, deadline)
    async for page in cluster.pages("Destination", deadline):
        for obj in page:
            key, store = key_of(obj), view.store_key(obj)
            if store in stores:
                known = view.destinations.get(key)
                view.destinations[key] = obj
                yield key, store
                view.forget(key)
                if known is not None:
                    view.destinations[key] = known


async def _namespaced(cluster: Cluster, deadline: Deadline) -> frozenset[str]:
    return frozenset([kind for kind in STORE_KINDS if await cluster.is_namespaced(kind, deadline)])


def place_of(store: StateStore) -> str:
    """Return the name of a State Store's Lease."""
    return lease_name(store.identity)


def store_key(store: StateStore) -> StoreKey:
    """Return a State Store's kind, namespace and name."""
    return store.kind, store.metadata.namespace, store.name


def secret_key(store: StateStore) -> Key | None:
    """Return where a State Store's Secret is, or None where it needs none."""
    ref: SecretRef | None = store.spec.secret_ref
    if ref is None or not ref.name:
        return None
    explicit = "namespace" in ref.model_fields_set and ref.namespace
    return (ref.namespace if explicit else store.metadata.namespace or "default"), ref.name


async def read_secret(store: StateStore, cluster: Cluster, deadline: Deadline) -> Secret | None:
    """Read a State Store's Secret; None where it refers to none.

    Raises:
        StateStoreNotReady: the Secret does not exist.
        KubernetesError: it could not be read.
    """
    key = secret_key(store)
    if key is None:
        return None
    namespace, name = key
    obj = await cluster.get("Secret", namespace, name, deadline)
    if obj is None:
        raise StateStoreNotReady(f"Secret {name} not found in namespace {namespace}", reason="SecretNotFound")
    return Secret.parse(obj)
