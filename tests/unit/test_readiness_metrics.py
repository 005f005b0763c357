"""resync counts Destinations, and those that have not been Ready for a while: what the alarm looks at."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared.observability import metrics
from shared.reconcile.resync import _count
from shared.reconcile.view import View

LATE = 300


def destination(name: str, ready: str | None, seconds: float, **metadata: Any) -> dict[str, Any]:
    """Return a Destination whose Ready, or which itself where it has none, is so old."""
    since = (datetime.now(UTC) - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    conditions = [{"type": "Ready", "status": ready, "lastTransitionTime": since}] if ready else []
    created = since if ready is None else "2026-01-01T00:00:00Z"
    return {
        "metadata": {"name": name, "creationTimestamp": created, **metadata},
        "status": {"conditions": [{"type": "Other", "status": "False"}, *conditions]},
    }


# Made in the test itself: what is a minute old when tests are collected is older when this one runs.
CASES = [
    pytest.param(lambda: destination("d", "True", 3600), 0, id="ready"),
    pytest.param(lambda: destination("d", "False", 3600), 1, id="not ready for an hour"),
    pytest.param(lambda: destination("d", "Unknown", 3600), 1, id="unknown for an hour"),
    pytest.param(lambda: destination("d", "False", 60), 0, id="not ready for a minute"),
    pytest.param(lambda: destination("d", None, 3600), 1, id="without a verdict for an hour"),
    pytest.param(lambda: destination("d", None, 60), 0, id="new"),
    pytest.param(
        lambda: destination("d", "False", 3600, deletionTimestamp="2026-01-01T00:00:00Z"), 0, id="being deleted"
    ),
]


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str | None, dict[str, Any]]:
    """Return the metrics that were written to the log, by their dimension `cluster`."""
    metrics.flush_metrics()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {line.get("cluster"): line for line in lines}


@pytest.mark.parametrize(("made", "late"), CASES)
def test_only_what_has_not_been_ready_for_a_while_counts(
    made: Callable[[], dict[str, Any]], late: int, capsys: pytest.CaptureFixture[str]
) -> None:
    _count(View("edge", {("", "d"): made()}), LATE)
    assert printed(capsys)["edge"]["DestinationsNotReady"] == [late]


def test_each_cluster_is_counted_alone_and_all_of_them_for_the_alarm(capsys: pytest.CaptureFixture[str]) -> None:
    bad = destination("d", "False", 3600)
    _count(View("edge", {("", "a"): bad, ("", "b"): destination("b", "True", 1)}), LATE)
    _count(View("core", {("", "a"): bad}), LATE)
    told = printed(capsys)
    assert {name: line["DestinationsNotReady"] for name, line in told.items()} == {
        "edge": [1],
        "core": [1],
        None: [1, 1],
    }
    assert told["edge"]["Destinations"] == [2]
    assert told["edge"]["_aws"]["CloudWatchMetrics"][0]["Namespace"] == "Landfall"
