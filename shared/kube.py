"""The Kubernetes API: the only user of kubernetes_asyncio, and where its errors become ours.

Objects go in and out as plain dictionaries: the generated models would cost time and memory for nothing.
"""

import asyncio
import json
import random
from collections.abc import Collection, Coroutine, Iterable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from http import HTTPStatus
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote

import aiohttp
from kubernetes_asyncio.client import ApiClient, ApiException, Configuration
from kubernetes_asyncio.config import ConfigException, load_kube_config

from shared.conditions import EventFact, rfc3339
from shared.deadline import Deadline
from shared.errors import InvalidObject, KubernetesConflict, KubernetesError, KubernetesUnavailable
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
}

_PAGE: Final = 500  # objects a list call; the API server's own clients use the same
_ATTEMPTS: Final = 4
_LIST_RESTARTS: Final = 3
_MAX_WAIT_SECONDS: Final = 10.0  # longest Retry-After that is waited out; after that the queue does the waiting
_MERGE_PATCH: Final = "application/merge-patch+json"
_METADATA_ONLY: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

Object = dict[str, Any]
Key = tuple[str, str]  # namespace ("" for cluster-scoped) and name
_Result = TypeVar("_Result")


class Cluster:
    """One Kubernetes API with one identity, kept open while the container is warm."""

    def __init__(self, client: ApiClient, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._calls = asyncio.Semaphore(settings.kubernetes_concurrency)
        self._refreshing = asyncio.Lock()
        self._retired: ApiClient | None = None

    @classmethod
    async def connect(cls, settings: Settings) -> Self:
        """Read the kubeconfig; nothing is sent yet.

        Raises:
            KubernetesError: there is none, or it cannot be used.
        """
        return cls(await _new_client(settings), settings)

    async def close(self) -> None:
        """Give back connections."""
        await self._client.close()
        if self._retired is not None:
            await self._retired.close()

    async def get(self, kind: str, namespace: str, name: str, deadline: Deadline) -> Object | None:
        """Return an object, or None where there is none of that name.

        Raises:
            KubernetesError: the API refused or could not be reached.
        """
        return await self._call("GET", _path(kind, namespace, name), deadline, missing_is_none=True)

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
        query: dict[str, str] = {"limit": str(_PAGE)}
        if labels:
            query["labelSelector"] = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
        accept = _METADATA_ONLY if metadata_only else "application/json"
        found: list[Object] = []
        restarts = 0
        while True:
            try:
                page = await self._call(
                    "GET", f"{prefix}/{plural}", deadline, query=query, missing_is_none=True, accept=accept
                )
            except _Gone:  # the list took longer than the server keeps it: begin again
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
        self, kind: str, keys: Collection[Key], deadline: Deadline, *, list_above: int | None = None
    ) -> dict[Key, Object]:
        """Return those of the named objects that exist: one by one if they are few, else by one list.

        Args:
            kind: of the objects.
            keys: namespaces and names.
            deadline: of the calls.
            list_above: how many are not few any more; None for the settings' number.

        Raises:
            KubernetesError: the API refused or could not be reached.
        """
        if len(keys) > (list_above or self._settings.list_above):
            wanted = set(keys)
            listed = {key_of(obj): obj for obj in await self.list_all(kind, deadline)}
            return {key: obj for key, obj in listed.items() if key in wanted}
        ordered = sorted(keys)
        objects = await together(self.get(kind, *key, deadline) for key in ordered)
        return {key: obj for key, obj in zip(ordered, objects, strict=True) if obj is not None}

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
        return await self._call("POST", path, deadline, body=obj, missing_is_none=True)

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
        await self._call("DELETE", _path(kind, namespace, name), deadline, missing_is_none=True)

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
                await self._call("POST", f"{prefix}/namespaces/{namespace}/{plural}", deadline, body=event)
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
        return await self._call("PATCH", path, deadline, body=body, missing_is_none=True)

    async def _call(
        self,
        method: str,
        path: str,
        deadline: Deadline,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        missing_is_none: bool = False,
        accept: str = "application/json",
    ) -> Object | None:
        refreshed = False
        attempt = 1
        while True:
            wait = random.uniform(0.1, 0.4) * 2**attempt  # noqa: S311 -- jitter, not a secret
            client = self._client
            try:
                async with self._calls:
                    return await self._request(client, method, path, deadline, query=query, body=body, accept=accept)
            except ApiException as error:
                if error.status == HTTPStatus.NOT_FOUND and missing_is_none:
                    return None
                if error.status == HTTPStatus.UNAUTHORIZED and not refreshed:
                    refreshed = True
                    await self._refresh(client)
                    continue
                failure = _translated(error, method, path)
                wait = _retry_after(error, wait)
                worth_it = _is_overload(error)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                failure = KubernetesUnavailable(
                    f"the Kubernetes API at {client.configuration.host} did not answer: {_reason(error)}"
                )
                worth_it = True
            # A PATCH with a resourceVersion, a GET, a DELETE and a POST of a named Event may all be sent again: where
            # the first one did arrive after all, the second one is told so (409, 404).
            if not worth_it or attempt == _ATTEMPTS or wait > min(_MAX_WAIT_SECONDS, deadline.remaining):
                raise failure from None
            attempt += 1
            await asyncio.sleep(wait)

    async def _request(
        self,
        client: ApiClient,
        method: str,
        path: str,
        deadline: Deadline,
        *,
        query: Mapping[str, str] | None,
        body: Object | None,
        accept: str,
    ) -> Object:
        headers = {"Accept": accept}
        if method == "PATCH":
            headers["Content-Type"] = _MERGE_PATCH
        result: Object = await client.call_api(
            path,
            method,
            query_params=list((query or {}).items()),
            header_params=headers,
            body=body,
            response_types_map={200: "object", 201: "object", 202: "object"},
            auth_settings=["BearerToken"],
            _return_http_data_only=True,
            _request_timeout=deadline.bound(self._settings.kubernetes_timeout_seconds),
        )
        return result

    async def _refresh(self, refused: ApiClient) -> None:
        """Read the identity again: once, however many calls were refused with the same one."""
        async with self._refreshing:
            if self._client is not refused:
                return
            fresh = await _new_client(self._settings)
            if self._retired is not None:
                await self._retired.close()
            self._retired, self._client = refused, fresh  # other calls may still be under way with the old one


class Clusters:
    """The Kubernetes APIs that this deployment serves, by the name that messages carry."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._cluster: Cluster | None = None

    async def get(self, name: str) -> Cluster:
        """Return the cluster of that name; the empty name means the deployment's default one.

        Raises:
            InvalidObject: this deployment serves no cluster of that name.
            KubernetesError: its kubeconfig cannot be used.
        """
        if name not in {"", self._settings.cluster}:
            raise InvalidObject(
                f"cluster {name[:100]!r} is not served here: set LANDFALL_CLUSTER, or the forwarder's cluster name"
            )
        if self._cluster is None:
            self._cluster = await Cluster.connect(self._settings)
        return self._cluster

    async def close(self) -> None:
        """Give back connections."""
        if self._cluster is not None:
            await self._cluster.close()
            self._cluster = None


async def together(calls: Iterable[Coroutine[Any, Any, _Result]]) -> list[_Result]:
    """Await calls side by side, and return their results in order.

    Where one fails, the others are cancelled and its own error is raised, not a group of one.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


def key_of(obj: Mapping[str, Any]) -> Key:
    """Return an object's namespace (empty for a cluster-scoped one) and name."""
    metadata = obj["metadata"]
    return metadata.get("namespace") or "", metadata["name"]


class _Gone(KubernetesUnavailable):
    """410: what a continued list began with is no longer kept."""


async def _new_client(settings: Settings) -> ApiClient:
    configuration = Configuration()
    # An API server behind EKS may present a CA without the key usage that Python >= 3.13 asks for; the certificate
    # itself stays verified.
    configuration.disable_strict_ssl_verification = True
    configuration.connection_pool_maxsize = settings.kubernetes_concurrency
    try:
        await load_kube_config(
            config_file=None if settings.kubeconfig is None else str(settings.kubeconfig),
            context=settings.kubeconfig_context,
            client_configuration=configuration,
            persist_config=False,
        )
    except (ConfigException, OSError, ValueError, KeyError) as error:
        raise KubernetesError(
            f"the kubeconfig {settings.kubeconfig or '~/.kube/config'} cannot be used ({type(error).__name__}):"
            " set KUBECONFIG or LANDFALL_KUBECONFIG to one that can"
        ) from None
    return ApiClient(configuration)


def _path(kind: str, namespace: str, name: str) -> str:
    prefix, plural = PLURALS[kind]
    return f"{prefix}{_scope(namespace)}/{plural}/{quote(name, safe='')}"


def _scope(namespace: str) -> str:
    return f"/namespaces/{quote(namespace, safe='')}" if namespace else ""


def _translated(error: ApiException, method: str, path: str) -> KubernetesError:
    words = _words(error)
    what = f"Kubernetes answered {error.status} to {method} {path}: {words}"
    if error.status == HTTPStatus.CONFLICT:
        return KubernetesConflict(what)
    if error.status == HTTPStatus.GONE:
        return _Gone(what)
    if _is_overload(error):
        return KubernetesUnavailable(what)
    if error.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return KubernetesUnavailable(f"{what} (check the identity in the kubeconfig and its RBAC)")
    return KubernetesError(what)


def _is_overload(error: ApiException) -> bool:
    """Whether the API server asks for patience, so that the very same call is worth sending again soon."""
    return bool(error.status == HTTPStatus.TOO_MANY_REQUESTS or error.status >= HTTPStatus.INTERNAL_SERVER_ERROR)


def _words(error: ApiException) -> str:
    """Return the API server's own sentence; a `Status` object's message never quotes a Secret's data."""
    try:
        return str(json.loads(error.body or "")["message"])[:500]
    except (ValueError, KeyError, TypeError):
        return str(error.reason)


def _retry_after(error: ApiException, otherwise: float) -> float:
    try:
        return float(error.headers["Retry-After"]) if error.headers else otherwise
    except (KeyError, ValueError):
        return otherwise


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return f"{type(error).__name__}: {error}"[:300]
