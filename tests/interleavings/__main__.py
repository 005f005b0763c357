"""`python -m tests.interleavings`: explore scenarios, fuzz, or replay one schedule and show what happened in it."""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from typing import Final

from tests.interleavings import workers
from tests.interleavings.explore import BOUNDS, Schedule, attempt
from tests.interleavings.scenarios import Scenario, all_scenarios

_CORES: Final = os.cpu_count() or 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is asked, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.interleavings", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    systematic = commands.add_parser("systematic", help="explore pairs of operations")
    systematic.add_argument("--bound", choices=BOUNDS, default="single")
    systematic.add_argument("--only", default="", help="scenarios whose name has all of these, separated by spaces")
    replay = commands.add_parser("replay", help="run one schedule, and print its events")
    replay.add_argument("schedule", help="as it was printed")
    worker = commands.add_parser("worker", help="explore the scenarios on standard input")
    worker.add_argument("bound", choices=BOUNDS)
    chosen = parser.parse_args(arguments)
    if chosen.command == "systematic":
        return _systematic(chosen.bound, chosen.only.split())
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(sys.executable, [sys.executable, "-m", "tests.interleavings", *sys.argv[1:]], workers.environment())
    workers.prepare()
    if chosen.command == "replay":
        return _replay(chosen.schedule)
    workers.systematic([Scenario.parse(line) for line in sys.stdin.read().split()], chosen.bound)
    return 0


def _systematic(bound: str, only: Sequence[str]) -> int:
    chosen = [str(scenario) for scenario in all_scenarios() if all(part in str(scenario) for part in only)]
    began, schedules, failed = time.monotonic(), 0, 0
    for found in workers.run(["worker", bound], [chosen[at::_CORES] for at in range(_CORES)]):
        schedules += found["schedules"]
        wrong = found["wrong"]
        failed += bool(wrong)
        lasting = [each for each in wrong if each["after"]]
        print(f"{found['scenario']}: {found['schedules']} schedules, {len(wrong)} wrong, {len(lasting)} after a resync, too")
        for each in (lasting or wrong)[:2]:
            print(f"    {found['scenario']}:{each['plan']}  {each['before'][0][:300]}")
        sys.stdout.flush()
    seconds = time.monotonic() - began
    print(f"{schedules} schedules of {len(chosen)} scenarios in {seconds:.0f} s, {schedules / seconds:.0f} a second")
    return 1 if failed else 0


def _replay(text: str) -> int:
    outcome = attempt(Schedule.parse(text), resync=True)
    for number, event in enumerate(outcome.trace):
        print(f"{number:4} {event.chain} {event.what}")
    for name, found in (("at rest", outcome.before), ("after a resync", outcome.after)):
        print(f"{name}: {'nothing is wrong' if not found else ''}")
        for sentence in found:
            print(f"    {sentence}")
    return 1 if outcome.before else 0


if __name__ == "__main__":
    sys.exit(main())
