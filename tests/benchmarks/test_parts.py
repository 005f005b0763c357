"""The parts that measure: the client's clock, the relay's calls, memory, and a peer that is not there."""

import asyncio
import functools
import os
import time
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from tests.benchmarks import client
from tests.benchmarks.cluster import DESTINATIONS, Cluster
from tests.benchmarks.controllers import Kratix, peak_mb
from tests.benchmarks.harness import NotRun
from tests.benchmarks.relay import Relay
from tests.benchmarks.servers import Servers
from tests.integration.platform_team import API_VERSION, GROUP, Platform
from tests.servers.kubernetes import KubernetesApi


def destination(name: str) -> dict[str, object]:
    spec = {"path": name, "stateStoreRef": {"kind": "BucketStateStore", "name": "default"}}
    return {"apiVersion": API_VERSION, "kind": "Destination", "metadata": {"name": name}, "spec": spec}


@pytest.fixture
def servers(tmp_path: Path, cluster: KubernetesApi) -> Servers:
    shared = Servers(tmp_path)
    shared.__dict__["kubernetes"] = cluster
    return shared


def make_ready(api: KubernetesApi, name: str) -> None:
    condition = {"type": "Ready", "status": "True", "reason": "Test", "message": "", "observedGeneration": 1}
    status = {"status": {"conditions": [{**condition, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}
    path = f"{GROUP}/destinations/{name}/status"
    api.call("PATCH", path, status, content_type="application/merge-patch+json")


async def test_the_clock_stops_at_the_last_ready_and_deletion_at_the_last_one_gone(servers: Servers) -> None:
    cluster, names = Cluster(servers), ["bench-1", "bench-2", "bench-3"]
    team, before = Platform(servers.kubernetes), time.time()
    creating = asyncio.create_task(cluster.create(DESTINATIONS, [destination(name) for name in names], seconds=60))
    for name in names:
        await team.until(functools.partial(lambda each: team.get(each) is not None, name), f"{name} created")
        assert not creating.done()
        await asyncio.to_thread(make_ready, servers.kubernetes, name)
    created = await creating
    assert created.acting > 0
    assert 0 < created.first <= created.last < time.time() - before
    deleted = await cluster.delete(DESTINATIONS, [destination(name) for name in names], seconds=60)
    assert deleted.last > 0
    assert servers.kubernetes.request("GET", f"{DESTINATIONS}/bench-1").status == 404


async def test_objects_that_never_become_ready_are_named(servers: Servers) -> None:
    with pytest.raises(client.NotDone, match="1 of 1 were not done: bench-never"):
        await Cluster(servers).create(DESTINATIONS, [destination("bench-never")], seconds=2)
    await Cluster(servers).clear()
    assert servers.kubernetes.call("GET", DESTINATIONS)["items"] == []


async def test_a_refused_object_is_told_with_the_servers_words(servers: Servers) -> None:
    with pytest.raises(client.NotDone, match="BadSuffix_"):
        await Cluster(servers).create(DESTINATIONS, [destination("BadSuffix_")], seconds=20)


async def test_the_relay_counts_calls_on_one_connection_and_times_them() -> None:
    async def slow(request: web.Request) -> web.Response:
        await request.read()
        await asyncio.sleep(0.05)
        return web.Response(text=request.path)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", slow)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with Relay.before() as relay, aiohttp.ClientSession() as session:
            relay.upstream = f"http://127.0.0.1:{runner.addresses[0][1]}"
            async with session.put(f"{relay.url}/one?uploads", data=b"x" * 100_000, expect100=True) as answer:
                assert await answer.text() == "/one"
            middle = time.time()
            async with session.get(f"{relay.url}/two") as answer:
                assert await answer.text() == "/two"
    finally:
        await runner.cleanup()
    assert [(call.method, call.target) for call in relay.calls] == [("PUT", "/one?uploads"), ("GET", "/two")]
    assert [call.target for call in relay.between(middle, time.time())] == ["/two"]
    assert all(call.seconds >= 0.05 for call in relay.calls)


@pytest.mark.parametrize(
    ("told", "why"), [("", "KRATIX_BIN is not set"), ("/nowhere/bin/manager", "where there is no file")], ids=str
)
async def test_kratix_that_is_not_there_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str, why: str
) -> None:
    monkeypatch.setenv("KRATIX_BIN", told)
    with pytest.raises(NotRun, match=why):
        async with Kratix().running(Servers(tmp_path)):
            pass


def test_peak_memory_is_of_the_process_and_in_megabytes() -> None:
    assert 10 < peak_mb(os.getpid()) < 10_000
