"""Logs and metrics, through Powertools.

Log records are JSON lines with RFC 3339 timestamps: Lambda takes a line with another one for a record of level INFO
(Lambda guide, "Log-level filtering"). The level of our own records is POWERTOOLS_LOG_LEVEL. Lambda's own filter
(ApplicationLogLevel) cannot serve for that: metrics are lines of the log without a level, which count as INFO, so that
WARN there would filter metrics away.

All other loggers stay at WARNING whatever our own level is: kubernetes_asyncio and botocore log whole bodies at DEBUG,
Secrets included.

The service's name is in the environment (POWERTOOLS_SERVICE_NAME): it is the stack's, so that metrics and alarms of two
stacks in one account do not mix.
"""

import logging
import os
import sys
import threading
import traceback
from collections.abc import Mapping

from aws_lambda_powertools import Logger, Metrics
from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit

NAMESPACE = "Landfall"


def _handler() -> logging.Handler:
    """Return a handler that keeps to POWERTOOLS_LOG_LEVEL; a Logger prefers Lambda's level to it."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setLevel(os.environ.get("POWERTOOLS_LOG_LEVEL", "INFO").upper())
    return handler


logger = Logger(logger_handler=_handler(), use_rfc3339=True)
metrics = Metrics(namespace=NAMESPACE)


def log_unexpected(what: str, error: BaseException) -> None:
    """Log that something failed with an error that is not translated.

    Only the type and the place: its text may hold anything.
    """
    place = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s failed with an unexpected %s:\n%s", what, type(error).__name__, place)


logging.getLogger().setLevel(logging.WARNING)
for _name in ("kubernetes_asyncio", "aiobotocore", "botocore", "aiohttp", "dulwich", "paramiko", "urllib3", "asyncio"):
    logging.getLogger(_name).setLevel(logging.WARNING)


def count_by_function(name: str, value: int, function_name: str) -> None:
    """Record how many of something an invocation has had; the handler's `log_metrics` writes it.

    Args:
        name: of the metric.
        value: how many.
        function_name: Lambda's name of the function, the metric's dimension of that name.
    """
    metrics.add_dimension("function_name", function_name)
    metrics.add_metric(name, MetricUnit.Count, value)


_LOCK = threading.Lock()  # Git writers run in threads
_measured: dict[tuple[tuple[str, str], ...], EphemeralMetrics] = {}  # by dimensions, until flush_measured


def measure(name: str, value: float, unit: MetricUnit = MetricUnit.Count, **dimensions: str) -> None:
    """Record one value of a metric; `flush_measured` writes it.

    Values of one metric are kept apart, so that CloudWatch can give percentiles.

    Args:
        name: of the metric.
        value: in the unit.
        unit: CloudWatch's.
        dimensions: besides `service`. Each combination is a metric that is paid for: their values must be few.
    """
    key = tuple(sorted(dimensions.items()))
    with _LOCK:
        if key not in _measured:
            _measured[key] = EphemeralMetrics(namespace=NAMESPACE)
            for dimension in key:
                _measured[key].add_dimension(*dimension)
        _measured[key].add_metric(name, unit, value)


def flush_measured() -> None:
    """Write what was measured to the log, as CloudWatch's embedded metric format; called when an invocation ends."""
    with _LOCK:
        for series in _measured.values():
            if series.metric_set:  # a hundred values are written at once, and leave none
                series.flush_metrics()
        _measured.clear()


def count_in_cluster(cluster: str, counts: Mapping[str, int]) -> None:
    """Record how many of something a cluster has: as metrics of that cluster, and of all clusters, for the alarms.

    Args:
        cluster: its name, the metrics' dimension `cluster`.
        counts: by the name of the metric.
    """
    for name, value in counts.items():
        measure(name, value, cluster=cluster)
        measure(name, value)
