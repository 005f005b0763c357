"""What the cluster says now about the Destinations of a batch: read again, never taken from a message."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
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
    """Destinations and State Stores as the API server has them.

    Attributes:
        cluster: the name that messages carry.
        destinations: by namespace and name.
        stores: by kind, namespace and name.
    """

    cluster: str
    destinations: dict[Key, Object] = field(default_factory=dict)
    stores: dict[StoreKey, Object] = field(default_factory=dict)

    @classmethod
    async def of_all(cls, name: str, cluster: Cluster, deadline: Deadline) -> Self:
        """List every Destination and every State Store.

        Raises:
            KubernetesError: a list could not be had.
        """
        kinds = ("Destination", *STORE_KINDS)
        destinations, *stores = await together(cluster.list_all(kind, deadline) for kind in kinds)
        return cls(
            name,
            {key_of(obj): obj for obj in destinations},
            {(obj["kind"], *key_of(obj)): obj for objects in stores for obj in objects},
        )

    def store(self, destination: Destination) -> StateStore | None:
        """Return a Destination's State Store, or None where it does not exist.

        A namespaced Destination's store is looked for in its namespace first (docs/contract.md#objects).

        Raises:
            StateStoreNotReady: the store exists, but cannot be read as one.
        """
        ref = destination.spec.state_store_ref
        for namespace in (destination.metadata.namespace, ""):
            if (obj := self.stores.get((ref.kind, namespace, ref.name))) is not None:
                try:
                    return parse_state_store(obj)
                except InvalidObject as error:
                    raise StateStoreNotReady(str(error)) from None
        return None

    def destinations_of(self, key: StoreKey) -> list[Key]:
        """Return the Destinations that refer to a State Store object, which may be gone."""
        return self._by_store.get(key, [])

    def target(self, namespace: str, name: str) -> Key | None:
        """Return the Destination that a WorkPlacement of a namespace names, or None where there is none.

        On older clusters, where Destinations are namespaced, it is one of the WorkPlacement's own namespace.
        """
        return next((key for key in ((namespace, name), ("", name)) if key in self.destinations), None)

    def stores_of_secret(self, key: Key) -> list[StoreKey]:
        """Return the State Store objects that use a Secret."""
        return self._by_secret.get(key, [])

    def rivals(self, key: Key) -> list[Key]:
        """Return the Destinations whose verdict may hang on another one's path: those that wait for one.

        A Destination that takes its path over from a younger one makes that one a rival, too.
        """
        root = self._roots.get(key)
        return [*self._waiting, *(other for other in self._by_root.get(root, ()) if other != key)]

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
        root = self._roots.get(key)
        return "" if root is None else lease_name(root[0])

    def store_place(self, key: StoreKey) -> str:
        """Return a State Store's Lease; empty where it is gone or cannot be read."""
        obj = self.stores.get(key)
        if obj is None:
            return ""
        try:
            return place_of(parse_state_store(obj))
        except InvalidObject:
            return ""

    def roots(self, store: StateStore) -> dict[Key, tuple[Destination, str]]:
        """Return the Destinations of one place to write to, each with its directory there.

        Several State Store objects may be one place (two spellings of a repository or an endpoint). Destinations that
        cannot be read are left out; they own no directory.
        """
        return self._places.get(store.identity, {})

    def owner(self, store: StateStore, root: str) -> Destination | None:
        """Return the oldest Destination whose directory that is in that place."""
        return self._owners.get((store.identity, root))

    @cached_property
    def _places(self) -> dict[str, dict[Key, tuple[Destination, str]]]:
        places: dict[str, dict[Key, tuple[Destination, str]]] = {}
        for key, obj in self.destinations.items():
            try:
                destination = Destination.parse(obj)
                store = self.store(destination)
                if store is not None:
                    own = (destination, paths.destination_root(store, destination))
                    places.setdefault(store.identity, {})[key] = own
            except (InvalidObject, StateStoreNotReady):
                continue
        return places

    @cached_property
    def _roots(self) -> dict[Key, tuple[str, str]]:
        return {key: (identity, root) for identity, place in self._places.items() for key, (_, root) in place.items()}

    @cached_property
    def _by_root(self) -> dict[tuple[str, str] | None, list[Key]]:
        found: dict[tuple[str, str] | None, list[Key]] = {}
        for key, root in self._roots.items():
            found.setdefault(root, []).append(key)
        return found

    @cached_property
    def _waiting(self) -> list[Key]:
        return [
            key
            for key, obj in self.destinations.items()
            if any(c.get("reason") == "PathClash" for c in (obj.get("status") or {}).get("conditions") or ())
        ]

    @cached_property
    def _by_store(self) -> dict[StoreKey, list[Key]]:
        found: dict[StoreKey, list[Key]] = {}
        for key, obj in self.destinations.items():
            ref = (obj.get("spec") or {}).get("stateStoreRef") or {}
            for namespace in dict.fromkeys((key[0], "")):
                store = (str(ref.get("kind")), namespace, str(ref.get("name")))
                found.setdefault(store, []).append(key)  # one that is gone has those that looked for it there, too
                if store in self.stores:
                    break
        return found

    @cached_property
    def _by_secret(self) -> dict[Key, list[StoreKey]]:
        found: dict[Key, list[StoreKey]] = {}
        for key, obj in self.stores.items():
            try:
                secret = secret_key(parse_state_store(obj))
            except InvalidObject:
                continue
            if secret is not None:
                found.setdefault(secret, []).append(key)
        return found

    @cached_property
    def _owners(self) -> dict[tuple[str, str], Destination]:
        owners: dict[tuple[str, str], Destination] = {}
        for identity, place in self._places.items():
            for destination, root in place.values():
                owner = owners.setdefault((identity, root), destination)
                if _age(destination) < _age(owner):
                    owners[identity, root] = destination
        return owners


def _age(destination: Destination) -> tuple[float, str, str]:
    created = destination.metadata.creation_timestamp
    return (created.timestamp() if created else 0.0, destination.metadata.namespace, destination.name)


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
