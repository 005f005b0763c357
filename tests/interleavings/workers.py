"""Processes that run schedules, one a core: each has clocks, chance and hashes of its own."""

import json
import os
import queue
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from tests.interleavings import fuzz, seams, world
from tests.interleavings.explore import Schedule, attempt, explore
from tests.interleavings.scenarios import Scenario

_PER_LINE: Final = 20  # schedules in which nothing is wrong
_ROOT: Final = Path(__file__).parents[2]
_ENVIRONMENT: Final = {
    "PYTHONHASHSEED": "0",  # the order of sets is part of a schedule
    "POWERTOOLS_SERVICE_NAME": "interleavings",
    "POWERTOOLS_TRACE_DISABLED": "true",
}


def environment() -> dict[str, str]:
    """Return the environment of a process that runs schedules."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LANDFALL_", "AWS_"))}
    return {**kept, **_ENVIRONMENT}


def prepare() -> None:
    """Make this process one that runs schedules."""
    for name in (*(name for name, _ in world.FUNCTIONS.values()), "resync"):
        world.function(name)
    seams.install()


def systematic(scenarios: Sequence[Scenario], bound: str) -> None:
    """Explore scenarios, and print a line of JSON for each."""
    for scenario in scenarios:
        schedules, wrong = 0, []
        for outcome in explore(scenario, bound):
            schedules += 1
            if outcome.before:
                wrong.append({"plan": outcome.schedule.plan, "before": outcome.before, "after": outcome.after})
        print(json.dumps({"scenario": str(scenario), "schedules": schedules, "wrong": wrong}), flush=True)


def named(schedules: Sequence[str]) -> None:
    """Run schedules by their names, and print a line of JSON for each."""
    for schedule in schedules:
        outcome = attempt(Schedule.parse(schedule))
        told = {"schedule": schedule, "before": outcome.before, "after": outcome.after}
        print(json.dumps(told), flush=True)


def random_schedules(seeds: Sequence[str], cut: int) -> None:
    """Run random schedules, and print a line of JSON for each failing one and for every few others.

    Args:
        cut: how many failing ones are cut to the fewest draws that fail, and shown.
    """
    quiet = 0
    for seed in seeds:
        found = fuzz.attempt(seed)
        if not found.after and not found.before:
            quiet += 1
            if quiet == _PER_LINE:
                print(json.dumps({"schedules": quiet, "wrong": False}), flush=True)
                quiet = 0
            continue
        trace: Sequence[str] = ()
        if cut:
            cut -= 1
            found = fuzz.minimal(seed)
            trace = found.trace
        told = {"seed": found.name, "before": found.before, "after": found.after, "trace": trace}
        print(json.dumps({"schedules": 1, "wrong": True, **told}), flush=True)
    print(json.dumps({"schedules": quiet, "wrong": False}), flush=True)


def run(command: Sequence[str], jobs: Sequence[Sequence[str]]) -> Iterator[dict[str, Any]]:
    """Run one process for each job, side by side, and yield what they print.

    Args:
        command: of `python -m tests.interleavings`.
        jobs: lines of input for each process.

    Raises:
        RuntimeError: a process has failed.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.interleavings", *command],
            cwd=_ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in jobs
    ]
    for process, lines in zip(processes, jobs, strict=True):
        assert process.stdin is not None
        process.stdin.write("\n".join(lines))
        process.stdin.close()
    with ThreadPoolExecutor(len(processes)) as threads:
        found: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        for process in processes:
            threads.submit(_read, process, found)
        ended = 0
        while ended < len(processes):
            line = found.get()
            if line is None:
                ended += 1
            else:
                yield line
    for process in processes:
        if process.wait():
            raise RuntimeError(f"a process that runs schedules ended with status {process.returncode}")


def _read(process: "subprocess.Popen[str]", found: "queue.SimpleQueue[dict[str, Any] | None]") -> None:
    assert process.stdout is not None
    try:
        for line in process.stdout:
            found.put(json.loads(line))
    finally:
        process.stdout.close()
        found.put(None)
