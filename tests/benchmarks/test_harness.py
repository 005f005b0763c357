"""Ratios, rows and reports, and what becomes of a side that cannot run."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.benchmarks import bill
from tests.benchmarks.harness import Benchmark, NotRun, Role, Round, Side, measure, registered
from tests.benchmarks.report import growth, markdown, page, write_report
from tests.benchmarks.results import Results, Row, SideRow
from tests.benchmarks.servers import ROOT, Servers


def said(*seconds: float, **figures: float) -> Callable[[], Awaitable[Round]]:
    left = list(seconds)

    async def run() -> Round:
        return Round(left.pop(0), figures)

    return run


def made(*sides: Side, targets: dict[str, float] | None = None, limits: dict[str, float] | None = None) -> Benchmark:
    @asynccontextmanager
    async def open_(servers: Servers) -> AsyncIterator[Sequence[Side]]:
        yield sides

    return Benchmark("work", "A thing, from its beginning to its end", open_, targets or {}, limits or {})


async def measured(folder: Path, work: Benchmark, rounds: int = 3, told: list[str] | None = None) -> Row:
    with Servers(folder) as servers:
        tell = ([] if told is None else told).append
        return await measure(work, servers, Results(folder / "results.json"), rounds=rounds, tell=tell)


async def test_sides_take_turns_after_one_warm_up_each(tmp_path: Path) -> None:
    order: list[str] = []

    def side(name: str, role: Role) -> Side:
        async def run() -> Round:
            order.append(name)
            return Round(1)

        async def warm_up() -> None:
            order.append(f"{name} warms up")

        return Side(name, run, role, warm_up, at_most=2 if name == "slow" else None)

    await measured(tmp_path, made(side("ours", "ours"), side("slow", "peer")))
    assert order == ["ours warms up", "slow warms up", "ours", "slow", "ours", "slow", "ours"]


async def test_the_ratio_is_of_medians_and_pairs_are_told_turn_by_turn(tmp_path: Path) -> None:
    sides = Side("ours", said(1, 2, 9), "ours"), Side("peer", said(10, 40, 18)), Side("floor", said(1, 1, 1), "floor")
    told: list[str] = []
    row = await measured(tmp_path, made(*sides, targets={"peer": 9, "floor": 1}), told=told)
    peer, floor = row.others
    assert row.ratio(peer) == 9
    assert row.pairs(peer) == [10, 20, 2]
    assert row.ratio(floor) == 0.5
    assert "  ours is 9.00 times as fast as peer (pairs: 10.00, 20.00, 2.00): reached, the target is 9" in told
    assert any("floor" in line and "MISSED, the target is 1" in line for line in told)


async def test_a_side_that_cannot_run_says_why_and_no_number_stands_for_it(tmp_path: Path) -> None:
    missing = Side.missing("kratix", "KRATIX_BIN is not set: build it")
    row = await measured(tmp_path, made(Side("ours", said(1, 1, 1), "ours"), missing, targets={"kratix": 2}))
    assert row.ratio(row.others[0]) is None
    assert row.others[0].seconds == []
    for report in (markdown([row]), page([row])):
        assert "not run: KRATIX_BIN is not set: build it" in report
        assert "reached" not in report


async def test_a_side_that_fails_later_is_out_keeps_its_rounds_and_does_not_stop_the_others(tmp_path: Path) -> None:
    async def run() -> Round:
        if first:
            return first.pop()
        raise RuntimeError("the disk is full")

    first = [Round(4)]
    row = await measured(tmp_path, made(Side("peer", run), Side("ours", said(1, 1, 1), "ours")))
    peer = row.sides[0]
    assert peer.seconds == [4]
    assert peer.failed == "RuntimeError: the disk is full"
    assert row.ours.seconds == [1, 1, 1]
    assert "the disk is full" in markdown([row])


async def test_a_warm_up_that_cannot_be_had_means_not_run(tmp_path: Path) -> None:
    async def warm_up() -> None:
        raise NotRun("rclone is not installed")

    row = await measured(tmp_path, made(Side("rclone", said(), warm_up=warm_up), Side("ours", said(1, 1, 1), "ours")))
    assert row.sides[0].not_run == "rclone is not installed"


async def test_a_limit_holds_for_the_worst_round(tmp_path: Path) -> None:
    grown = [150.0, 210.0, 160.0]

    async def run() -> Round:
        return Round(1, {"peak_mb": grown.pop(0)})

    row = await measured(tmp_path, made(Side("ours", run, "ours"), limits={"peak_mb": 200}))
    assert "peak_mb at most 210: OVER 200" in row.verdicts()


async def test_rows_are_in_the_file_as_they_come_and_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    Results(path).put(Row("earlier", "Something else", {}, {}, [SideRow("ours", "ours", [3.0])]))
    seen: list[int] = []

    async def run() -> Round:
        seen.append(len(json.loads(path.read_text())["benchmarks"][1]["sides"][0]["seconds"]))
        return Round(2, {"commits": 1})

    await measured(tmp_path, made(Side("ours", run, "ours")))
    assert seen == [0, 1, 2]
    again = Results(path)
    assert list(again.rows) == ["earlier", "work"]
    assert again.rows["work"].ours.figures == {"commits": [1, 1, 1]}
    assert again.rows["earlier"].ours.median == 3


def test_a_file_of_someone_else_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text('{"name": "something else"}')
    with pytest.raises(ValueError, match="not a file of results"):
        Results(path)


def test_p99_is_told_from_30_rounds_on() -> None:
    few, many = SideRow("few", "ours", [1.0] * 29), SideRow("many", "ours", [float(n) for n in range(101)])
    assert few.p99 is None
    assert many.p99 == pytest.approx(99)


def test_the_page_needs_nothing_else_and_escapes_what_it_shows(tmp_path: Path) -> None:
    sides = [SideRow("ours", "ours", [1.0, 2.0]), SideRow("<peer>", "peer", [3.0, 5.0], {"commits": [7]})]
    results = Results(tmp_path / "results.json")
    results.put(Row("work", "A < B", {"<peer>": 2}, {}, sides))
    told, shown = (path.read_text() for path in write_report(results))
    assert "| work | 1.500 | <peer> | 4.000 | 2.67 | 2 | reached |" in told
    assert "&lt;peer&gt;" in shown
    assert "<peer>" not in shown
    assert shown.count("<rect") == 2
    assert "http" not in shown


def test_every_registered_benchmark_says_what_it_measures_and_against_whom() -> None:
    known = registered()
    assert known
    for work in known.values():
        assert work.measures
        assert not work.measures.endswith("."), "the report ends the sentence"


def test_rows_of_growing_fleets_become_curves(tmp_path: Path) -> None:
    rows = []
    for size in (100, 1000):
        ours = SideRow("ours", "ours", [0.1], {"relabel_seconds": [size / 1000], "relabel_read_kb": [0.0]})
        rows.append(Row(f"growth-bucket-{size}", "It grows", {}, {}, [ours]))
    drawn = growth(rows)
    assert len(drawn) == 1, "what is 0 has no place on a logarithmic axis"
    assert "ours: relabel" in drawn[0]
    assert drawn[0] in page(rows)
    assert growth([Row("growth-bucket", "no size", {}, {}, [])]) == []


def test_the_bill_in_the_documentation_is_the_one_that_is_computed() -> None:
    assert bill.table() in (ROOT / "docs" / "scale.md").read_text()
    assert bill.PLOT.read_text() == bill.plot()
    assert sum(bill.month(100_000).values()) > 10 * sum(bill.month(1000).values())
