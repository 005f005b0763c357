"""The real use cases in every order of events, within a bound; `make fuzz` goes further."""

import fnmatch
import os
from typing import Any

import pytest

from tests.interleavings import known, workers
from tests.interleavings.scenarios import quick_scenarios

_CORES = os.cpu_count() or 1
_SCHEDULES = 300


@pytest.mark.timeout(1800)
def test_every_pair_of_operations_ends_right_whatever_one_preemption_does() -> None:
    names = [str(scenario) for scenario in quick_scenarios()]
    found = list(workers.run(["worker", "single"], [names[at::_CORES] for at in range(_CORES)]))
    assert sum(each["schedules"] for each in found) > 5000, "too few schedules to prove anything"
    wrong = {each["scenario"]: each["wrong"] for each in found if each["wrong"]}
    stale = [pattern for pattern in known.PAIRS if not fnmatch.filter(wrong, pattern)]
    assert not stale, f"nothing of these is wrong any more: take them out of known.PAIRS: {stale}"
    new = {name: plans for name, plans in wrong.items() if known.failure_of(name) is None}
    assert not new, "\n".join(f"{name}:{plans[0]['plan']}: {plans[0]['before'][0]}" for name, plans in new.items())


@pytest.mark.timeout(600)
def test_failures_that_are_not_mended_are_still_shown_by_their_schedules() -> None:
    schedules = [schedule for named in known.KNOWN.values() for schedule in named]
    for found in _named(schedules):
        assert found["before"], f"{found['schedule']} is right now: move it to known.MENDED"


@pytest.mark.timeout(600)
def test_failures_that_are_mended_stay_so() -> None:
    schedules = [schedule for named in known.MENDED.values() for schedule in named]
    for found in _named(schedules):
        assert not found["before"] and not found["after"], f"{found['schedule']}: {found['before'] or found['after']}"


@pytest.mark.timeout(1800)
def test_random_schedules_end_right() -> None:
    seeds = [str(seed) for seed in range(_SCHEDULES)]
    done = 0
    wrong: dict[str, list[str]] = {}
    for found in workers.run(["random", "--cut", "0"], [seeds[at::_CORES] for at in range(_CORES)]):
        done += found["schedules"]
        if found["wrong"]:
            wrong[found["seed"].partition(":")[0]] = known.unknown(found["before"], found["after"])
    assert done == _SCHEDULES
    unexpected = {seed: sentences for seed, sentences in wrong.items() if sentences}
    assert not unexpected, "\n".join(f"seed {seed}: {sentences[0]}" for seed, sentences in unexpected.items())


def _named(schedules: list[str]) -> list[dict[str, Any]]:
    return list(workers.run(["named"], [schedules])) if schedules else []
