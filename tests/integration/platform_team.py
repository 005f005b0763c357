"""A platform team's hands in tests: applies manifests to a real API server and waits for what must become true."""

import asyncio
import base64
import contextlib
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self, TypeVar

import aiohttp

from tests.servers.kubernetes import KubernetesApi

GROUP = "/apis/platform.kratix.io/v1alpha1"
API_VERSION = "platform.kratix.io/v1alpha1"

Seen = TypeVar("Seen")


class Platform:
    """What a platform team does with its cluster."""

    def __init__(self, api: KubernetesApi) -> None:
        self.api = api

    @classmethod
    @contextlib.contextmanager
    def alone(cls, api: KubernetesApi) -> Iterator[Self]:
        """Begin with nothing of ours in the cluster, and leave nothing."""
        team = cls(api)
        team.clear()
        yield team
        team.clear()

    def secret(self, name: str, **data: bytes | str) -> None:
        """Create or replace a Secret in namespace `default`."""
        encoded = {key: base64.b64encode(_bytes(value)).decode() for key, value in data.items()}
        obj = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": encoded}
        self._apply("/api/v1/namespaces/default/secrets", name, obj)

    def bucket_store(self, name: str, **spec: Any) -> None:
        """Create or change a BucketStateStore."""
        self._apply(f"{GROUP}/bucketstatestores", name, _object("BucketStateStore", name, spec))

    def git_store(self, name: str, **spec: Any) -> None:
        """Create or change a GitStateStore."""
        self._apply(f"{GROUP}/gitstatestores", name, _object("GitStateStore", name, spec))

    def destination(self, name: str, store: str, *, labels: Mapping[str, str] | None = None, **spec: Any) -> None:
        """Create or change a Destination; the store is `kind/name`, `bucket/x` or `git/x`."""
        obj = _object("Destination", name, {"stateStoreRef": _ref(store), **spec})
        obj["metadata"]["labels"] = dict(labels or {})
        self._apply(f"{GROUP}/destinations", name, obj)

    async def create_destinations(self, names: Sequence[str], store: str) -> None:
        """Create many Destinations at once, each with its own name as path; faster than anything that they lead to."""
        trust = ssl.create_default_context(cafile=str(self.api.ca))
        headers = {"Authorization": f"Bearer {self.api.token}"}
        connector = aiohttp.TCPConnector(limit=16, ssl=trust)
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

            async def create(name: str) -> None:
                obj = _object("Destination", name, {"stateStoreRef": _ref(store), "path": name})
                async with session.post(f"{self.api.url}{GROUP}/destinations", json=obj) as answer:
                    assert answer.status == 201, await answer.text()

            await asyncio.gather(*(create(name) for name in names))

    def destinations(self) -> dict[str, dict[str, Any]]:
        """Return all Destinations by name."""
        return {d["metadata"]["name"]: d for d in self.api.call("GET", f"{GROUP}/destinations")["items"]}

    def get(self, name: str) -> dict[str, Any] | None:
        """Return a Destination, or None where there is none."""
        answer = self.api.request("GET", f"{GROUP}/destinations/{name}")
        return answer.json() if answer.status == 200 else None

    def ready(self, name: str) -> tuple[str, str, str]:
        """Return status, reason and message of a Destination's Ready; empty strings while it has none."""
        conditions = ((self.get(name) or {}).get("status") or {}).get("conditions") or []
        found: dict[str, str] = next((c for c in conditions if c["type"] == "Ready"), {})
        return found.get("status", ""), found.get("reason", ""), found.get("message", "")

    async def wait_ready(self, name: str, seconds: float = 30) -> None:
        """Wait until a Destination is Ready."""
        await self.until(lambda: self.ready(name)[0] == "True", f"{name} Ready", seconds, lambda: self.ready(name))

    async def wait_reason(self, name: str, reason: str, seconds: float = 30) -> str:
        """Wait until a Destination's Ready is False for a reason; return the message."""
        told = await self.seen(
            lambda: self.ready(name), lambda ready: ready[:2] == ("False", reason), f"{name} {reason}", seconds
        )
        return told[2]

    async def until(
        self, true: Callable[[], bool], what: str, seconds: float = 30, seen: Callable[[], object] = lambda: ""
    ) -> None:
        """Wait until something is true.

        Raises:
            AssertionError: it did not become true in time; with what was seen instead.
        """
        end = time.monotonic() + seconds
        while True:
            began = time.monotonic()
            if await asyncio.to_thread(true):
                return
            assert time.monotonic() < end, f"not within {seconds} s: {what}; seen: {await asyncio.to_thread(seen)}"
            # A look at a thousand objects takes longer than the pause, and the core away from what is waited for.
            await asyncio.sleep(min(1, max(0.05, 2 * (time.monotonic() - began))))

    async def seen(
        self, look: Callable[[], Seen], wanted: Callable[[Seen], bool], what: str, seconds: float = 30
    ) -> Seen:
        """Wait until a look sees what is wanted, and return what that very look saw.

        Raises:
            AssertionError: none did in time; with what the last one saw instead.
        """
        looks: list[Seen] = []

        def so() -> bool:
            looks[:] = [look()]
            return wanted(looks[0])

        await self.until(so, what, seconds, lambda: looks)
        return looks[0]

    def delete(self, kind: str, name: str) -> None:
        """Ask for an object's deletion."""
        path = "/api/v1/namespaces/default/secrets" if kind == "secrets" else f"{GROUP}/{kind}"
        assert self.api.request("DELETE", f"{path}/{name}").status in {200, 202, 404}

    def events(self, name: str, kind: str = "Destination") -> list[tuple[str, str, str, int]]:
        """Return the Events of an object: type, reason, message, count."""
        selector = f"involvedObject.kind={kind},involvedObject.name={name}"
        items = self.api.call("GET", f"/api/v1/events?fieldSelector={selector}")["items"]
        return sorted((e["type"], e["reason"], e["message"], e.get("count", 1)) for e in items)

    def store(self, store: str) -> dict[str, Any] | None:
        """Return a State Store, `bucket/x` or `git/x`, or None where there is none."""
        kind, _, name = store.partition("/")
        answer = self.api.request("GET", f"{GROUP}/{kind}statestores/{name}")
        return answer.json() if answer.status == 200 else None

    def store_ready(self, store: str) -> tuple[str, str, str, str]:
        """Return a State Store's `status.status`, and status, reason and message of its Ready."""
        status = (self.store(store) or {}).get("status") or {}
        found: dict[str, str] = next((c for c in status.get("conditions") or [] if c["type"] == "Ready"), {})
        return status.get("status", ""), found.get("status", ""), found.get("reason", ""), found.get("message", "")

    async def wait_store(self, store: str, reason: str, seconds: float = 30) -> str:
        """Wait until a State Store's Ready has a reason; return the message."""
        told = await self.seen(
            lambda: self.store_ready(store), lambda ready: ready[2] == reason, f"{store} {reason}", seconds
        )
        return told[3]

    def finalizers(self, name: str, finalizers: list[str]) -> None:
        """Set a Destination's finalizers."""
        patch = {"metadata": {"finalizers": finalizers}}
        path = f"{GROUP}/destinations/{name}"
        self.api.call("PATCH", path, patch, content_type="application/merge-patch+json")

    def work(self, name: str, *groups: Mapping[str, Any], promise: str, resource: str = "", pipeline: str = "") -> None:
        """Create or change a Work in namespace `default`."""
        obj = _object("Work", name, {"promiseName": promise, "resourceName": resource, "workloadGroups": list(groups)})
        obj["metadata"]["labels"] = {"kratix.io/pipeline-name": pipeline} if pipeline else {}
        self._apply(f"{GROUP}/namespaces/default/works", name, obj)

    def work_finalizers(self, name: str, finalizers: list[str]) -> None:
        """Set a Work's finalizers."""
        patch = {"metadata": {"finalizers": finalizers}}
        path = f"{GROUP}/namespaces/default/works/{name}"
        self.api.call("PATCH", path, patch, content_type="application/merge-patch+json")

    def object(self, kind: str, name: str) -> dict[str, Any] | None:
        """Return a Work or a WorkPlacement of namespace `default`, or None where there is none."""
        answer = self.api.request("GET", f"{GROUP}/namespaces/default/{kind}/{name}")
        return answer.json() if answer.status == 200 else None

    def conditions(self, kind: str, name: str) -> list[dict[str, Any]]:
        """Return the conditions of a Work or a WorkPlacement."""
        return list(((self.object(kind, name) or {}).get("status") or {}).get("conditions") or [])

    def condition(self, kind: str, name: str, of_type: str) -> tuple[str, str, str]:
        """Return status, reason and message of a condition; empty strings where it is not set."""
        return self.told(kind, name).get(of_type, ("", "", ""))

    def told(self, kind: str, name: str) -> dict[str, tuple[str, str, str]]:
        """Return by type status, reason and message of the conditions of a Work or a WorkPlacement."""
        conditions = self.conditions(kind, name)
        return {c["type"]: (c["status"], c.get("reason", ""), c.get("message", "")) for c in conditions}

    def delete_object(self, kind: str, name: str) -> None:
        """Ask for the deletion of a Work or a WorkPlacement."""
        self.api.call("DELETE", f"{GROUP}/namespaces/default/{kind}/{name}")

    def clear(self) -> None:
        """Remove everything of ours, finalizers or not, so that the next test begins with nothing."""
        for name, obj in self.destinations().items():
            if obj["metadata"].get("finalizers"):
                self.finalizers(name, [])
        for kind in ("works", "workplacements"):
            for obj in self.api.call("GET", f"{GROUP}/{kind}")["items"]:
                path = f"{GROUP}/namespaces/{obj['metadata']['namespace']}/{kind}/{obj['metadata']['name']}"
                patch: dict[str, Any] = {"metadata": {"finalizers": []}}
                self.api.request("PATCH", path, patch, content_type="application/merge-patch+json")
                self.api.request("DELETE", path)
        for kind in ("destinations", "bucketstatestores", "gitstatestores"):
            self.api.call("DELETE", f"{GROUP}/{kind}")
        self.api.call("DELETE", "/api/v1/namespaces/default/events")
        for leases_or_claims in _BESIDE_THE_STORES:
            self.api.call("DELETE", leases_or_claims)

    def _apply(self, collection: str, name: str, obj: dict[str, Any]) -> None:
        answer = self.api.request("PATCH", f"{collection}/{name}", obj, content_type="application/merge-patch+json")
        if answer.status == 404:
            answer = self.api.request("POST", collection, obj)
        assert answer.status in {200, 201}, answer.body


# What functions keep of State Stores: without it, the next test begins as in a new cluster.
_BESIDE_THE_STORES = (
    "/apis/coordination.k8s.io/v1/namespaces/landfall/leases",
    "/api/v1/namespaces/landfall/configmaps?labelSelector=landfall.kratix.io/place",
    "/api/v1/namespaces/landfall/configmaps?fieldSelector=metadata.name=claims-waiting",
)


def named(prefix: str, count: int) -> Iterator[str]:
    """Yield `prefix-000`, `prefix-001`, …"""
    return (f"{prefix}-{number:03}" for number in range(count))


def _ref(store: str) -> dict[str, str]:
    kind, _, name = store.partition("/")
    return {"kind": {"bucket": "BucketStateStore", "git": "GitStateStore"}[kind], "name": name}


def _object(kind: str, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": dict(spec)}


def _bytes(value: bytes | str) -> bytes:
    return value if isinstance(value, bytes) else value.encode()
