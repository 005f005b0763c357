"""What a benchmark is, and how its sides take turns: A B A B, in one run, on the same servers.

A module of this package registers its benchmarks by being there:

    @benchmark("bulk-5000", "5,000 documents of 1 KB into one bucket", targets={"rclone": 1.0, "s5cmd": 0.75})
    async def bulk(servers: Servers) -> AsyncIterator[Sequence[Side]]:
        bucket = servers.minio.create_bucket()          # set up, not timed
        yield [Side("ours", ours, role="ours"), Side("rclone", rclone), Side("aiohttp", floor, role="floor")]
                                                        # and taken down again, whatever happened

where `ours`, `rclone` and `floor` are async callables without arguments that do one round each and return a `Round`.
"""

import contextlib
import importlib
import os
import pkgutil
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.benchmarks.results import Results, Row, SideRow
from tests.benchmarks.servers import Servers
from tests.progress import telling

Role = Literal["ours", "peer", "floor"]


class NotRun(Exception):
    """A side cannot run here: says why, and what to change. Its row says so; nothing is guessed in its place."""


@dataclass(frozen=True)
class Round:
    """What one round of one side took.

    Attributes:
        seconds: what is compared.
        figures: what is printed beside it, by name, the unit at the name's end: `creating_seconds`, `commits`,
            `write_canary_peak_mb`, `requests`.
    """

    seconds: float
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Side:
    """One of those that do the same work.

    Attributes:
        name: `ours`, `kratix`, `rclone`, …
        run: one round, or several of a kind that are quick one after the other; raises NotRun where it cannot.
        role: ours, a peer, or a floor: what nobody can be quicker than. Ratios are to both of the latter.
        warm_up: run once before the first round, not counted; `run` itself where a round is the best warm-up.
        at_most: rounds, for a side that takes very long.
    """

    name: str
    run: Callable[[], Awaitable[Round | Sequence[Round]]]
    role: Role = "peer"
    warm_up: Callable[[], Awaitable[object]] | None = None
    at_most: int | None = None

    @classmethod
    def missing(cls, name: str, why: str, role: Role = "peer") -> "Side":
        """Return a side that cannot run, and says why."""

        async def run() -> Round:
            raise NotRun(why)

        return cls(name, run, role)


Open = Callable[[Servers], AbstractAsyncContextManager[Sequence[Side]]]


@dataclass(frozen=True)
class Benchmark:
    """Work that is measured.

    Attributes:
        name: short, for ONLY=… and the report.
        measures: one sentence: what is timed, from when to when.
        open: sets up what the sides share and gives the sides, exactly one of them `ours`.
        targets: by the other side's name, how many times as fast as it ours is to be (its median by ours).
        limits: by the name of a figure of ours, the most that it may be.
        rounds: where ROUNDS does not fit: many for a short one.
    """

    name: str
    measures: str
    open: Open
    targets: Mapping[str, float] = field(default_factory=dict)
    limits: Mapping[str, float] = field(default_factory=dict)
    rounds: int | None = None


_registered: dict[str, Benchmark] = {}


def benchmark(
    name: str,
    measures: str,
    *,
    targets: Mapping[str, float] | None = None,
    limits: Mapping[str, float] | None = None,
    rounds: int | None = None,
) -> Callable[[Callable[[Servers], AsyncIterator[Sequence[Side]]]], None]:
    """Register a benchmark; what is decorated is its `open`, an async generator that yields the sides once."""

    def register(open_: Callable[[Servers], AsyncIterator[Sequence[Side]]]) -> None:
        if name in _registered:
            raise ValueError(f"two benchmarks are called {name}: rename one")
        opened = contextlib.asynccontextmanager(open_)
        _registered[name] = Benchmark(name, measures, opened, targets or {}, limits or {}, rounds)

    return register


def registered() -> dict[str, Benchmark]:
    """Import all modules of this package and return the benchmarks that they registered, by name."""
    folder = Path(__file__).parent
    for module in sorted(module.name for module in pkgutil.iter_modules([str(folder)])):
        if module != "__main__" and not module.startswith("test_"):
            importlib.import_module(f"tests.benchmarks.{module}")
    return dict(_registered)


async def measure(
    work: Benchmark, servers: Servers, results: Results, *, rounds: int, tell: Callable[[str], None] = print
) -> Row:
    """Let the sides of a benchmark take turns, and write each round to the results as it comes.

    A side that cannot run, or fails, is out for the rest of this benchmark, and its row says why.
    """
    rounds = work.rounds or rounds
    row = Row(work.name, work.measures, dict(work.targets), dict(work.limits))
    tell(f"\n{work.name}: {work.measures}")
    async with contextlib.AsyncExitStack() as stack:
        async with telling(lambda: "  setting up", tell):
            sides = await stack.enter_async_context(work.open(servers))
        if [side.role for side in sides].count("ours") != 1:
            raise ValueError(f"{work.name}: exactly one side is ours")
        row.sides = [SideRow(side.name, side.role) for side in sides]
        results.put(row)
        for number in range(rounds + 1):
            for side, into in zip(sides, row.sides, strict=True):
                if into.out or number > (side.at_most or rounds):
                    continue
                await _turn(side, into, number, tell)
                results.put(row)
    for line in row.verdicts():
        tell(f"  {line}")
    return row


async def _turn(side: Side, into: SideRow, number: int, tell: Callable[[str], None]) -> None:
    """Let a side have its turn; number 0 is the warm-up."""
    started = time.perf_counter()

    def progress() -> str:
        doing = f"round {number}" if number else "warming up"
        return f"  {side.name}: {doing}, {time.perf_counter() - started:.0f} s so far"

    try:
        if number == 0:
            if side.warm_up is not None:
                async with telling(progress, tell):
                    await side.warm_up()
                tell(f"  {side.name}: warmed up in {time.perf_counter() - started:.1f} s")
            return
        load = os.getloadavg()[0]
        async with telling(progress, tell):
            done = await side.run()
    except NotRun as why:
        into.not_run = str(why)
        tell(f"  {side.name}: not run: {why}")
    except Exception as error:
        into.failed = f"{type(error).__name__}: {error}"
        tell(f"  {side.name}: failed: {into.failed}\n{traceback.format_exc()}")
    else:
        for each in [done] if isinstance(done, Round) else done:
            into.add(each.seconds, each.figures, load)
            beside = ", ".join(f"{name} {value:,.6g}" for name, value in each.figures.items())
            tell(f"  {side.name}: round {number}: {each.seconds:.3f} s{f' ({beside})' if beside else ''}")
