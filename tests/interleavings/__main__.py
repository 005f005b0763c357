"""`python -m tests.interleavings`: explore scenarios, fuzz, or replay one schedule and show what happened in it."""

import argparse
import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from tests.interleavings import fuzz, known, simulate, workers
from tests.interleavings.explore import BOUNDS, Schedule, attempt
from tests.interleavings.scenarios import Scenario, all_scenarios, quick_scenarios

_TRACES: Final = Path(__file__).parents[2] / ".landfall" / "fuzz"
_CORES: Final = os.cpu_count() or 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is asked, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.interleavings", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    systematic = commands.add_parser("systematic", help="explore pairs of operations")
    systematic.add_argument("--bound", choices=BOUNDS, default="single")
    systematic.add_argument("--quick", action="store_true", help="on one kind of State Store a mode, as make test does")
    systematic.add_argument("--only", default="", help="scenarios whose name has all of these, separated by spaces")
    replay = commands.add_parser("replay", help="run one schedule, and print its events")
    replay.add_argument("schedule", help="as it was printed")
    random_schedules = commands.add_parser("fuzz", help="run random schedules; failing ones are cut short")
    random_schedules.add_argument("--schedules", type=int, default=2000)
    random_schedules.add_argument("--seed", type=int, default=0, help="of the first one; the others follow")
    random_worker = commands.add_parser("random", help="run the random schedules of the seeds on standard input")
    random_worker.add_argument("--cut", type=int, default=3, help="how many failing ones are cut short")
    commands.add_parser("named", help="run the schedules on standard input")
    simulate.add_arguments(commands.add_parser("simulate", help="how long changes of a fleet take, and what they cost"))
    worker = commands.add_parser("worker", help="explore the scenarios on standard input")
    worker.add_argument("bound", choices=BOUNDS)
    chosen = parser.parse_args(arguments)
    if chosen.command == "systematic":
        return _systematic(chosen.bound, quick_scenarios() if chosen.quick else all_scenarios(), chosen.only.split())
    if chosen.command == "fuzz":
        return _fuzz(chosen.schedules, chosen.seed)
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.execve(sys.executable, [sys.executable, "-m", "tests.interleavings", *sys.argv[1:]], workers.environment())
    workers.prepare()
    if chosen.command == "simulate":
        return simulate.main(chosen)
    if chosen.command == "replay":
        return _replay(chosen.schedule)
    lines = sys.stdin.read().split()
    if chosen.command == "named":
        workers.named(lines)
    elif chosen.command == "random":
        workers.random_schedules(lines, chosen.cut)
    else:
        workers.systematic([Scenario.parse(line) for line in lines], chosen.bound)
    return 0


def _systematic(bound: str, scenarios: Iterable[Scenario], only: Sequence[str]) -> int:
    chosen = [str(scenario) for scenario in scenarios if all(part in str(scenario) for part in only)]
    began, schedules, failed = time.monotonic(), 0, 0
    for found in workers.run(["worker", bound], [chosen[at::_CORES] for at in range(_CORES)]):
        schedules += found["schedules"]
        wrong = found["wrong"]
        number = known.failure_of(found["scenario"])
        failed += bool(wrong) and not number
        lasting = [each for each in wrong if each["after"]]
        told = f"{found['schedules']} schedules, {len(wrong)} wrong, {len(lasting)} of them after a resync, too"
        print(f"{found['scenario']}: {told}{f' (failure {number} is not mended)' if wrong and number else ''}")
        for each in (lasting or wrong)[:2]:
            print(f"    {found['scenario']}:{each['plan']}  {each['before'][0][:300]}")
        sys.stdout.flush()
    seconds = time.monotonic() - began
    print(f"{schedules} schedules of {len(chosen)} scenarios in {seconds:.0f} s, {schedules / seconds:.0f} a second")
    return 1 if failed else 0


def _fuzz(schedules: int, seed: int) -> int:
    seeds = [str(number) for number in range(seed, seed + schedules)]
    began, shown, done, wrong = time.monotonic(), time.monotonic(), 0, 0
    for found in workers.run(["random"], [seeds[at::_CORES] for at in range(_CORES)]):
        done += found["schedules"]
        if found["wrong"]:
            wrong += 1
            print(f"seed {found['seed']}: {(found['before'] or found['after'])[0][:300]}")
            print(f"    after a resync: {found['after'][0][:300] if found['after'] else 'nothing is wrong'}")
            if found["trace"]:
                _TRACES.mkdir(parents=True, exist_ok=True)
                trace = _TRACES / f"{found['seed'].replace(':', '-')}.txt"
                trace.write_text("\n".join(found["trace"]) + "\n")
                print(f"    its events, from the fewest draws that fail: {trace}")
            print(f"    to run it again: {sys.executable} -m tests.interleavings replay {found['seed']}")
        if time.monotonic() - shown > 10:
            shown = time.monotonic()
            print(f"{done} schedules, {done / (shown - began):.0f} a second, {wrong} wrong")
        sys.stdout.flush()
    seconds = time.monotonic() - began
    print(f"{done} schedules in {seconds:.0f} s, {done / seconds:.0f} a second, {wrong} wrong")
    return 1 if wrong else 0


def _replay_random(name: str) -> int:
    found = fuzz.attempt(name)
    print("\n".join(found.trace))
    return _judged(found.before, found.after)


def _judged(before: Sequence[str], after: Sequence[str]) -> int:
    for name, sentences in (("at rest", before), ("after a resync", after)):
        print(f"{name}: {'nothing is wrong' if not sentences else ''}")
        for sentence in sentences:
            print(f"    {sentence}")
    return 1 if before or after else 0


def _replay(text: str) -> int:
    if "/" not in text:
        return _replay_random(text)
    outcome = attempt(Schedule.parse(text), resync=True)
    for number, event in enumerate(outcome.trace):
        print(f"{number:4} {event.chain} {event.what}")
    return _judged(outcome.before, outcome.after)


if __name__ == "__main__":
    sys.exit(main())
