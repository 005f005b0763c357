"""Lists and watches the cluster's objects and sends every event to the changes queue, as a forwarder in a cluster does.

Nothing is decided here. What was missed while a connection was lost is told after the next list: every object as
ADDED, and those that are gone as DELETED.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import aiohttp

from infra.forwarder.changes import GROUP, KINDS, VERSION, Changes, Kind
from infra.local.kubernetes_access import ClusterAccess, ClusterUnusable

Send = Callable[[Sequence[str]], Awaitable[None]]
Tell = Callable[[str], None]
Observe = Callable[[Mapping[str, Any]], None]
Object = dict[str, Any]

_GROUP_PATH: Final = f"/apis/{GROUP}/{VERSION}"
_PAGE: Final = "500"
_WATCH_SECONDS: Final = 290
_FIRST_BACKOFF_SECONDS: Final = 0.5
_LAST_BACKOFF_SECONDS: Final = 15.0
_CALL_SECONDS: Final = 30
_SILENCE_SECONDS: Final = 100  # bookmarks come every minute: after that the connection is dead, whatever TCP says
_BATCH: Final = 100


class _Expired(Exception):
    """410: the server no longer has what the watch would begin with."""


class Forwarder:
    """Watches one cluster.

    Of Secrets, metadata alone is asked for and sent on, and only of those that a State Store names.

    Attributes:
        events: how many events were sent.
        server: what it watches.
    """

    def __init__(self, access: ClusterAccess, send: Send, tell: Tell, observe: Observe | None = None) -> None:
        self.events = 0
        self.server = access.server
        self._access = access
        self._send = send
        self._tell = tell
        self._observe = observe
        self._outgoing: asyncio.Queue[str] = asyncio.Queue()
        self._changes = Changes()
        self._tasks: list[asyncio.Task[None]] = []
        self._listed = {kind.kind: asyncio.Event() for kind in KINDS}

    async def check(self) -> None:
        """See that the cluster answers and knows our kinds.

        Raises:
            ClusterUnusable: it does not; the sentence says what to do.
        """
        server = self.server
        try:
            found = await self._access.get(_GROUP_PATH)
        except aiohttp.ClientResponseError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                found = {"resources": []}
            else:
                raise ClusterUnusable(
                    f"the Kubernetes API at {server} answered {error.status} {error.message}:"
                    " check the identity in the kubeconfig"
                ) from None
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ClusterUnusable(
                f"the Kubernetes API at {server} is unreachable ({str(error) or 'no answer in time'}):"
                " is the cluster running, and is this the right kubeconfig?"
            ) from None
        known = {resource["kind"] for resource in found["resources"]}
        if missing := [kind.kind for kind in KINDS if kind.group == GROUP and kind.kind not in known]:
            raise ClusterUnusable(
                f"the cluster at {server} does not know {', '.join(missing)}: kubectl apply -f infra/kubernetes/crds/"
            )

    def start(self) -> None:
        """Begin to list and watch."""
        self._tasks = [asyncio.create_task(self._follow(kind)) for kind in KINDS]
        self._tasks.append(asyncio.create_task(self._pump()))

    async def listed(self) -> None:
        """Wait until everything was listed once."""
        await asyncio.gather(*(event.wait() for event in self._listed.values()))

    async def stop(self) -> None:
        """End all watches."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _follow(self, kind: Kind) -> None:
        known: dict[tuple[str, str], Object] = {}
        backoff = _FIRST_BACKOFF_SECONDS
        version = ""
        while True:
            try:
                if not version:
                    version = await self._list(kind, known)
                    self._listed[kind.kind].set()
                async for event in self._watch(kind, version):
                    version = event["object"]["metadata"]["resourceVersion"]
                    backoff = _FIRST_BACKOFF_SECONDS
                    if event["type"] != "BOOKMARK":
                        self._forward(kind, event, known)
            except _Expired:
                version = ""
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                self._tell(f"watching {kind.kind}: {_words(error)}; again in {backoff:.1f} s")
                await asyncio.sleep(backoff * random.uniform(0.7, 1.3))  # noqa: S311 -- jitter
                backoff = min(backoff * 2, _LAST_BACKOFF_SECONDS)

    async def _list(self, kind: Kind, known: dict[tuple[str, str], Object]) -> str:
        first = not self._listed[kind.kind].is_set()
        found: list[Object] = []
        query = {"limit": _PAGE}
        while True:
            try:
                page = await self._access.get(kind.path, accept=kind.accept(watch=False), **query)
            except aiohttp.ClientResponseError as error:
                if error.status == HTTPStatus.GONE:
                    raise _Expired from None
                raise
            found += page["items"] or []
            metadata = page["metadata"]
            if not metadata.get("continue"):
                break
            query["continue"] = metadata["continue"]
        gone = known.keys() - {_key(obj) for obj in found}
        for key in gone:
            self._forward(kind, {"type": "DELETED", "object": known[key]}, known)
        # State Stores that are seen for the first time are checked with their Secrets anyway.
        quiet = first and kind.kind == "Secret"
        for obj in found:
            self._forward(kind, {"type": "ADDED", "object": obj}, known, quiet=quiet)
        return str(metadata["resourceVersion"])

    async def _watch(self, kind: Kind, version: str) -> AsyncIterator[Object]:
        seconds = int(_WATCH_SECONDS * random.uniform(0.8, 1))  # noqa: S311 -- so that not all watches end at once
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(seconds),
        }
        limits = aiohttp.ClientTimeout(total=seconds + _CALL_SECONDS, connect=_CALL_SECONDS, sock_read=_SILENCE_SECONDS)
        accept = kind.accept(watch=True)
        async with await self._access.open(kind.path, accept=accept, limits=limits, query=query) as response:
            if response.status == HTTPStatus.GONE:
                raise _Expired
            response.raise_for_status()
            async for line in response.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    if event["object"].get("code") == HTTPStatus.GONE:
                        raise _Expired
                    raise aiohttp.ClientPayloadError(str(event["object"].get("message", "the watch ended"))[:300])
                yield event

    def _forward(self, kind: Kind, event: Object, known: dict[tuple[str, str], Object], *, quiet: bool = False) -> None:
        obj = event["object"]
        if event["type"] == "DELETED":
            known.pop(_key(obj), None)
        else:
            known[_key(obj)] = {"metadata": obj["metadata"]}
        if self._observe is not None and kind.kind != "Secret":
            self._observe({**event, "object": {**obj, "apiVersion": kind.api_version, "kind": kind.kind}})
        told = self._changes.see(kind, event["type"], obj, quiet=quiet)
        if told is not None:
            self._outgoing.put_nowait(told.text())

    async def _pump(self) -> None:
        while True:
            batch = [await self._outgoing.get()]
            while len(batch) < _BATCH and not self._outgoing.empty():
                batch.append(self._outgoing.get_nowait())
            backoff = _FIRST_BACKOFF_SECONDS
            while True:
                try:
                    await self._send(batch)
                    break
                except Exception as error:  # noqa: BLE001 -- an event that is not sent is lost, so it is sent again
                    self._tell(f"sending {len(batch)} events: {_words(error)}; again in {backoff:.1f} s")
                    await asyncio.sleep(backoff)
                    backoff = min(backoff * 2, _LAST_BACKOFF_SECONDS)
            self.events += len(batch)


def _key(obj: Mapping[str, Any]) -> tuple[str, str]:
    return obj["metadata"].get("namespace") or "", obj["metadata"]["name"]


def _words(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientResponseError):
        return f"the API answered {error.status} {error.message}"
    return str(error)[:300] or type(error).__name__
