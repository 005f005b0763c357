"""The objects: created, changed, deleted and watched with the rules that an API server has for all kinds."""

import asyncio
import base64
import secrets
import uuid
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final

from infra.local.embedded.kubernetes.schema import Kind, problems, shape

Object = dict[str, Any]
_HISTORY: Final = 20_000  # changes that a watch can begin at

# What only the server sets.
_OWN: Final = ("uid", "creationTimestamp", "generation", "deletionTimestamp", "name", "namespace")


class ApiError(Exception):
    """What the API answers instead of an object.

    Attributes:
        code: HTTP status.
        reason: the machine's word for it.
    """

    def __init__(self, code: HTTPStatus, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


@dataclass(frozen=True)
class Change:
    """One change, as a watch tells it."""

    revision: int
    kind: Kind
    type: str
    object: Object


class Store:
    """All objects of one cluster. They are never changed in place, so whoever has one may keep it."""

    def __init__(self) -> None:
        self._revision = 1
        self._objects: dict[Kind, dict[tuple[str, str], Object]] = {}
        self._history: deque[Change] = deque(maxlen=_HISTORY)
        self._forgotten = 0  # the newest revision that is no longer in the history
        self._watchers: set[asyncio.Queue[Change]] = set()

    def trial(self) -> "Store":
        """Return a store with the same objects, whose changes nothing else sees: for calls with `dryRun`."""
        trial = Store()
        trial._revision = self._revision
        trial._objects = {kind: dict(objects) for kind, objects in self._objects.items()}
        return trial

    @property
    def revision(self) -> int:
        """The version of the whole."""
        return self._revision

    def get(self, kind: Kind, namespace: str, name: str) -> Object:
        """Return an object.

        Raises:
            ApiError: 404.
        """
        try:
            return self._of(kind)[namespace, name]
        except KeyError:
            message = f'{kind.qualified} "{name}" not found'
            raise ApiError(HTTPStatus.NOT_FOUND, "NotFound", message) from None

    def list(self, kind: Kind, namespace: str) -> list[Object]:
        """Return the objects of a kind, of all namespaces where none is named."""
        return [obj for (own, _), obj in sorted(self._of(kind).items()) if not namespace or own == namespace]

    def create(self, kind: Kind, namespace: str, given: Object) -> Object:
        """Create an object.

        Raises:
            ApiError: there is one of that name, or the object is not valid.
        """
        obj = shape(_normal(deepcopy(given), kind), kind)
        given_metadata = obj.get("metadata") or {}
        metadata = {k: v for k, v in given_metadata.items() if v and (k in {"name", "namespace"} or k not in _OWN)}
        obj["metadata"] = metadata
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = metadata["generateName"] + secrets.token_hex(3)
        name = metadata.get("name")
        if not name:
            raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid", "metadata.name: Required value")
        if kind.namespaced:
            namespace = namespace or metadata.get("namespace") or "default"
            metadata["namespace"] = namespace
            if kind.kind != "Event" and not any(obj["metadata"]["name"] == namespace for obj in self._namespaces()):
                raise ApiError(HTTPStatus.NOT_FOUND, "NotFound", f'namespaces "{namespace}" not found')
        else:
            metadata.pop("namespace", None)
            namespace = ""
        if (namespace, name) in self._of(kind):
            message = f'{kind.qualified} "{name}" already exists'
            raise ApiError(HTTPStatus.CONFLICT, "AlreadyExists", message)
        if kind.has_status:
            obj.pop("status", None)
        _validate(obj, None, kind)
        metadata |= {"uid": str(uuid.uuid4()), "creationTimestamp": _now()}
        if kind.schema is not None:
            metadata["generation"] = 1
        return self._save(kind, "ADDED", obj)

    def update(self, kind: Kind, namespace: str, given: Object, *, status: bool = False) -> Object:
        """Replace an object, or its status alone.

        Raises:
            ApiError: there is none, it has changed since it was read, or it is not valid.
        """
        name = given["metadata"]["name"]
        old = self.get(kind, namespace, name)
        for field in ("resourceVersion", "uid"):
            expected = given["metadata"].get(field)
            if expected and expected != old["metadata"].get(field):
                message = (
                    f'Operation cannot be fulfilled on {kind.qualified} "{name}": the object has been modified; '
                    "please apply your changes to the latest version and try again"
                )
                raise ApiError(HTTPStatus.CONFLICT, "Conflict", message)
        new = self._replaced(kind, old, given, status=status)
        if new == old:
            return old
        _validate(new, old, kind)
        metadata = new["metadata"]
        if kind.schema is not None and _meaning(new) != _meaning(old):
            metadata["generation"] += 1
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers"):
            return self._remove(kind, new)
        return self._save(kind, "MODIFIED", new)

    def delete(self, kind: Kind, namespace: str, name: str, preconditions: Mapping[str, str]) -> tuple[Object, bool]:
        """Delete an object, or mark it for deletion while it has finalizers; also return whether it is gone.

        Raises:
            ApiError: there is none, or it is not the one that is meant.
        """
        old = self.get(kind, namespace, name)
        for field, expected in preconditions.items():
            if expected and old["metadata"].get(field) != expected:
                message = f"Precondition failed: {field} in precondition: {expected}"
                raise ApiError(HTTPStatus.CONFLICT, "Conflict", message)
        if not old["metadata"].get("finalizers"):
            return self._remove(kind, deepcopy(old)), True
        if old["metadata"].get("deletionTimestamp"):
            return old, False
        marked = deepcopy(old)
        marked["metadata"] |= {"deletionTimestamp": _now(), "deletionGracePeriodSeconds": 0}
        if kind.schema is not None:
            marked["metadata"]["generation"] += 1
        return self._save(kind, "MODIFIED", marked), False

    async def watch(self, kind: Kind, since: int) -> AsyncIterator[Change]:
        """Yield every change of a kind after a revision, for ever.

        Raises:
            ApiError: 410, the revision is too long ago.
        """
        if since < self._forgotten:
            raise ApiError(HTTPStatus.GONE, "Expired", f"too old resource version: {since} ({self._revision})")
        with self._watching() as changes:
            for change in list(self._history):
                if change.revision > since and change.kind == kind:
                    yield change
                    since = change.revision
            while True:
                change = await changes.get()
                if change.revision > since and change.kind == kind:
                    yield change

    def _of(self, kind: Kind) -> dict[tuple[str, str], Object]:
        return self._objects.setdefault(kind, {})

    def _namespaces(self) -> Iterable[Object]:
        return (obj for kind, objects in self._objects.items() if kind.kind == "Namespace" for obj in objects.values())

    @staticmethod
    def _replaced(kind: Kind, old: Object, given: Object, *, status: bool) -> Object:
        if status:
            new = shape({**old, "status": given.get("status")} if given.get("status") is not None else old, kind)
            return {**new, "metadata": dict(old["metadata"])}
        new = shape(_normal(deepcopy(given), kind), kind)
        if kind.has_status:
            new.pop("status", None)
            if "status" in old:
                new["status"] = old["status"]
        kept = {field: old["metadata"][field] for field in _OWN if field in old["metadata"]}
        metadata = {k: v for k, v in new["metadata"].items() if k not in _OWN and k != "managedFields" and v}
        new["metadata"] = {**metadata, **kept, "resourceVersion": old["metadata"]["resourceVersion"]}
        return new

    def _save(self, kind: Kind, change: str, obj: Object) -> Object:
        self._tell(kind, change, obj)
        self._of(kind)[obj["metadata"].get("namespace") or "", obj["metadata"]["name"]] = obj
        return obj

    def _remove(self, kind: Kind, obj: Object) -> Object:
        self._tell(kind, "DELETED", obj)
        del self._of(kind)[obj["metadata"].get("namespace") or "", obj["metadata"]["name"]]
        return obj

    def _tell(self, kind: Kind, type_: str, obj: Object) -> None:
        self._revision += 1
        obj["metadata"]["resourceVersion"] = str(self._revision)
        change = Change(self._revision, kind, type_, obj)
        if len(self._history) == _HISTORY:
            self._forgotten = self._history[0].revision
        self._history.append(change)
        for watcher in self._watchers:
            watcher.put_nowait(change)

    @contextmanager
    def _watching(self) -> Any:
        changes: asyncio.Queue[Change] = asyncio.Queue()
        self._watchers.add(changes)
        try:
            yield changes
        finally:
            self._watchers.discard(changes)


def _normal(obj: Object, kind: Kind) -> Object:
    obj |= {"apiVersion": kind.api_version, "kind": kind.kind}
    if kind.kind == "Secret" and "stringData" in obj:
        given = obj.pop("stringData") or {}
        encoded = {name: base64.b64encode(value.encode()).decode() for name, value in given.items()}
        obj["data"] = {**(obj.get("data") or {}), **encoded}
    return obj


def _validate(obj: Object, old: Object | None, kind: Kind) -> None:
    if found := problems(obj, old, kind):
        named = f'{kind.kind}.{kind.group} "{obj["metadata"]["name"]}" is invalid'
        raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid", f"{named}: {'; '.join(found)}")


def _meaning(obj: Object) -> Object:
    return {name: value for name, value in obj.items() if name not in {"metadata", "status"}}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
