"""What is counted and measured about readiness: the numbers that alarms and the dashboard look at."""

import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared import conditions
from shared.messages import Reference, Verdict
from shared.observability import flush_measured, measure
from shared.reconcile.readiness import Unready, measure_ready

LATE = 300
Obj = dict[str, Any]


def ago(seconds: float) -> str:
    return conditions.rfc3339(datetime.now(UTC) - timedelta(seconds=seconds))


def made(name: str, ready: str | None, seconds: float, **metadata: Any) -> Obj:
    """Return a Destination or a State Store whose Ready, or which itself where it has none, is so old."""
    since = ago(seconds)
    told = [{"type": "Ready", "status": ready, "lastTransitionTime": since}] if ready else []
    created = since if ready is None else "2026-01-01T00:00:00Z"
    return {
        "metadata": {"name": name, "creationTimestamp": created, **metadata},
        "status": {"conditions": [{"type": "Other", "status": "False"}, *told]},
    }


def placement(name: str, status: str, seconds: float, *, column: str = "status", **metadata: Any) -> Obj:
    """Return a WorkPlacement as a list with columns has it, whose status was written so long ago."""
    told = {"name": name, "creationTimestamp": ago(20_000), **metadata}
    return {"metadata": told, "cells": {"name": name, column: status}, "status_changed": ago(seconds)}


# Made in the test itself: what is a minute old when tests are collected is older when this one runs.
CASES = [
    pytest.param(lambda: made("d", "True", 3600), 0, id="ready"),
    pytest.param(lambda: made("d", "False", 3600), 1, id="not ready for an hour"),
    pytest.param(lambda: made("d", "Unknown", 3600), 1, id="unknown for an hour"),
    pytest.param(lambda: made("d", "False", 60), 0, id="not ready for a minute"),
    pytest.param(lambda: made("d", None, 3600), 1, id="without a verdict for an hour"),
    pytest.param(lambda: made("d", None, 60), 0, id="new"),
    pytest.param(lambda: made("d", "False", 3600, deletionTimestamp="2026-01-01T00:00:00Z"), 0, id="being deleted"),
]
PLACEMENTS = [
    pytest.param(lambda: placement("p", "Ready", 3600), 0, id="ready"),
    pytest.param(lambda: placement("p", "Failing", 3600), 1, id="failing for an hour"),
    pytest.param(lambda: placement("p", "Failing", 60), 0, id="failing for a minute"),
    pytest.param(lambda: placement("p", "Misplaced", 3600), 0, id="misplaced"),
    pytest.param(lambda: placement("p", "Pending", 3600), 0, id="pending"),
    pytest.param(lambda: placement("p", "", 3600), 0, id="without a status"),
    pytest.param(lambda: placement("p", "Failing", 3600, deletionTimestamp=ago(5)), 0, id="failing, being deleted"),
    pytest.param(
        lambda: {**placement("p", "Failing", 0), "status_changed": ""}, 1, id="failing, nobody knows since when"
    ),
]


def printed(capsys: pytest.CaptureFixture[str]) -> list[Obj]:
    flush_measured()
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def count(cluster: str, **pages: list[Obj]) -> None:
    """Record what is not Ready, each object a page of its own."""
    unready = Unready(cluster, LATE)
    for kind, objects in pages.items():
        for obj in objects:
            getattr(unready, kind)([obj])
    unready.record()


def counted(capsys: pytest.CaptureFixture[str]) -> dict[str | None, Obj]:
    """Return the metrics that were written to the log, by their dimension `cluster`."""
    return {line.get("cluster"): line for line in printed(capsys)}


@pytest.mark.parametrize(("one", "late"), CASES)
def test_only_what_has_not_been_ready_for_a_while_counts(
    one: Callable[[], Obj], late: int, capsys: pytest.CaptureFixture[str]
) -> None:
    count("edge", destinations=[one()])
    told = counted(capsys)["edge"]
    assert (told["DestinationsNotReady"], told["StateStoresNotReady"]) == ([late], [0])
    count("edge", state_stores=[one()])
    told = counted(capsys)["edge"]
    assert (told["DestinationsNotReady"], told["StateStoresNotReady"]) == ([0], [late])


@pytest.mark.parametrize(("one", "failing"), PLACEMENTS)
def test_only_a_work_placement_that_has_failed_for_a_while_counts(
    one: Callable[[], Obj], failing: int, capsys: pytest.CaptureFixture[str]
) -> None:
    count("edge", placements=[one(), placement("other", "Ready", 1)])
    assert counted(capsys)["edge"]["WorkPlacementsFailing"] == [failing]


def test_where_the_list_has_no_column_for_it_failing_work_placements_are_not_counted_as_none(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An older Kratix's definition: no number is better than a wrong one."""
    count("edge", placements=[placement("p", "1h", 3600, column="age")])
    told = counted(capsys)
    assert "WorkPlacementsFailing" not in told["edge"]
    assert told["edge"]["StateStoresNotReady"] == [0]


def test_each_cluster_is_counted_alone_and_all_of_them_for_the_alarm(capsys: pytest.CaptureFixture[str]) -> None:
    bad = made("d", "False", 3600)
    count("edge", destinations=[bad, made("b", "True", 1)])
    count("core", destinations=[bad], placements=[placement("p", "Failing", 3600)] * 2)
    told = counted(capsys)
    assert {name: line["DestinationsNotReady"] for name, line in told.items()} == {
        "edge": [1],
        "core": [1],
        None: [1, 1],
    }
    assert {name: line["WorkPlacementsFailing"] for name, line in told.items()} == {
        "edge": [0],
        "core": [2],
        None: [0, 2],
    }
    assert told["edge"]["Destinations"] == [2]
    assert told["edge"]["_aws"]["CloudWatchMetrics"][0]["Namespace"] == "Landfall"


# ---------------------------------------------------------------- seconds to Ready


def verdict(kind: str, of_type: str, generation: int, status: str = "True") -> Verdict:
    reference = Reference(kind=kind, name="x", generation=generation)
    return Verdict.model_validate({"reference": reference, "type": of_type, "status": status, "reason": "R"})


def condition(of_type: str, status: str, generation: int | None, seconds: float) -> Obj:
    told: Obj = {"type": of_type, "status": status, "lastTransitionTime": ago(seconds)}
    return told if generation is None else {**told, "observedGeneration": generation}


def obj(generation: int, *known: Obj, created: float = 10_000, changed: float | None = None, **metadata: Any) -> Obj:
    """Return an object that was created, and whose spec was last changed, so many seconds ago."""
    fields = [
        {"manager": "kubectl", "operation": "Apply", "time": ago(created), "fieldsV1": {"f:spec": {"f:path": {}}}},
        {"manager": "us", "operation": "Update", "time": ago(0), "fieldsV1": {"f:metadata": {"f:finalizers": {}}}},
        {"manager": "us", "operation": "Update", "time": ago(0), "subresource": "status", "fieldsV1": {"f:spec": {}}},
    ]
    if changed is not None:
        fields.append({"manager": "edit", "operation": "Update", "time": ago(changed), "fieldsV1": {"f:spec": {}}})
    told = {"generation": generation, "creationTimestamp": ago(created), "managedFields": fields, **metadata}
    return {"metadata": told, "status": {"conditions": list(known)}}


READY_NOW = [
    pytest.param("Destination", [], lambda: obj(1, created=40), 40, id="new"),
    pytest.param(
        "Destination", [("Ready", "False", 1, 38)], lambda: obj(1, created=40), 40, id="new, first seen not ready"
    ),
    pytest.param(
        "Destination", [("Ready", "False", 1, 3500)], lambda: obj(1, created=3600), 3600, id="never ready yet"
    ),
    pytest.param("Destination", [("Ready", "True", 1, 9000)], lambda: obj(2, changed=25), 25, id="changed while ready"),
    pytest.param(
        "Destination", [("Ready", "False", 1, 9000)], lambda: obj(2, changed=25), 25, id="changed while not ready"
    ),
    pytest.param(
        "Destination", [("Ready", "False", 2, 20)], lambda: obj(2, changed=25), 25, id="changed, then not ready"
    ),
    pytest.param("GitStateStore", [], lambda: obj(1, created=7), 7, id="a State Store"),
    pytest.param(
        "WorkPlacement", [("ScheduleSucceeded", "True", 1, 3)], lambda: obj(1, created=4), 4, id="a WorkPlacement"
    ),
    pytest.param("Work", [], lambda: obj(1, created=2), 2, id="a Work"),
]
TELLING = {"WorkPlacement": "WriteSucceeded", "Work": "ScheduleSucceeded"}


@pytest.mark.parametrize(("kind", "known", "after", "seconds"), READY_NOW)
def test_what_becomes_ready_for_the_first_time_since_its_change_is_measured_from_the_change(
    kind: str,
    known: Sequence[tuple[str, str, int, float]],
    after: Callable[[], Obj],
    seconds: float,
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = after()
    generation = now["metadata"]["generation"]
    before = {**now, "status": {"conditions": [condition(*each) for each in known]}}
    ready = {**now, "status": {"conditions": [condition("Ready", "True", generation, 0)]}}
    measure_ready(verdict(kind, TELLING.get(kind, "Ready"), generation), before, ready)
    (line,) = printed(capsys)
    assert line["kind"] == kind
    assert seconds <= line["SecondsToReady"][0] <= seconds + 60
    assert line["_aws"]["CloudWatchMetrics"][0]["Metrics"] == [{"Name": "SecondsToReady", "Unit": "Seconds"}]


NOT_NOW = [
    pytest.param("Ready", [("Ready", "True", 1, 900)], lambda: obj(1), {}, id="it was ready"),
    pytest.param("Ready", [("Ready", "True", None, 900)], lambda: obj(1), {}, id="it was ready, says Kratix"),
    pytest.param("Ready", [("Ready", "False", 1, 600)], lambda: obj(1), {}, id="after an outage"),
    pytest.param(
        "Ready", [("Ready", "False", None, 600)], lambda: obj(1), {}, id="after an outage that Kratix has seen"
    ),
    pytest.param("Ready", [], lambda: obj(1), {"status": "False"}, id="it is not ready"),
    pytest.param("Ready", [], lambda: obj(2, changed=5), {"generation": 1}, id="about an older generation"),
    pytest.param("Ready", [], lambda: obj(1, deletionTimestamp="2026-01-01T00:00:00Z"), {}, id="being deleted"),
    pytest.param("Ready", [], lambda: obj(2, managedFields=None), {}, id="nobody knows when it changed"),
    pytest.param("Other", [], lambda: obj(1), {}, id="another condition"),
]


@pytest.mark.parametrize(("of_type", "known", "after", "wrong"), NOT_NOW)
def test_what_was_ready_before_or_is_not_is_not_measured(
    of_type: str, known: Sequence[Any], after: Callable[[], Obj], wrong: Obj, capsys: pytest.CaptureFixture[str]
) -> None:
    now = after()
    told = {"generation": now["metadata"]["generation"], "status": "True", **wrong}
    before = {**now, "status": {"conditions": [condition(*each) for each in known]}}
    then = {**now, "status": {"conditions": [condition("Ready", told["status"], 1, 0)]}}
    measure_ready(verdict("Destination", of_type, told["generation"], told["status"]), before, then)
    assert printed(capsys) == []


def test_a_placement_of_a_new_generation_is_not_ready_by_its_schedule_alone(capsys: pytest.CaptureFixture[str]) -> None:
    ready = {"status": {"conditions": [condition("Ready", "True", 2, 0)]}}
    measure_ready(verdict("WorkPlacement", "ScheduleSucceeded", 2), obj(2, changed=9), {**obj(2, changed=9), **ready})
    assert printed(capsys) == []


def test_many_values_are_written_as_few_lines_and_none_is_lost(capsys: pytest.CaptureFixture[str]) -> None:
    for value in range(250):
        measure("SecondsToReady", value, kind="Work")
    measure("CommitConflicts", 1)
    lines = printed(capsys)
    told = [value for line in lines if line.get("kind") == "Work" for value in line["SecondsToReady"]]
    assert sorted(told) == list(range(250))
    assert len(lines) == 4
    assert printed(capsys) == []
