"""The Kubernetes API that the functions' client talks to: the embedded API's rules, without HTTP.

It stands where `kubernetes_asyncio`'s `ApiClient` stands, so that our own retries and translation of errors run. What
the embedded API lacks is here: Leases with the server's check of their times, and the `Date` of answers.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from http import HTTPStatus
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final
from urllib.parse import unquote

from multidict import CIMultiDict, CIMultiDictProxy

from infra.local.embedded.kubernetes import tables
from infra.local.embedded.kubernetes.patches import merge_patch
from infra.local.embedded.kubernetes.schema import BUILT_IN, Kind, read_crds, read_kinds
from infra.local.embedded.kubernetes.store import ApiError, Store
from shared.kube.library import ApiException
from tests.interleavings.machine import Access, Machine

Object = dict[str, Any]
OnChange = Callable[[Kind, str, Object], None]

_CRDS: Final = Path(__file__).parents[2] / "infra" / "kubernetes" / "crds"
_KINDS: Final = {(kind.group, kind.version, kind.plural): kind for kind in (*BUILT_IN, *read_kinds(read_crds(_CRDS)))}
BY_NAME: Final[Mapping[str, Kind]] = {kind.kind: kind for kind in _KINDS.values()}
# Of metav1.MicroTime: the API server takes exactly six digits (apimachinery, pkg/apis/meta/v1/micro_time.go).
_MICRO_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)")
_EXPIRED: Final = "The provided continue parameter is too old"


class Objects(Store):
    """The embedded API's store, which tells of each change at once instead of keeping a history."""

    def __init__(self) -> None:
        super().__init__()
        self.on_change: OnChange = lambda *_: None
        self.continued: dict[str, tuple[int, list[Object]]] = {}
        self.tokens = 0

    def fork(self) -> "Objects":
        """Return a store that begins with the same objects."""
        other = Objects()
        other._revision = self._revision
        other._objects = {kind: dict(objects) for kind, objects in self._objects.items()}
        return other

    def all(self, kind: str) -> list[Object]:
        """Return all objects of a kind."""
        return self.list(BY_NAME[kind], "")

    def selectable(self, kind: Kind, namespace: str, selector: str) -> list[Object]:
        """Return at least the objects that a label selector selects, in the order of a list."""
        del selector  # of few objects, all are quickly looked at
        return self.list(kind, namespace)

    def find(self, kind: str, namespace: str, name: str) -> Object | None:
        """Return an object, or None."""
        return self._of(BY_NAME[kind]).get((namespace, name))

    def update(self, kind: Kind, namespace: str, given: Object, *, status: bool = False) -> Object:
        """Replace an object; one that goes with its last finalizer is answered with the version that it had."""
        before = self.get(kind, namespace, given["metadata"]["name"])["metadata"]["resourceVersion"]
        now = super().update(kind, namespace, given, status=status)
        if self.find(kind.kind, now["metadata"].get("namespace", ""), now["metadata"]["name"]) is None:
            return {**now, "metadata": {**now["metadata"], "resourceVersion": before}}
        return now

    def _tell(self, kind: Kind, type_: str, obj: Object) -> None:
        self._revision += 1
        obj["metadata"]["resourceVersion"] = str(self._revision)
        self.on_change(kind, type_, obj)


class ApiClient:
    """What a function's connection has instead of the library's client.

    Attributes:
        configuration: as messages name it.
    """

    def __init__(self, machine: Machine, store: Objects) -> None:
        self.configuration = SimpleNamespace(host="https://kubernetes.example.com", proxy=None)
        self._machine = machine
        self._store = store

    async def close(self) -> None:
        """Nothing is open."""

    async def call_api(
        self,
        path: str,
        method: str,
        *_: Any,
        query_params: Any = None,
        header_params: Mapping[str, str] | None = None,
        body: Any = None,
        _request_timeout: Any = None,
        **__: Any,
    ) -> Any:
        """Make a call, as the library does without reading the answer: `_preload_content=False`."""
        request = _Request(method, path, dict(query_params or ()), dict(header_params or {}), body)
        machine, store = self._machine, self._store

        def apply() -> tuple[int, CIMultiDictProxy[str], Object]:
            # A body is what was sent, whatever the caller does with its object afterwards.
            date = format_datetime(datetime.fromtimestamp(int(machine.now), UTC), usegmt=True)
            try:
                status, answer = request.carry_out(store)
            except ApiError as error:
                raise _refusal(error, date) from None
            return status, _headers(date), answer

        seconds = _request_timeout[-1] if isinstance(_request_timeout, tuple) else _request_timeout
        try:
            async with asyncio.timeout(seconds):
                status, headers, answer = await machine.call(request.name, request.access, apply, _ERRORS)
        except ApiException as error:
            return _Response(error.status, str(error.reason), dict(error.headers or {}), str(error.body).encode())
        return _Response(status, "OK", headers, json.dumps(answer).encode())


class _Response:
    """An answer as aiohttp gives it: what is read of it here."""

    def __init__(self, status: int, reason: str, headers: Mapping[str, str], body: bytes) -> None:
        self.status, self.reason, self.headers = status, reason, headers
        self.content = self
        self._body = body

    async def iter_any(self) -> AsyncIterator[bytes]:
        """Yield the body."""
        yield self._body

    def at_eof(self) -> bool:
        """Whether all of it has been read."""
        return True

    def close(self) -> None:
        """Nothing is open."""

    release = close


class _Request:
    """One call, and what it reads or writes."""

    def __init__(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: Object | None
    ) -> None:
        self._method, self._query, self._headers = method, query, headers
        self._body = json.dumps(body) if body is not None else ""
        parts = [unquote(part) for part in path.split("/") if part]
        group, version, rest = ("", parts[1], parts[2:]) if parts[0] == "api" else (parts[1], parts[2], parts[3:])
        self._namespace = ""
        self._kind: Kind | None
        if len(rest) > 2 and rest[0] == "namespaces":
            self._namespace, rest = rest[1], rest[2:]
        self._group = f"{group}/{version}"
        if not rest:  # discovery
            self._kind = None
            self.access, self.name = Access(f"k8s:discovery:{group}", writes=False), f"discover {group}"
            return
        self._kind = _KINDS[group, version, rest[0]]
        self._name = rest[1] if len(rest) > 1 else ""
        self._subresource = rest[2] if len(rest) > 2 else ""
        name = self._name
        if method == "POST":
            name = str((body or {})["metadata"].get("name", ""))
        self.access = Access(
            f"k8s:{self._kind.kind}:{self._namespace + '/' if self._namespace else ''}{name or '*'}",
            writes=method != "GET",
            commutes=self._kind.kind == "Event",
        )
        what = {"GET": "get" if name else "list", "POST": "create"}.get(method, method.lower())
        self.name = f"{what}{self._subresource and ' status of'} {self._kind.kind} {self._namespace}/{name}"

    def carry_out(self, store: Objects) -> tuple[int, Object]:
        if self._kind is None:
            return HTTPStatus.OK, self._discovered()
        kind, namespace, name = self._kind, self._namespace, self._name
        body = json.loads(self._body) if self._body else {}
        accept = self._headers.get("Accept", "")
        if self._method == "GET" and not name:
            return HTTPStatus.OK, self._list(store, kind, accept)
        if self._method == "GET":
            obj = store.get(kind, namespace, name)
            return HTTPStatus.OK, tables.metadata_only(obj) if "as=PartialObjectMetadata" in accept else obj
        if self._method == "POST":
            _check(kind, body)
            return HTTPStatus.CREATED, store.create(kind, namespace, body)
        if self._method in {"PATCH", "PUT"}:
            return HTTPStatus.OK, self._update(store, kind, body)
        obj, gone = store.delete(kind, namespace, name, body.get("preconditions") or {})
        return HTTPStatus.OK, {"kind": "Status", "apiVersion": "v1", "status": "Success"} if gone else obj

    def _update(self, store: Objects, kind: Kind, body: Object) -> Object:
        new = body
        if self._method == "PATCH":
            new = merge_patch(store.get(kind, self._namespace, self._name), body)
            version = (body.get("metadata") or {}).get("resourceVersion", "")
            new["metadata"] = {**new["metadata"], "resourceVersion": version}
        _check(kind, new, patched=self._method == "PATCH")
        return store.update(kind, self._namespace, new, status=bool(self._subresource))

    def _discovered(self) -> Object:
        found = [
            {"name": kind.plural, "kind": kind.kind, "namespaced": kind.namespaced}
            for (group, version, _), kind in _KINDS.items()
            if f"{group}/{version}" == self._group
        ]
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": self._group, "resources": found}

    def _list(self, store: Objects, kind: Kind, accept: str) -> Object:
        selector = self._query.get("labelSelector", "")
        fields = self._query.get("fieldSelector", "")
        token = self._query.get("continue") or ""
        if token:
            if token not in store.continued:
                raise ApiError(HTTPStatus.GONE, "Expired", _EXPIRED)
            revision, found = store.continued[token]  # as they were at the first page, as on the real one
        else:
            revision = store.revision
            all_of_it = store.selectable(kind, self._namespace, selector)
            found = [obj for obj in all_of_it if tables.matches(obj, selector, fields)]
        limit = int(self._query.get("limit") or 0) or len(found)
        more = ""
        if len(found) > limit:
            store.tokens += 1
            more = str(store.tokens)
            store.continued[more] = (revision, found[limit:])
        found = found[:limit]
        if "as=Table" in accept:
            listed = tables.table(kind, found, revision)
        elif "as=PartialObjectMetadataList" in accept:
            listed = tables.metadata_list(found, revision)
        else:
            listed = {"apiVersion": kind.api_version, "kind": f"{kind.kind}List", "items": found}
        return {**listed, "metadata": {"resourceVersion": str(revision), "continue": more}}


def _check(kind: Kind, obj: Object, *, patched: bool = False) -> None:
    """Refuse a Lease that the API server refuses."""
    if kind.kind != "Lease":
        return
    spec = obj.get("spec") or {}
    for name in ("acquireTime", "renewTime"):
        value = spec.get(name)
        if value is not None and not _MICRO_TIME.fullmatch(str(value)):
            words = f'Lease in version "v1" cannot be handled as a Lease: parsing time "{value}"'
            if patched:
                raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid", words)
            raise ApiError(HTTPStatus.BAD_REQUEST, "BadRequest", words)
    seconds = spec.get("leaseDurationSeconds")
    if seconds is not None and (not isinstance(seconds, int) or seconds <= 0):
        words = "spec.leaseDurationSeconds: Invalid value: must be greater than 0"
        raise ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid", words)


def _refusal(error: ApiError, date: str) -> ApiException:
    refusal: Any = ApiException(status=int(error.code), reason=error.reason)
    refusal.headers = _headers(date)
    refusal.body = json.dumps(
        {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "message": str(error),
            "reason": error.reason,
            "code": int(error.code),
        }
    )
    return refusal  # type: ignore[no-any-return]


def _headers(date: str) -> CIMultiDictProxy[str]:
    return CIMultiDictProxy(CIMultiDict({"Date": date, "Content-Type": "application/json"}))


def _lost() -> BaseException:
    return ConnectionResetError("the connection was cut")


def _overload() -> BaseException:
    return _refusal(ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, "InternalError", "etcdserver: request timed out"), "")


_ERRORS: Final = (_lost, _overload)
