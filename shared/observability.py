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
    """Log that something failed with an error that nobody has translated.

    Only the type and the place: its text may hold anything.
    """
    place = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s failed with an unexpected %s:\n%s", what, type(error).__name__, place)


logging.getLogger().setLevel(logging.WARNING)
for _name in ("kubernetes_asyncio", "aiobotocore", "botocore", "aiohttp", "dulwich", "paramiko", "urllib3", "asyncio"):
    logging.getLogger(_name).setLevel(logging.WARNING)


def count_in_cluster(cluster: str, counts: Mapping[str, int]) -> None:
    """Tell how many of something a cluster has: as metrics of that cluster, and of all clusters, which alarms look at.

    Args:
        cluster: its name, the metrics' dimension `cluster`.
        counts: by the name of the metric.
    """
    here = EphemeralMetrics(namespace=NAMESPACE)
    here.add_dimension("cluster", cluster)
    for name, value in counts.items():
        here.add_metric(name, MetricUnit.Count, value)
        metrics.add_metric(name, MetricUnit.Count, value)
    here.flush_metrics()
