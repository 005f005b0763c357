"""What was measured: rows that go to a JSON file as they come, and what they say."""

import json
import os
import platform
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

_ENOUGH_FOR_P99: Final = 30


@dataclass
class SideRow:
    """The rounds of one side.

    Attributes:
        seconds: of each round.
        figures: by name, the values of the rounds that gave it.
        load: the machine's load average before each round; other work on it makes rounds slower.
        not_run: why it could not run.
        failed: the error that ended it.
    """

    name: str
    role: str
    seconds: list[float] = field(default_factory=list)
    figures: dict[str, list[float]] = field(default_factory=dict)
    load: list[float] = field(default_factory=list)
    not_run: str = ""
    failed: str = ""

    @property
    def out(self) -> str:
        """Why it has no more rounds; empty while it has."""
        return f"not run: {self.not_run}" if self.not_run else f"failed: {self.failed}" if self.failed else ""

    @property
    def median(self) -> float | None:
        """Of the rounds, in seconds; None without any."""
        return statistics.median(self.seconds) if self.seconds else None

    @property
    def p99(self) -> float | None:
        """Of the rounds, in seconds; None where they are too few to say."""
        if len(self.seconds) < _ENOUGH_FOR_P99:
            return None
        return statistics.quantiles(self.seconds, n=100, method="inclusive")[98]

    def add(self, seconds: float, figures: Mapping[str, float], load: float) -> None:
        """Take a round."""
        self.seconds.append(seconds)
        self.load.append(load)
        for name, value in figures.items():
            self.figures.setdefault(name, []).append(value)


@dataclass
class Row:
    """A benchmark and what its sides took."""

    name: str
    measures: str
    targets: dict[str, float]
    limits: dict[str, float]
    sides: list[SideRow] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=lambda: machine())

    @property
    def ours(self) -> SideRow:
        """Our side."""
        return next(side for side in self.sides if side.role == "ours")

    @property
    def others(self) -> list[SideRow]:
        """The other sides."""
        return [side for side in self.sides if side.role != "ours"]

    def ratio(self, other: SideRow) -> float | None:
        """Return how many times as fast as the other side ours is, by the medians; None unless both have run."""
        return other.median / self.ours.median if other.median is not None and self.ours.median else None

    def pairs(self, other: SideRow) -> list[float]:
        """Return the same ratio, turn by turn."""
        return [theirs / ours for theirs, ours in zip(other.seconds, self.ours.seconds, strict=False) if ours]

    def verdicts(self) -> list[str]:
        """Return what there is to say about this row, a sentence a side and a limit."""
        lines = [_spread(side) for side in self.sides]
        for other in self.others:
            ratio = self.ratio(other)
            target = self.targets.get(other.name)
            if ratio is None:
                continue
            pairs = ", ".join(f"{pair:.2f}" for pair in self.pairs(other)[:10])
            lines.append(f"ours is {ratio:.2f} times as fast as {other.name} (pairs: {pairs}){_verdict(ratio, target)}")
        for figure, limit in self.limits.items():
            worst = max(self.ours.figures.get(figure, ()), default=None)
            if worst is not None:
                lines.append(f"{figure} at most {worst:,.6g}: {'within' if worst <= limit else 'OVER'} {limit:g}")
        return lines

    def as_json(self) -> dict[str, Any]:
        """Return what the file holds: the measured values, and what follows from them."""
        data = asdict(self)
        for into, side in zip(data["sides"], self.sides, strict=True):
            into["median"], into["p99"] = side.median, side.p99
            if side.role != "ours":
                into["ratio"], into["pairs"] = self.ratio(side), self.pairs(side)
        return data


def machine() -> dict[str, Any]:
    """Return when and on what this is measured."""
    return {
        "at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "kernel": platform.release(),
    }


class Results:
    """The rows of a JSON file: those of earlier runs stay until the same benchmark is measured again."""

    def __init__(self, path: Path) -> None:
        """Read the file, if there is one.

        Raises:
            ValueError: the file is not ours.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.rows = self._read()

    def put(self, row: Row) -> None:
        """Write a row as it is by now, beside what other runs have written meanwhile."""
        self.rows = {**self._read(), row.name: row}
        fresh = self.path.with_suffix(".new")
        fresh.write_text(json.dumps({"benchmarks": [row.as_json() for row in self.rows.values()]}, indent=1) + "\n")
        fresh.replace(self.path)

    def _read(self) -> dict[str, Row]:
        if not self.path.exists():
            return {}
        try:
            return {row["name"]: _read(row) for row in json.loads(self.path.read_text())["benchmarks"]}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.path} is not a file of results ({error}): move it away") from error


def _read(row: dict[str, Any]) -> Row:
    fields = ("name", "role", "seconds", "figures", "load", "not_run", "failed")
    sides = [SideRow(**{name: side[name] for name in fields}) for side in row["sides"]]
    return Row(row["name"], row["measures"], row["targets"], row["limits"], sides, row["machine"])


def _spread(side: SideRow) -> str:
    median = side.median
    if median is None:
        return f"{side.name}: {side.out or 'no round yet'}"
    p99 = f", p99 {side.p99:.3f}" if side.p99 is not None else ""
    told = f"median {median:.3f} s{p99}, {min(side.seconds):.3f} to {max(side.seconds):.3f}, {len(side.seconds)} rounds"
    return f"{side.name}: {told}{f'; then {side.out}' if side.out else ''}"


def _verdict(ratio: float, target: float | None) -> str:
    return "" if target is None else f": {'reached' if ratio >= target else 'MISSED'}, the target is {target:g}"
