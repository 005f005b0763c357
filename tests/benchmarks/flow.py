"""From the first create to the last Ready: Destinations and WorkPlacements, and their deletion, against Kratix."""

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

from tests.benchmarks.cluster import DESTINATIONS, WORK_PLACEMENTS, Cluster, Kind, Store, work_placement
from tests.benchmarks.controllers import Controller, Kratix, Landfall, Running
from tests.benchmarks.harness import Round, Side, benchmark
from tests.benchmarks.servers import Servers

_CANARIES: Final = 2
_CLOCK: Final = "from the first create to the last Ready"
_KB: Final = 1000
_READS: Final = {"get", "list"}

Measure = Callable[[Cluster, Store, Running], Awaitable[Round]]


async def round_of(
    controller: Controller, servers: Servers, kind: Kind, measure: Measure, *, away: bool = False
) -> Round:
    """Run one round: a clean cluster, a fresh store, a fresh process that has made one Destination Ready."""
    cluster = Cluster(servers)
    await cluster.clear()
    store = Store.fresh(servers, kind, away=away)
    async with controller.running(servers) as running:
        await cluster.create(DESTINATIONS, [store.destination("warm-up")], seconds=120)
        await running.idle()
        before = cluster.calls()
        done = await measure(cluster, store, running)
        calls, peaks = cluster.calls() - before, running.peaks()
    reads = sum(count for call, count in calls.items() if call.split()[0] in _READS)
    # The creates and deletes that are the work itself are among them, on both sides.
    figures = {"kubernetes_reads": reads, "kubernetes_writes": calls.total() - reads}
    return Round(done.seconds, {**done.figures, **figures, **peaks})


def sides(servers: Servers, kind: Kind, measure: Measure, *, away: bool = False) -> list[Side]:
    """Return ours and Kratix, each with such rounds."""
    return [
        Side(
            controller.name,
            functools.partial(round_of, controller, servers, kind, measure, away=away),
            role="ours" if isinstance(controller, Landfall) else "peer",
        )
        for controller in (Landfall(), Kratix())
    ]


async def destinations(count: int, cluster: Cluster, store: Store, running: Running) -> Round:
    """Create Destinations, and wait for all."""
    commits = store.commits()
    outcome = await cluster.create(DESTINATIONS, [store.destination(f"worker-{n:04}") for n in range(count)])
    _expect(store, _CANARIES * (count + 1))
    figures = {"creating_seconds": outcome.acting, "first_ready_seconds": outcome.first}
    if store.kind == "git":
        figures["commits"] = store.commits() - commits
    return Round(outcome.last, figures)


async def work_placements(
    count: int, cluster: Cluster, store: Store, running: Running, *, scheduled: bool = True
) -> Round:
    """Create WorkPlacements of five files of 1 KB for one Destination, and wait for all."""

    def made(name: str) -> dict[str, Any]:
        return work_placement(name, "warm-up", _files(name, 5), scheduled=scheduled)

    await cluster.create(WORK_PLACEMENTS, [made("warm-up")], seconds=120)
    await running.idle()
    commits = store.commits()
    objects = [made(f"redis-{n:04}") for n in range(count)]
    outcome = await cluster.create(WORK_PLACEMENTS, objects)
    _expect(store, _CANARIES + 5 * (count + 1))
    figures = {"creating_seconds": outcome.acting, "first_ready_seconds": outcome.first}
    if store.kind == "git":
        figures["commits"] = store.commits() - commits
    return Round(outcome.last, figures)


async def deletion(count: int, files: int, cluster: Cluster, store: Store, running: Running) -> Round:
    """Delete WorkPlacements of one Destination, and wait until all are gone; their files are gone before."""
    objects = [work_placement(f"redis-{n:04}", "warm-up", _files(f"redis-{n:04}", files)) for n in range(count)]
    written = await cluster.create(WORK_PLACEMENTS, objects)
    _expect(store, _CANARIES + count * files)
    await running.idle()
    outcome = await cluster.delete(WORK_PLACEMENTS, objects)
    _expect(store, _CANARIES)
    return Round(outcome.last, {"deleting_seconds": outcome.acting, "writing_before_seconds": written.last})


def _files(name: str, count: int) -> dict[str, bytes]:
    """Return documents of 1 KB, no two alike."""
    head = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}-{number}\ndata:\n  filler: "
    found = {}
    for number in range(count):
        text = head.format(name=name, number=number).encode()
        found[f"config-{number:03}.yaml"] = text + b"x" * (_KB - len(text) - 1) + b"\n"
    return found


def _expect(store: Store, count: int) -> None:
    found = store.files()
    if len(found) != count:
        raise RuntimeError(f"all is said to be done, but the {store.kind} has {len(found)} files and not {count}")


def _register(
    name: str,
    measures: str,
    kind: Kind,
    measure: Measure,
    target: float | None = None,
    *,
    away: bool = False,
    **more: Any,
) -> None:
    async def open_(servers: Servers) -> AsyncIterator[Sequence[Side]]:
        yield sides(servers, kind, measure, away=away)

    benchmark(name, measures, targets={} if target is None else {"kratix": target}, **more)(open_)


_PLACES: Final[dict[Kind, str]] = {"bucket": "in a bucket", "git": "in Git"}
_DESTINATIONS: Final[tuple[tuple[Kind, int, bool, float | None], ...]] = (
    ("bucket", 100, False, None),
    ("bucket", 1000, False, 2.0),
    ("bucket", 100, True, 20.0),
    ("git", 100, False, None),
    ("git", 500, False, 15.0),
    ("git", 100, True, 20.0),
)
_WORK_PLACEMENTS: Final[tuple[tuple[Kind, int, float | None], ...]] = (
    ("bucket", 100, 3.0),
    ("git", 100, 8.0),
    ("bucket", 1000, None),
    ("git", 1000, None),
)

for _kind, _count, _away, _target in _DESTINATIONS:
    _register(
        f"destinations-{_kind}-{_count}{'-50ms' if _away else ''}",
        f"{_count:,} Destinations {_PLACES[_kind]}{', 50 ms away' if _away else ''}, {_CLOCK}",
        _kind,
        functools.partial(destinations, _count),
        _target,
        away=_away,
        limits={"write_canary_peak_mb": 200} if _count == 1000 else {},
    )

for _kind, _count, _target in _WORK_PLACEMENTS:
    _work = f"{_count:,} WorkPlacements of 5 files of 1 KB for one Destination {_PLACES[_kind]}"
    _register(
        f"workplacements-{_kind}-{_count}",
        f"{_work}, as Kratix's scheduler makes them, {_CLOCK}",
        _kind,
        functools.partial(work_placements, _count),
        _target,
    )
    if _target is not None:
        _register(
            f"workplacements-{_kind}-{_count}-by-hand",
            f"{_work}, without the finalizer that the scheduler gives them (Kratix adds it, and comes back after 5 s),"
            f" {_CLOCK}",
            _kind,
            functools.partial(work_placements, _count, scheduled=False),
            _target,
        )

for _kind in _PLACES:
    _register(
        f"deletion-{_kind}-5000",
        f"50 WorkPlacements of 100 files of 1 KB each {_PLACES[_kind]}, from the first delete to the last one gone",
        _kind,
        functools.partial(deletion, 50, 100),
    )
