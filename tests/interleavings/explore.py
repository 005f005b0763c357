"""All schedules of a scenario within a bound: of the orders of its calls, only those that can make a difference."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from tests.interleavings.running import Happened, NeverRests, Plan
from tests.interleavings.scenarios import Ran, Scenario, run

# What is tried of a scenario; each has all of the one before it.
BOUNDS: Final = ("single", "faults", "double")


@dataclass(frozen=True)
class Schedule:
    """A scenario and a plan: what `replay` takes."""

    scenario: Scenario
    plan: str = ""

    def __str__(self) -> str:
        return f"{self.scenario}:{self.plan}"

    @classmethod
    def parse(cls, text: str) -> "Schedule":
        """Read a schedule's name."""
        scenario, _, plan = text.partition(":")
        return cls(Scenario.parse(scenario), plan)


@dataclass
class Outcome:
    """What came of one schedule.

    Attributes:
        before: what was wrong at rest.
        after: what was still wrong after a resync.
    """

    schedule: Schedule
    before: Sequence[str]
    after: Sequence[str]
    trace: Sequence[Happened]


def attempt(schedule: Schedule, *, resync: bool = False) -> Outcome:
    """Run a schedule."""
    try:
        ran: Ran = run(schedule.scenario, Plan.parse(schedule.plan), resync=resync)
    except NeverRests as error:
        return Outcome(schedule, [str(error)], [str(error)], error.trace)
    return Outcome(schedule, ran.before, ran.after or [], ran.runner.trace)


def explore(scenario: Scenario, bound: str) -> Iterator[Outcome]:
    """Run a scenario's schedules, each once, and yield what came of them; the first is the one without a deviation.

    Args:
        bound: `single`: one preemption, and messages that waited for it in one batch with later ones. `faults`: also
            one duplicate, or one kill at any point, or a kill right after what follows a preemption. `double`: also two
            preemptions, and after one of them a kill at each point or a duplicate.
    """
    serial = attempt(Schedule(scenario), resync=True)
    yield serial
    first = list(_switches(serial.trace, 1, 0))
    plans = list(first)
    if bound != "single":
        plans += [*_duplicates(serial.trace, 0), *_kills(serial.trace, 0)]
    tried: set[str] = set()
    while plans:
        plan = plans.pop(0)
        if plan in tried:
            continue
        tried.add(plan)
        outcome = attempt(Schedule(scenario, plan))
        yield outcome
        if plan in first:
            plans += [f"{plan},{each}" for each in _after_a_switch(outcome.trace, int(plan[1:]), bound)]


def _after_a_switch(trace: Sequence[Happened], at: int, bound: str) -> Iterator[str]:
    yield from _merges(trace, at)
    if bound == "faults":
        yield from _next_kill(trace, at)
    elif bound == "double":
        yield from _kills(trace, at)
        yield from _duplicates(trace, at)
        for second in _switches(trace, 2, at):
            yield second
            yield second.replace("s", "t")


def _switches(trace: Sequence[Happened], chain: int, since: int) -> Iterator[str]:
    """Yield switches before each of a chain's calls that does not commute with the other chain's that come later."""
    for at, event in enumerate(trace):
        if at <= since or event.chain != chain:
            continue
        others = [other.access for other in trace[at + 1 :] if other.chain != chain and other.access is not None]
        conflicts = event.access is not None and any(event.access.conflicts(other) for other in others)
        if conflicts or (event.delivers and others):
            yield f"s{at}"


def _merges(trace: Sequence[Happened], at: int) -> Iterator[str]:
    """Yield merges with the message whose delivery was put off by a switch, into each later delivery of its queue."""
    late = next((event for event in trace[at:] if event.chain == 1), None)
    for later, event in enumerate(trace):
        if later > at and late is not None and late.delivers and event.delivers == late.delivers and event.chain == 2:
            yield f"m{later}"


def _duplicates(trace: Sequence[Happened], since: int) -> Iterator[str]:
    return (f"d{at}" for at, event in enumerate(trace) if at > since and event.delivers)


def _kills(trace: Sequence[Happened], since: int) -> Iterator[str]:
    """Yield kills after each call that has changed something or sent something, and with a write on its way."""
    for at, event in enumerate(trace):
        if at < since:
            continue
        if event.delivers:
            yield f"k{at + 1}"  # it comes late
        if event.access is not None and (event.sends or (event.access.writes and not event.access.commutes)):
            yield f"k{at + 1}"
    for at, (event, following) in enumerate(pairwise(trace)):
        if at < since or event.access is None or following.access is None or event.chain != following.chain:
            continue
        if following.access.writes and not following.access.commutes:
            yield f"l{at + 1}"


def _next_kill(trace: Sequence[Happened], at: int) -> Iterator[str]:
    """Yield a kill right after the first write that follows once the first chain goes on again."""
    resumed = next((i for i in range(at + 1, len(trace)) if trace[i].chain == 1 and trace[i - 1].chain != 1), None)
    if resumed is None:
        return
    for i in range(resumed, len(trace)):
        access = trace[i].access
        if access is not None and access.writes and not access.commutes:
            yield f"k{i + 1}"
            return
