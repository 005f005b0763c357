"""The forwarder tells every change, also after lost connections and expired versions, and never a secret's value."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from infra.local import forwarder as module
from infra.local.embedded.kubernetes.api import KubernetesApi
from infra.local.embedded.kubernetes.store import Store
from infra.local.forwarder import Forwarder
from infra.local.kubernetes_access import ClusterAccess, ClusterUnusable
from tests.unit.test_local_kubernetes import destination

CRDS = Path("infra/kubernetes/crds")


class Rig:
    """A cluster in memory, a forwarder, and what that has sent."""

    def __init__(self, api: KubernetesApi) -> None:
        self.api = api
        self.bodies: list[str] = []
        self.told: list[str] = []
        self.failures = 0
        self.access = ClusterAccess(api.url)
        self.forwarder = Forwarder(self.access, self._send, self.told.append)

    @property
    def events(self) -> list[tuple[str, str, str]]:
        events = map(json.loads, self.bodies)
        return [(e["type"], e["object"]["kind"], e["object"]["metadata"]["name"]) for e in events]

    def create(self, plural: str, obj: dict[str, Any]) -> None:
        self.api.store.create(self.api.kind(plural), obj["metadata"].get("namespace", ""), obj)

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not true():  # noqa: ASYNC110 -- what is waited for has no event
                await asyncio.sleep(0.01)

    async def _send(self, bodies: Sequence[str]) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError("the queue is away")
        self.bodies += bodies


@pytest_asyncio.fixture
async def rig() -> AsyncIterator[Rig]:
    api = KubernetesApi(CRDS)
    await api.start()
    rig = Rig(api)
    yield rig
    await rig.forwarder.stop()
    await rig.access.close()
    await api.stop()


def store(secret: str = "creds") -> dict[str, Any]:
    ref = {"name": secret, "namespace": "default"}
    return {"metadata": {"name": "default"}, "spec": {"url": "https://git.example/r", "secretRef": ref}}


def secret(name: str) -> dict[str, Any]:
    annotations = {"kubectl.kubernetes.io/last-applied-configuration": '{"stringData":{"password":"hunter2"}}'}
    metadata = {"name": name, "namespace": "default", "annotations": annotations}
    return {"metadata": metadata, "stringData": {"password": "hunter2"}}


async def test_what_is_there_comes_as_added_and_every_change_follows(rig: Rig) -> None:
    rig.create("destinations", destination("there"))
    rig.forwarder.start()
    await rig.forwarder.listed()
    rig.create("destinations", destination("new"))
    rig.api.store.delete(rig.api.kind("destinations"), "", "there", {})
    await rig.until(lambda: len(rig.bodies) == 3)
    assert rig.events == [
        ("ADDED", "Destination", "there"),
        ("ADDED", "Destination", "new"),
        ("DELETED", "Destination", "there"),
    ]
    assert json.loads(rig.bodies[0])["object"]["apiVersion"] == "platform.kratix.io/v1alpha1"


async def test_only_secrets_that_a_state_store_names_are_told_and_of_those_no_value(rig: Rig) -> None:
    rig.create("gitstatestores", store())
    rig.create("secrets", secret("creds"))
    rig.forwarder.start()
    await rig.forwarder.listed()
    rig.create("secrets", secret("other"))
    kind = rig.api.kind("secrets")
    changed = {**rig.api.store.get(kind, "default", "creds"), "stringData": {"password": "hunter3"}}
    rig.api.store.update(kind, "default", changed)
    await rig.until(lambda: ("MODIFIED", "Secret", "creds") in rig.events)
    assert rig.events == [("ADDED", "GitStateStore", "default"), ("MODIFIED", "Secret", "creds")]
    told = json.loads(rig.bodies[-1])["object"]
    assert set(told) == {"apiVersion", "kind", "metadata"}
    assert set(told["metadata"]) == {"name", "namespace", "uid", "resourceVersion", "creationTimestamp"}
    assert "hunter" not in "".join(rig.bodies)


async def test_a_lost_server_is_watched_again_where_the_watch_ended(rig: Rig) -> None:
    rig.forwarder.start()
    await rig.forwarder.listed()
    port = int(rig.api.url.split(":")[2].split("/")[0])
    await rig.api.stop()
    rig.create("destinations", destination("meanwhile"))
    await asyncio.sleep(0.1)
    await restart(rig.api, port)
    await rig.until(lambda: len(rig.bodies) == 1)
    await asyncio.sleep(0.2)
    assert rig.events == [("ADDED", "Destination", "meanwhile")]
    assert any("watching Destination" in sentence for sentence in rig.told)


async def test_after_an_expired_version_everything_is_told_again_and_what_is_gone_as_deleted(rig: Rig) -> None:
    rig.create("destinations", destination("stays"))
    rig.create("destinations", destination("goes"))
    rig.forwarder.start()
    await rig.forwarder.listed()
    await rig.until(lambda: len(rig.bodies) == 2)
    port = int(rig.api.url.split(":")[2].split("/")[0])
    await rig.api.stop()
    rig.api.store.delete(rig.api.kind("destinations"), "", "goes", {})
    forget(rig.api.store)
    await restart(rig.api, port)
    await rig.until(lambda: len(rig.bodies) == 4)
    assert rig.events[2:] == [("DELETED", "Destination", "goes"), ("ADDED", "Destination", "stays")]


async def test_an_event_that_could_not_be_sent_is_sent_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FIRST_BACKOFF_SECONDS", 0.01)
    rig.failures = 2
    rig.create("destinations", destination("there"))
    rig.forwarder.start()
    await rig.until(lambda: len(rig.bodies) == 1)
    assert rig.told == ["sending 1 events: the queue is away; again in 0.0 s"] * 2
    assert rig.events == [("ADDED", "Destination", "there")]


async def test_a_cluster_without_our_kinds_is_refused_with_what_to_apply(tmp_path: Path) -> None:
    api = KubernetesApi(tmp_path)
    await api.start()
    async with ClusterAccess(api.url) as access:
        with pytest.raises(
            ClusterUnusable, match=r"does not know .*Destination.*kubectl apply -f infra/kubernetes/crds"
        ):
            await Forwarder(access, lambda _: asyncio.sleep(0), print).check()
    await api.stop()


async def test_an_unreachable_cluster_is_refused_with_its_address() -> None:
    async with ClusterAccess("http://127.0.0.1:1") as access:
        with pytest.raises(ClusterUnusable, match=r"http://127.0.0.1:1 is unreachable"):
            await Forwarder(access, lambda _: asyncio.sleep(0), print).check()


async def test_a_kubeconfig_that_is_missing_is_told_with_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(ClusterUnusable, match=r"nowhere cannot be used.*Set KUBECONFIG"):
        await ClusterAccess.from_kubeconfig(tmp_path / "nowhere", None)


async def restart(api: KubernetesApi, port: int) -> None:
    from aiohttp import web

    app = web.Application()
    app.router.add_route("*", api._path + "/{path:.*}", api._handle)
    api._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
    await api._runner.setup()
    await web.TCPSite(api._runner, "127.0.0.1", port).start()


def forget(store: Store) -> None:
    """Do what an API server does with old versions after a while."""
    store._forgotten = store.revision
    store._history.clear()
