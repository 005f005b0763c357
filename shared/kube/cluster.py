"""The objects of one Kubernetes API, as plain dictionaries: the generated models would cost time and memory."""

import asyncio
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final, Self
from urllib.parse import quote

from shared.conditions import EventFact, rfc3339
from shared.deadline import Deadline
from shared.errors import InvalidObject, KubernetesConflict
from shared.kube.access import Access, access_to
from shared.kube.connection import Connection, Gone, Object, together
from shared.resources import API_VERSION, GROUP, VERSION
from shared.settings import Settings

# Where each kind lives: the API's prefix and the plural name.
PLURALS: Final[Mapping[str, tuple[str, str]]] = {
    "Destination": (f"/apis/{GROUP}/{VERSION}", "destinations"),
    "BucketStateStore": (f"/apis/{GROUP}/{VERSION}", "bucketstatestores"),
    "GitStateStore": (f"/apis/{GROUP}/{VERSION}", "gitstatestores"),
    "Work": (f"/apis/{GROUP}/{VERSION}", "works"),
    "WorkPlacement": (f"/apis/{GROUP}/{VERSION}", "workplacements"),
    "Secret": ("/api/v1", "secrets"),
    "Event": ("/api/v1", "events"),
    "Lease": ("/apis/coordination.k8s.io/v1", "leases"),
}

PAGE: Final = 500  # objects a list call; the API server's own clients use the same
_LIST_RESTARTS: Final = 3
_METADATA: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_METADATA_LIST: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

Key = tuple[str, str]  # namespace ("" for cluster-scoped) and name


class Cluster:
    """What the use cases do with one Kubernetes API."""

    def __init__(self, connection: Connection, settings: Settings) -> None:
        self._connection = connection
        self._settings = settings

    @classmethod
    async def connect(cls, settings: Settings, access: Access | None = None) -> Self:
        """Open the way to a cluster, KUBECONFIG's where none is given; nothing is sent to it yet.

        Raises:
            KubernetesError: it cannot be used.
        """
        return cls(await Connection.connect(access or access_to(settings), settings), settings)

    async def close(self) -> None:
        """Give back connections."""
        await self._connection.close()

    def now(self) -> datetime:
        """Return the API server's time, up to a second early: its last answer's, and what has passed since."""
        return self._connection.now()

    async def get(
        self, kind: str, namespace: str, name: str, deadline: Deadline, *, metadata_only: bool = False
    ) -> Object | None:
        """Return an object, or None where there is none of that name.

        Raises:
            KubernetesError: the API refused or could not be reached.
        """
        accept = _METADATA if metadata_only else "application/json"
        path = _path(kind, namespace, name)
        return await self._connection.call("GET", path, deadline, missing_is_none=True, accept=accept)

    async def list_all(
        self, kind: str, deadline: Deadline, labels: Mapping[str, str] | None = None, *, metadata_only: bool = False
    ) -> list[Object]:
        """Return all objects of a kind in all namespaces; none where the cluster does not know the kind.

        Args:
            kind: of the objects.
            deadline: of the calls.
            labels: that the objects have; none means all objects.
            metadata_only: whether their `spec` and `status` stay where they are (documents make those large).

        Raises:
            KubernetesError: the API refused or could not be reached.
        """
        prefix, plural = PLURALS[kind]
        query: dict[str, str] = {"limit": str(PAGE)}
        if labels:
            query["labelSelector"] = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
        accept = _METADATA_LIST if metadata_only else "application/json"
        found: list[Object] = []
        restarts = 0
        while True:
            try:
                page = await self._connection.call(
                    "GET", f"{prefix}/{plural}", deadline, query=query, missing_is_none=True, accept=accept
                )
            except Gone:  # the list took longer than the server keeps it: begin again
                restarts += 1
                if "continue" not in query or restarts > _LIST_RESTARTS:
                    raise
                found.clear()
                del query["continue"]
                continue
            if page is None:
                return []
            found.extend({**item, "kind": kind} for item in page.get("items") or ())
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return found
            query["continue"] = token

    async def read_many(
        self,
        kind: str,
        keys: Collection[Key],
        deadline: Deadline,
        *,
        list_above: int | None = None,
        metadata_only: bool = False,
    ) -> dict[Key, Object]:
        """Return those of the named objects that exist: one by one if they are few, else by one list.

        Args:
            kind: of the objects.
            keys: namespaces and names.
            deadline: of the calls.
            list_above: how many are not few any more; None for the settings' number.
            metadata_only: as `list_all`.

        Raises:
            KubernetesError: the API refused or could not be reached.
        """
        if len(keys) > (list_above or self._settings.list_above):
            wanted = set(keys)
            objects = await self.list_all(kind, deadline, metadata_only=metadata_only)
            listed = {key_of(obj): obj for obj in objects}
            return {key: obj for key, obj in listed.items() if key in wanted}
        ordered = sorted(keys)
        found = await together(self.get(kind, *key, deadline, metadata_only=metadata_only) for key in ordered)
        return {key: obj for key, obj in zip(ordered, found, strict=True) if obj is not None}

    async def patch_status(self, obj: Object, status: Object, deadline: Deadline) -> Object | None:
        """Merge into an object's status, if the object is still as it was read; None where it is gone.

        Raises:
            KubernetesConflict: it has changed since (read it again and decide again).
            KubernetesError: the API refused or could not be reached.
        """
        return await self._patch(obj, {"status": status}, deadline, subresource="/status")

    async def patch_finalizers(self, obj: Object, finalizers: list[str], deadline: Deadline) -> Object | None:
        """Set an object's finalizers, if the object is still as it was read; None where it is gone.

        Raises:
            KubernetesConflict: it has changed since.
            KubernetesError: the API refused or could not be reached.
        """
        return await self._patch(obj, {"metadata": {"finalizers": finalizers}}, deadline)

    async def create(self, obj: Object, deadline: Deadline) -> Object | None:
        """Create an object; None where the kind or its namespace does not exist.

        Raises:
            KubernetesConflict: there is one of that name already.
            KubernetesError: the API refused or could not be reached.
        """
        prefix, plural = PLURALS[obj["kind"]]
        namespace = key_of(obj)[0]
        path = f"{prefix}{_scope(namespace)}/{plural}"
        return await self._connection.call("POST", path, deadline, body=obj, missing_is_none=True)

    async def patch(self, obj: Object, patch: Object, deadline: Deadline) -> Object | None:
        """Merge into an object, if it is still as it was read; None where it is gone.

        Raises:
            KubernetesConflict: it has changed since.
            KubernetesError: the API refused or could not be reached.
        """
        return await self._patch(obj, patch, deadline)

    async def delete(self, kind: str, namespace: str, name: str, deadline: Deadline) -> None:
        """Ask for an object's deletion; one that is gone already is no error.

        Raises:
            KubernetesError: the API refused or could not be reached.
        """
        await self._connection.call("DELETE", _path(kind, namespace, name), deadline, missing_is_none=True)

    async def record_event(self, obj: Object, fact: EventFact, deadline: Deadline) -> None:
        """Record a fact as an Event on an object; the same fact again only raises the count.

        The Event's name is made from the object's uid and the fact, so that repeats find it whichever function or
        container they come from.

        Raises:
            KubernetesError: the API refused or could not be reached.
        """
        metadata = obj["metadata"]
        namespace = metadata.get("namespace") or "default"  # where Kubernetes keeps Events of cluster-scoped objects
        digest = sha256("\0".join((metadata["uid"], fact.type, fact.reason, fact.message)).encode()).hexdigest()
        name = f"{metadata['name'][:200]}.{digest[:16]}"
        now = rfc3339(datetime.now(UTC))
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": obj["kind"],
                "name": metadata["name"],
                "namespace": metadata.get("namespace", ""),
                "uid": metadata["uid"],
                "resourceVersion": metadata.get("resourceVersion", ""),
            },
            "type": fact.type,
            "reason": fact.reason,
            "message": fact.message,
            "source": {"component": "landfall"},
            "reportingComponent": "landfall",
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        prefix, plural = PLURALS["Event"]
        while True:
            try:
                await self._connection.call("POST", f"{prefix}/namespaces/{namespace}/{plural}", deadline, body=event)
            except KubernetesConflict:
                known = await self.get("Event", namespace, name, deadline)
                if known is None:  # expired between the two calls
                    continue
                try:
                    again = {"count": int(known.get("count") or 1) + 1, "lastTimestamp": now}
                    await self._patch({**known, "kind": "Event"}, again, deadline)
                except KubernetesConflict:
                    continue
            return

    async def _patch(self, obj: Object, patch: Object, deadline: Deadline, subresource: str = "") -> Object | None:
        namespace, name = key_of(obj)
        version = {"resourceVersion": obj["metadata"]["resourceVersion"]}
        body = {**patch, "metadata": {**patch.get("metadata", {}), **version}}
        path = _path(obj["kind"], namespace, name) + subresource
        return await self._connection.call("PATCH", path, deadline, body=body, missing_is_none=True)


class Clusters:
    """The Kubernetes APIs that this deployment serves, by the name that messages carry."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open: dict[str, Cluster] = {}
        self._opening: dict[str, asyncio.Lock] = {}

    def name(self, name: str) -> str:
        """Return a cluster's name: what a message carries, or where that is nothing the default one's."""
        return name or self._settings.default_cluster

    async def get(self, name: str) -> Cluster:
        """Return the cluster of that name; the empty name means the deployment's default one.

        Raises:
            InvalidObject: this deployment serves no cluster of that name.
            KubernetesError: there is no way to it.
        """
        name = self.name(name)
        if not name:
            raise InvalidObject(
                "the message names no cluster, and several are served here: give each forwarder its cluster's name, or"
                " set LANDFALL_CLUSTER to the one that is meant"
            )
        if name not in self._settings.served:
            raise InvalidObject(
                f"cluster {name[:100]!r} is not served here: add it to LANDFALL_CLUSTERS, or correct the forwarder's"
                " cluster name"
            )
        async with self._opening.setdefault(name, asyncio.Lock()):  # of its own: one that is slow holds up no other
            if name not in self._open:
                access = access_to(self._settings, self._settings.clusters.get(name))
                self._open[name] = await Cluster.connect(self._settings, access)
            return self._open[name]

    async def close(self) -> None:
        """Give back connections."""
        while self._open:
            await self._open.popitem()[1].close()


def key_of(obj: Mapping[str, Any]) -> Key:
    """Return an object's namespace (empty for a cluster-scoped one) and name."""
    metadata = obj["metadata"]
    return metadata.get("namespace") or "", metadata["name"]


def uid_of(obj: Mapping[str, Any] | None) -> str:
    """Return an object's uid; empty for one that is gone."""
    return "" if obj is None else str(obj["metadata"].get("uid", ""))


def _path(kind: str, namespace: str, name: str) -> str:
    prefix, plural = PLURALS[kind]
    return f"{prefix}{_scope(namespace)}/{plural}/{quote(name, safe='')}"


def _scope(namespace: str) -> str:
    return f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
