"""What one change costs as the fleet grows: N Destinations and N WorkPlacements are Ready, then single changes."""

import functools
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

from tests.benchmarks.cluster import DESTINATIONS, WORK_PLACEMENTS, Cluster, Kind, Store, work_placement
from tests.benchmarks.controllers import SETTLE_SECONDS, Controller, Kratix, Landfall, Running, _Landfall
from tests.benchmarks.flow import _files
from tests.benchmarks.harness import Round, Side, benchmark
from tests.benchmarks.servers import Servers
from tests.integration.platform_team import API_VERSION, GROUP

_SINGLES: Final = 3  # of each kind of single change; figures are means, the time is a median
_WORKS: Final = f"{GROUP}/namespaces/default/works"
_GROUP_ID: Final = "5058f1af8388633f"


class _Measured:
    """Adds up what a step costs: by name of the step, in the figures of a round."""

    def __init__(self, cluster: Cluster, running: Running) -> None:
        self._cluster, self._running = cluster, running
        self.figures: dict[str, float] = {}

    async def step(self, name: str, times: int, act: Any) -> None:
        """Do something some times, each when all is at rest, and note seconds, calls, bytes and CPU of one."""
        await self._running.idle()
        calls, read, cpu = self._cluster.calls().total(), self._cluster.read(), self._running.cpu_seconds()
        seconds = []
        for number in range(times):
            seconds.append(await act(number))
            await self._running.idle()
        spent = self._cluster.read()
        figures = {
            "seconds": sorted(seconds)[len(seconds) // 2],
            "calls": (self._cluster.calls().total() - calls) / times,
            "read_kb": (spent["bytes"] - read["bytes"]) / times / 1000,
            "apiserver_cpu_seconds": (spent["apiserver_cpu_seconds"] - read["apiserver_cpu_seconds"]) / times,
            "cpu_seconds": (self._running.cpu_seconds() - cpu) / times,
        }
        self.figures |= {f"{name}_{figure}": value for figure, value in figures.items()}


async def grown(controller: Controller, servers: Servers, kind: Kind, count: int) -> Round:
    """Make a fleet of `count`, and return what single changes take in it; its time is that of one WorkPlacement."""
    cluster = Cluster(servers)
    await cluster.clear()
    store = Store.fresh(servers, kind)
    patience = max(600.0, count * 0.5)
    async with controller.running(servers) as running:
        measured = _Measured(cluster, running)
        await cluster.create(DESTINATIONS, [store.destination("warm-up")], seconds=120)
        await running.idle()

        async def fleet(_: int) -> float:
            objects = [store.destination(f"worker-{n:05}") for n in range(count)]
            return (await cluster.create(DESTINATIONS, objects, seconds=patience)).last

        async def documents(_: int) -> float:
            objects = [_placement(f"redis-{n:05}", f"worker-{n:05}") for n in range(count)]
            return (await cluster.create(WORK_PLACEMENTS, objects, seconds=patience)).last

        async def destination(number: int) -> float:
            return (await cluster.create(DESTINATIONS, [store.destination(f"single-{number}")], seconds=120)).last

        async def placement(number: int) -> float:
            objects = [_placement(f"single-{number}", f"worker-{number:05}")]
            return (await cluster.create(WORK_PLACEMENTS, objects, seconds=120)).last

        async def relabelled(number: int) -> float:
            """A Destination is given the label that a Promise's dependencies select."""
            name = f"worker-{number:05}"
            labels = {"metadata": {"name": name, "labels": {"growth": "selected"}}}
            awaited = [f"growth.{name}-{_GROUP_ID[:5]}"]
            return (await cluster.patch(DESTINATIONS, [labels], WORK_PLACEMENTS, awaited, seconds=120)).last

        await measured.step("destinations", 1, fleet)
        await measured.step("workplacements", 1, documents)
        await measured.step("destination", _SINGLES, destination)
        await measured.step("workplacement", _SINGLES, placement)
        servers.kubernetes.call("POST", _WORKS, _work())
        await measured.step("relabel", _SINGLES, relabelled)
        if isinstance(running, _Landfall):
            await _ours_alone(measured, servers, store, running)
        return Round(measured.figures["workplacement_seconds"], {**measured.figures, **running.peaks()})


async def _ours_alone(measured: _Measured, servers: Servers, store: Store, running: _Landfall) -> None:
    """What Kratix does not do, or not when it is asked to: a rotated Secret is news to it at the next event."""

    async def rotated(number: int) -> float:
        began = time.perf_counter()
        patch = {"stringData": {"rotated": str(number)}}
        path = f"/api/v1/namespaces/default/secrets/{store.name}"
        servers.kubernetes.call("PATCH", path, patch, content_type="application/merge-patch+json")
        await running.idle()
        return time.perf_counter() - began - SETTLE_SECONDS

    async def resynced(_: int) -> float:
        began = time.perf_counter()
        await running.runtime.resync()
        await running.idle()
        return time.perf_counter() - began - SETTLE_SECONDS

    await measured.step("secret", 1, rotated)
    await measured.step("resync", 1, resynced)


def _placement(name: str, destination: str) -> dict[str, Any]:
    return work_placement(name, destination, _files(name, 1))


def _work() -> dict[str, Any]:
    """Return a Promise's dependencies, for Destinations that nothing else selects."""
    workloads = work_placement("growth", "", _files("growth", 1))["spec"]["workloads"]
    selector = {"matchLabels": {"growth": "selected"}, "source": "promise"}
    group = {"id": _GROUP_ID, "directory": ".", "destinationSelectors": [selector], "workloads": workloads}
    labels = {"kratix.io/promise-name": "growth", "kratix.io/work-type": "promise"}
    return {
        "apiVersion": API_VERSION,
        "kind": "Work",
        "metadata": {"name": "growth", "namespace": "default", "labels": labels},
        "spec": {"promiseName": "growth", "workloadGroups": [group]},
    }


def _register(kind: Kind, count: int, *, beside: bool) -> None:
    async def open_(servers: Servers) -> AsyncIterator[Sequence[Side]]:
        controllers: list[Controller] = [Landfall(), *([Kratix()] if beside else [])]
        yield [
            Side(
                controller.name,
                functools.partial(grown, controller, servers, kind, count),
                role="ours" if isinstance(controller, Landfall) else "peer",
            )
            for controller in controllers
        ]

    place = "a bucket" if kind == "bucket" else "a repository"
    benchmark(
        f"growth-{kind}-{count}",
        f"One WorkPlacement in a fleet of {count:,} Destinations in {place} with a WorkPlacement each, from its create"
        " to its Ready; beside it, what the fleet, a Destination, a relabelling, a rotated Secret and a resync cost",
        rounds=1,
    )(open_)


for _count in (100, 1000, 5000, 20_000):
    _register("bucket", _count, beside=_count < 20_000)
for _count in (100, 1000):
    _register("git", _count, beside=True)
