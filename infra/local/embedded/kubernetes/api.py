"""The HTTP side of the embedded Kubernetes API: paths, discovery, patches, watches."""

import asyncio
import json
import secrets
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import yaml
from aiohttp import web

from infra.local.embedded.kubernetes import tables
from infra.local.embedded.kubernetes.discovery import discover
from infra.local.embedded.kubernetes.patches import json_patch, merge_patch
from infra.local.embedded.kubernetes.schema import BUILT_IN, Kind, read_crds, read_kinds
from infra.local.embedded.kubernetes.store import ApiError, Store

_BOOKMARK_SECONDS: Final = 30.0


@dataclass(frozen=True)
class _Target:
    kind: Kind
    namespace: str = ""
    name: str = ""
    subresource: str = ""


class KubernetesApi:
    """Serves a cluster in memory on a port of this machine.

    Attributes:
        url: of the API; a secret part of its path keeps other users of the machine out, since clients send no token
            over plain http.
        store: the objects.
    """

    def __init__(self, crds: Path, host: str = "127.0.0.1") -> None:
        definitions = read_crds(crds)
        self.url = ""
        self._host = host
        self.store = Store()
        self._kinds = {(k.group, k.version, k.plural): k for k in (*BUILT_IN, *read_kinds(definitions))}
        self._path = f"/{secrets.token_urlsafe(12)}"
        self._runner: web.AppRunner | None = None
        for name in ("default", "kube-system", "landfall"):
            self.store.create(self.kind("namespaces"), "", {"metadata": {"name": name}})
        for definition in definitions:
            self.store.create(self.kind("customresourcedefinitions"), "", definition)

    def kind(self, plural: str) -> Kind:
        """Return the kind of that plural name."""
        return next(kind for kind in self._kinds.values() if kind.plural == plural)

    async def start(self) -> None:
        """Listen on a free port."""
        app = web.Application(client_max_size=4 * 2**20)
        app.router.add_route("*", self._path + "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, 0).start()
        self.url = f"http://{self._host}:{self._runner.addresses[0][1]}{self._path}"

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def write_kubeconfig(self, path: Path) -> None:
        """Write a kubeconfig for this API."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "landfall", "cluster": {"server": self.url}}],
            "users": [{"name": "landfall", "user": {}}],
            "contexts": [{"name": "landfall", "context": {"cluster": "landfall", "user": "landfall"}}],
            "current-context": "landfall",
        }
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(config))

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._route(request)
        except ApiError as error:
            return web.json_response(_status(error), status=error.code)
        except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
            refused = ApiError(HTTPStatus.BAD_REQUEST, "BadRequest", f"{type(error).__name__}: {error}")
            return web.json_response(_status(refused), status=refused.code)
        except ConnectionError:  # the client has gone
            return web.Response()

    async def _route(self, request: web.Request) -> web.StreamResponse:
        parts = [part for part in request.match_info["path"].split("/") if part]
        if (found := discover(parts, self._kinds.values())) is not None:
            return web.json_response(found)
        target = self._target(parts)
        if request.method != "GET" or target.name:
            return await self._object(request, target)
        if request.query.get("watch") in {"true", "1"}:
            return await self._watch(request, target)
        return web.json_response(self._list(request, target))

    def _target(self, parts: list[str]) -> _Target:
        match parts:
            case ["api", version, *rest]:
                group = ""
            case ["apis", group, version, *rest]:
                pass
            case _:
                rest, group, version = [], "", ""
        namespace = ""
        if len(rest) > 2 and rest[0] == "namespaces":  # noqa: PLR2004 -- namespaces/<ns>/<plural>
            namespace, rest = rest[1], rest[2:]
        plural, name, subresource = (*rest[:3], "", "", "")[:3]
        kind = self._kinds.get((group, version, plural))
        if kind is None or len(rest) > 3 or subresource not in ({"", "status"} if kind.has_status else {""}):  # noqa: PLR2004
            raise ApiError(HTTPStatus.NOT_FOUND, "NotFound", "the server could not find the requested resource")
        return _Target(kind, namespace, name, subresource)

    def _list(self, request: web.Request, target: _Target) -> dict[str, Any]:
        kind = target.kind
        objects = [obj for obj in self.store.list(kind, target.namespace) if _selected(request, obj)]
        accept = request.headers.get("Accept", "")
        if "as=Table" in accept:
            return tables.table(kind, objects, self.store.revision)
        if "as=PartialObjectMetadataList" in accept:
            return tables.metadata_list(objects, self.store.revision)
        named = {"apiVersion": kind.api_version, "kind": f"{kind.kind}List"}
        return {**named, "metadata": {"resourceVersion": str(self.store.revision)}, "items": objects}

    async def _watch(self, request: web.Request, target: _Target) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        seconds = float(request.query.get("timeoutSeconds") or 3600)
        stream = _WatchStream(self.store, target, request, response)
        marking = asyncio.create_task(stream.mark()) if request.query.get("allowWatchBookmarks") else None
        try:
            async with asyncio.timeout(seconds):
                await stream.run(int(request.query.get("resourceVersion") or 0))
        except ApiError as error:
            await stream.send("ERROR", _status(error))
        except (TimeoutError, ConnectionError):
            pass
        finally:
            if marking is not None:
                marking.cancel()
        return response

    async def _object(self, request: web.Request, target: _Target) -> web.Response:
        kind, namespace, name = target.kind, target.namespace, target.name
        body = await request.read()
        store = self.store.trial() if request.query.get("dryRun") else self.store
        status = HTTPStatus.OK
        if request.content_type.endswith("protobuf"):
            words = "only JSON and YAML are read here: kubectl apply --validate=false -f <file>"
            raise ApiError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", words)
        if request.method == "GET":
            obj = store.get(kind, namespace, name)
            if "as=Table" in request.headers.get("Accept", ""):
                return web.json_response(tables.table(kind, [obj], self.store.revision))
        elif request.method == "POST" and not name:
            obj, status = store.create(kind, namespace, _read(body)), HTTPStatus.CREATED
        elif request.method == "PUT" and name:
            obj = store.update(kind, namespace, _read(body), status=bool(target.subresource))
        elif request.method == "PATCH" and name:
            obj = self._patch(store, target, request.content_type, body)
        elif request.method == "DELETE" and name and not target.subresource:
            preconditions = (_read(body).get("preconditions") or {}) if body else {}
            obj, gone = store.delete(kind, namespace, name, preconditions)
            if gone:
                details = {"name": name, "group": kind.group, "kind": kind.plural, "uid": obj["metadata"]["uid"]}
                obj = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
        else:
            raise ApiError(HTTPStatus.METHOD_NOT_ALLOWED, "MethodNotAllowed", f"{request.method} is not served here")
        return web.json_response(obj, status=status)

    def _patch(self, store: Store, target: _Target, content_type: str, body: bytes) -> dict[str, Any]:
        kind, namespace, name = target.kind, target.namespace, target.name
        patch = yaml.safe_load(body) if content_type == "application/apply-patch+yaml" else json.loads(body)
        try:
            old = store.get(kind, namespace, name)
        except ApiError:
            if content_type != "application/apply-patch+yaml":
                raise
            return store.create(kind, namespace, patch)
        if content_type == "application/json-patch+json":
            new = json_patch(deepcopy(old), patch)
        else:  # strategic merge of what is built in differs only for lists, which Secrets and Events have none of
            new = merge_patch(old, patch)
            version = (patch.get("metadata") or {}).get("resourceVersion", "")
            new["metadata"] = {**new["metadata"], "resourceVersion": version}  # unless given, whatever it is now
        return store.update(kind, namespace, new, status=bool(target.subresource))


class _WatchStream:
    """One watch's answer, in the form that its client accepts."""

    def __init__(self, store: Store, target: _Target, request: web.Request, response: web.StreamResponse) -> None:
        self._store = store
        self._target = target
        self._request = request
        self._response = response
        self._accept = request.headers.get("Accept", "")

    async def run(self, since: int) -> None:
        """Send what is there, where the client has seen nothing yet, and then every change."""
        kind, namespace = self._target.kind, self._target.namespace
        if not since:
            since = self._store.revision
            for obj in self._store.list(kind, namespace):
                if _selected(self._request, obj):
                    await self.send("ADDED", obj)
        async for change in self._store.watch(kind, since):
            own = change.object["metadata"].get("namespace")
            if namespace in {"", own} and _selected(self._request, change.object):
                await self.send(change.type, change.object)

    async def mark(self) -> None:
        """Send bookmarks."""
        kind = self._target.kind
        while True:
            await asyncio.sleep(_BOOKMARK_SECONDS)
            version = {"resourceVersion": str(self._store.revision)}
            await self.send("BOOKMARK", {"kind": kind.kind, "apiVersion": kind.api_version, "metadata": version})

    async def send(self, type_: str, obj: Mapping[str, Any]) -> None:
        """Send one event."""
        if "as=Table" in self._accept and type_ not in {"BOOKMARK", "ERROR"}:
            obj = tables.table(self._target.kind, [obj], self._store.revision)
        elif "as=PartialObjectMetadata" in self._accept and type_ != "ERROR":
            obj = tables.metadata_only(obj)
        await self._response.write(json.dumps({"type": type_, "object": obj}).encode() + b"\n")


def _read(body: bytes) -> dict[str, Any]:
    found = json.loads(body) if body[:1] == b"{" else yaml.safe_load(body)
    if not isinstance(found, dict):
        raise TypeError("the body is no object")
    return found


def _selected(request: web.Request, obj: Mapping[str, Any]) -> bool:
    return tables.matches(obj, request.query.get("labelSelector", ""), request.query.get("fieldSelector", ""))


def _status(error: ApiError) -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": str(error),
        "reason": error.reason,
        "code": int(error.code),
    }
