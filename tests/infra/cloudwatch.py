"""CloudWatch as far as an alarm needs it: log lines to data points, and data points to the states of an alarm.

No server here knows alarms. What is done follows "Using Amazon CloudWatch alarms" and "Configuring how CloudWatch
alarms treat missing data" of the CloudWatch user guide; `test_alarms.py` holds it to the examples of the latter.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.infra.resolved import Resolver

OK, ALARM, INSUFFICIENT_DATA = "OK", "ALARM", "INSUFFICIENT_DATA"
# How many periods more than asked for CloudWatch looks back for data points; the guide's examples show two.
_FURTHER_PERIODS = 2
_STATISTICS: Mapping[str, Callable[[Sequence[float]], float]] = {
    "Sum": sum,
    "Maximum": max,
    "Minimum": min,
    "SampleCount": len,
}
_COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "GreaterThanThreshold": lambda value, threshold: value > threshold,
    "GreaterThanOrEqualToThreshold": lambda value, threshold: value >= threshold,
    "LessThanThreshold": lambda value, threshold: value < threshold,
    "LessThanOrEqualToThreshold": lambda value, threshold: value <= threshold,
}


@dataclass(frozen=True)
class Value:
    """One value of a metric.

    Attributes:
        seconds: when it was measured.
    """

    seconds: float
    namespace: str
    metric: str
    dimensions: frozenset[tuple[str, str]]
    value: float


def values(lines: Iterable[str], seconds: float | None = None) -> list[Value]:
    """Return what CloudWatch reads out of log lines in the embedded metric format.

    Args:
        lines: of a log, others than metrics among them.
        seconds: when they were measured; what the lines say by default.
    """
    found = []
    for line in lines:
        start = line.find("{")
        if '"_aws"' not in line or start < 0:
            continue
        record = json.loads(line[start:])
        at = record["_aws"]["Timestamp"] / 1000 if seconds is None else seconds
        for directive in record["_aws"]["CloudWatchMetrics"]:
            for names in directive["Dimensions"]:
                dimensions = frozenset((name, record[name]) for name in names)
                for metric in directive["Metrics"]:
                    given = record[metric["Name"]]
                    found += [
                        Value(at, directive["Namespace"], metric["Name"], dimensions, value)
                        for value in (given if isinstance(given, list) else [given])
                    ]
    return found


@dataclass(frozen=True)
class _Series:
    """A metric as an alarm asks for it."""

    namespace: str
    metric: str
    dimensions: frozenset[tuple[str, str]]
    statistic: str
    period: int

    def points(self, measured: Sequence[Value]) -> dict[int, float]:
        """Return the statistic of each period in which there were values, by the period's number."""
        periods: dict[int, list[float]] = {}
        for value in measured:
            if (value.namespace, value.metric, value.dimensions) == (self.namespace, self.metric, self.dimensions):
                periods.setdefault(math.floor(value.seconds / self.period), []).append(value.value)
        return {number: _STATISTICS[self.statistic](found) for number, found in periods.items()}


@dataclass(frozen=True)
class Alarm:
    """An alarm of the template.

    Attributes:
        series: the metrics that it reads, by their ids.
        expression: what becomes of them; the id of a metric, or arithmetic with ids.
    """

    series: Mapping[str, _Series]
    expression: str
    compare: str
    threshold: float
    evaluation_periods: int
    datapoints_to_alarm: int
    missing: str
    period: int = field(init=False)

    def __post_init__(self) -> None:
        (period,) = {series.period for series in self.series.values()}
        object.__setattr__(self, "period", period)

    @classmethod
    def of(cls, template: Mapping[str, Any], id_: str, stack: str, given: Mapping[str, str]) -> "Alarm":
        """Return an alarm as it is in a stack with these parameters."""
        alarm = Resolver(template, stack, given).value(template["Resources"][id_]["Properties"])
        if "Metrics" in alarm:
            queries = [query for query in alarm["Metrics"] if "MetricStat" in query]
            series = {query["Id"]: _series(query["MetricStat"]["Metric"], query["MetricStat"]) for query in queries}
            (expression,) = (query["Expression"] for query in alarm["Metrics"] if "Expression" in query)
        else:
            series, expression = {"m": _series(alarm, alarm)}, "m"
        periods = int(alarm["EvaluationPeriods"])
        return cls(
            series,
            expression,
            alarm["ComparisonOperator"],
            float(alarm["Threshold"]),
            periods,
            int(alarm.get("DatapointsToAlarm", periods)),
            alarm.get("TreatMissingData", "missing"),
        )

    def states(self, measured: Sequence[Value], start: float, end: float, state: str = OK) -> dict[float, str]:
        """Return the alarm's state at the end of each of its periods, by that moment.

        Args:
            measured: all values of all metrics.
            start: in seconds, where the first of the periods begins.
            end: in seconds.
            state: before that.
        """
        points = self._points(measured, math.floor(end / self.period))
        found: dict[float, str] = {}
        for number in range(math.floor(start / self.period), math.floor(end / self.period)):
            span = range(number + 1 - self.evaluation_periods - _FURTHER_PERIODS, number + 1)
            state = self.evaluate([points.get(each) for each in span], state)
            found[(number + 1) * self.period] = state
        return found

    def evaluate(self, span: Sequence[float | None], state: str) -> str:
        """Return the state after an evaluation range of data points, the newest last; None is a missing one."""
        there = [value for value in span if value is not None][-self.evaluation_periods :]
        breaching = sum(_COMPARISONS[self.compare](value, self.threshold) for value in there)
        unknown = self.evaluation_periods - len(there)
        if not there:
            kept = {"breaching": ALARM, "notBreaching": OK, "ignore": state, "missing": INSUFFICIENT_DATA}
            return kept[self.missing]
        if breaching + (unknown if self.missing == "breaching" else 0) >= self.datapoints_to_alarm:
            return ALARM
        if breaching == len(there) and unknown and self.missing in {"ignore", "missing"}:
            return ALARM if self.missing == "missing" else state
        return OK

    def _points(self, measured: Sequence[Value], end: int) -> dict[int, float]:
        """Return what the expression gives for each period before `end` in which all its metrics have a point."""
        assert re.fullmatch(r"(FILL\(\w+, \d+\)|[\w\s*/+-])+", self.expression), f"unknown here: {self.expression!r}"
        by_id = {id_: series.points(measured) for id_, series in self.series.items()}
        for id_, value in re.findall(r"FILL\((\w+), (\d+)\)", self.expression):
            if by_id[id_]:  # of a metric that was never measured there is nothing to fill
                span = range(min(by_id[id_]), end)
                by_id[id_] = dict.fromkeys(span, float(value)) | by_id[id_]
        arithmetic = re.sub(r"FILL\((\w+), \d+\)", r"\1", self.expression)
        numbers = set.intersection(*(set(points) for points in by_id.values()))
        return {
            number: float(eval(arithmetic, {"__builtins__": {}}, {id_: by_id[id_][number] for id_ in by_id}))
            for number in numbers
        }


def _series(metric: Mapping[str, Any], how: Mapping[str, Any]) -> _Series:
    dimensions = frozenset((d["Name"], d["Value"]) for d in metric["Dimensions"])
    statistic = how.get("Stat") or how["Statistic"]
    return _Series(metric["Namespace"], metric["MetricName"], dimensions, statistic, int(how["Period"]))
