"""The alarms' arithmetic: what the functions measure, as log lines, through the alarms as the template has them."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.local.template import _Loader
from shared.observability import count_by_function, count_in_cluster, flush_measured, metrics
from shared.reconcile.changes import _count_heartbeat
from shared.settings import Settings
from tests.infra.cloudwatch import ALARM, INSUFFICIENT_DATA, OK, Alarm, Value, values
from tests.infra.resolved import Resolver

TEMPLATE: dict[str, Any] = yaml.load(Path("template.yaml").read_text(), _Loader)
STACK = "production-landfall"
MINUTE, HOUR, DAY = 60, 3600, 86400
BEGIN = 1_700_000_000 // DAY * DAY  # a midnight; measured times are not round

Measure = Callable[[float, Callable[[], None]], None]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[list[Value]]:
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", STACK)
    monkeypatch.setattr(metrics.provider, "service", STACK)  # it was made when the module was imported
    flush_measured()
    capsys.readouterr()
    yield []


@pytest.fixture
def at(measured: list[Value], capsys: pytest.CaptureFixture[str]) -> Measure:
    """Lets something be measured at a moment, in seconds after BEGIN."""

    def run(seconds: float, what: Callable[[], None]) -> None:
        what()
        flush_measured()
        measured.extend(values(capsys.readouterr().out.splitlines(), BEGIN + seconds))

    return run


def alarm(id_: str, **given: str) -> Alarm:
    return Alarm.of(TEMPLATE, id_, STACK, given)


def states(of: Alarm, measured: Sequence[Value], end: float) -> dict[float, str]:
    """Return the states by seconds after BEGIN."""
    return {at - BEGIN: state for at, state in of.states(measured, BEGIN, BEGIN + end).items()}


def changes(found: Mapping[float, str]) -> list[str]:
    """Return the states in their order, each once for as long as it lasts."""
    told = list(found.values())
    return [state for place, state in enumerate(told) if place == 0 or told[place - 1] != state]


# "Configuring how CloudWatch alarms treat missing data": 0 is a point within the threshold, X a breaching one.
# Columns: missing, ignore, breaching, notBreaching; "kept" is the state before.
GUIDE = [
    (3, 3, "0-X-X", (OK, OK, OK, OK)),
    (3, 3, "0----", (OK, OK, OK, OK)),
    (3, 3, "-----", (INSUFFICIENT_DATA, "kept", ALARM, OK)),
    (3, 3, "0XX-X", (ALARM, ALARM, ALARM, ALARM)),
    (3, 3, "--X--", (ALARM, "kept", ALARM, OK)),
    (2, 3, "0-X-X", (ALARM, ALARM, ALARM, ALARM)),
    (2, 3, "00X0X", (ALARM, ALARM, ALARM, ALARM)),
    (2, 3, "0-X--", (OK, OK, ALARM, OK)),
    (2, 3, "----0", (OK, OK, ALARM, OK)),
    (2, 3, "---X-", (ALARM, "kept", ALARM, OK)),
]


@pytest.mark.parametrize(
    ("of", "periods", "points", "expected"), GUIDE, ids=[f"{m} of {n}: {p}" for m, n, p, _ in GUIDE]
)
def test_the_evaluator_does_what_the_guide_shows(of: int, periods: int, points: str, expected: tuple[str, ...]) -> None:
    span = [{"0": 0.0, "X": 1.0, "-": None}[point] for point in points]
    for missing, state in zip(("missing", "ignore", "breaching", "notBreaching"), expected, strict=True):
        one = alarm("DestinationsNotReadyAlarm")
        one = Alarm(one.series, one.expression, "GreaterThanThreshold", 0.0, periods, of, missing)
        assert one.evaluate(span, "kept") == state, missing


UNREADY = {
    "DestinationsNotReadyAlarm": "DestinationsNotReady",
    "StateStoresNotReadyAlarm": "StateStoresNotReady",
    "WorkPlacementsFailingAlarm": "WorkPlacementsFailing",
}


@pytest.mark.parametrize("interval", [MINUTE, 10 * MINUTE, 12 * HOUR], ids=["a minute", "10 minutes", "12 hours"])
@pytest.mark.parametrize("id_", UNREADY)
def test_one_that_is_not_ready_in_any_cluster_alarms_from_the_resync_that_sees_it_to_the_one_that_does_not(
    id_: str, interval: int, at: Measure, measured: list[Value]
) -> None:
    def resync(north: int, south: int) -> Callable[[], None]:
        def run() -> None:
            count_in_cluster("north", {UNREADY[id_]: north})
            count_in_cluster("south", {UNREADY[id_]: south})

        return run

    for number, (north, south) in enumerate([(0, 0), (0, 0), (0, 3), (0, 2), (0, 0), (0, 0)]):
        at(number * interval + 17, resync(north, south))
    found = states(alarm(id_), measured, 6 * interval)
    assert changes(found) == [OK, ALARM, OK]
    in_alarm = [moment for moment, state in found.items() if state == ALARM]
    assert (min(in_alarm), max(in_alarm)) == (2 * interval + MINUTE, 4 * interval)


@pytest.mark.parametrize("id_", UNREADY)
def test_a_cluster_of_another_stack_raises_no_alarm_here(
    id_: str, at: Measure, measured: list[Value], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POWERTOOLS_SERVICE_NAME", "another-stack")
    at(17, lambda: count_in_cluster("north", {UNREADY[id_]: 1}))
    assert measured
    assert changes(states(alarm(id_), measured, 10 * MINUTE)) == [OK]


def heartbeats(cluster: str, minutes: range, *, seed: int = 1) -> Iterator[tuple[float, Callable[[], None]]]:
    """Yield a forwarder's heartbeats, each up to a second late, as SQS and Lambda bring them."""
    settings = Settings.from_environment(
        {"LANDFALL_CLUSTERS": "{north: {kubeconfig: /a}, south: {kubeconfig: /b}, east: {kubeconfig: /c}}"}
    )
    late = random.Random(seed)
    for minute in minutes:
        yield minute * MINUTE + seed * 13 % 60 + late.random(), lambda: _count_heartbeat(cluster, settings)


def beat(at: Measure, *given: Iterator[tuple[float, Callable[[], None]]]) -> None:
    for heartbeat in given:
        for moment, send in heartbeat:
            at(moment, send)


def test_forwarders_that_are_heard_raise_no_alarm_also_over_restarts(at: Measure, measured: list[Value]) -> None:
    for seed, cluster in enumerate(("north", "south", "east"), 1):
        restart = 30 * seed
        beat(at, heartbeats(cluster, range(restart), seed=seed))
        beat(at, heartbeats(cluster, range(restart + 2, 240), seed=seed))
    assert changes(states(alarm("ForwarderSilentAlarm", ForwarderCount="3"), measured, 240 * MINUTE)) == [OK]


@pytest.mark.parametrize("clusters", [("north",), ("north", "south", "east")], ids=["of one", "of three"])
def test_a_forwarder_that_falls_silent_alarms_after_a_quarter_of_an_hour_until_it_is_heard_again(
    clusters: tuple[str, ...], at: Measure, measured: list[Value]
) -> None:
    for seed, cluster in enumerate(clusters, 1):
        silent = cluster == clusters[-1]
        beat(at, heartbeats(cluster, range(60 if silent else 180), seed=seed))
        if silent:
            beat(at, heartbeats(cluster, range(120, 180), seed=seed))
    found = states(alarm("ForwarderSilentAlarm", ForwarderCount=str(len(clusters))), measured, 180 * MINUTE)
    assert changes(found) == [OK, ALARM, OK]
    begins = min(moment for moment, state in found.items() if state == ALARM)
    assert 70 * MINUTE <= begins <= 80 * MINUTE
    assert max(moment for moment, state in found.items() if state == ALARM) <= 130 * MINUTE


def test_a_forwarder_that_was_never_heard_alarms(measured: list[Value]) -> None:
    assert states(alarm("ForwarderSilentAlarm"), measured, 20 * MINUTE)[20 * MINUTE] == ALARM


def test_where_no_forwarder_sends_heartbeats_there_is_no_alarm_about_it() -> None:
    condition = {"Condition": TEMPLATE["Resources"]["ForwarderSilentAlarm"]["Condition"]}
    for count, there in (("0", False), ("1", True), ("12", True)):
        resolver = Resolver(TEMPLATE, STACK, {"ForwarderCount": count})
        assert resolver.true(condition) is there


RATES = {
    "rate(1 minute)": MINUTE,
    "rate(10 minutes)": 10 * MINUTE,
    "rate(90 minutes)": 90 * MINUTE,
    "rate(720 minutes)": 12 * HOUR,
    "rate(1 hour)": HOUR,
    "rate(12 hours)": 12 * HOUR,
    "rate(1 day)": DAY,
    "rate(3 days)": 3 * DAY,
}


@pytest.mark.parametrize("schedule", RATES)
def test_a_missing_resync_alarms_after_two_more_should_have_been_and_a_punctual_one_never(
    schedule: str, at: Measure, measured: list[Value]
) -> None:
    def tick() -> None:
        count_by_function("Ticks", 1, f"{STACK}-resync")
        metrics.flush_metrics()

    interval, late = RATES[schedule], random.Random(7)
    of = alarm("ResyncMissingAlarm", ResyncSchedule=schedule)
    for number in (*range(30), *range(60, 70)):
        at(number * interval + 11 + late.random() * 5, tick)
    found = states(of, measured, 70 * interval)
    in_alarm = [moment for moment, state in found.items() if state == ALARM]
    last, back = 29 * interval, 60 * interval
    assert last + 2 * interval <= min(in_alarm) <= last + 3 * interval + 4 * of.period
    assert max(in_alarm) <= back + of.period
    assert changes(found) == [OK, ALARM, OK]


@pytest.mark.parametrize("schedule", RATES)
def test_a_missing_resyncs_alarm_looks_no_further_back_than_cloudwatch_does(schedule: str) -> None:
    """PutMetricAlarm: periods of whole minutes; a day together, or a week where each is an hour or more."""
    of = alarm("ResyncMissingAlarm", ResyncSchedule=schedule)
    assert of.period % MINUTE == 0
    assert of.period * of.evaluation_periods == 2 * RATES[schedule]
    assert of.period * of.evaluation_periods <= (7 * DAY if of.period >= HOUR else DAY)


def test_there_is_no_alarm_for_a_schedule_of_which_nobody_knows_the_next_moment() -> None:
    condition = {"Condition": TEMPLATE["Resources"]["ResyncMissingAlarm"]["Condition"]}
    for schedule, there in {**dict.fromkeys(RATES, True), "cron(0/10 * * * ? *)": False}.items():
        resolver = Resolver(TEMPLATE, STACK, {"ResyncSchedule": schedule})
        assert resolver.true(condition) is there
