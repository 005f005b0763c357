"""Logs, metrics and traces, through Powertools.

Log records are JSON lines. Third-party loggers stay at WARNING whatever our own level is: kubernetes_asyncio and
botocore log whole bodies at DEBUG, Secrets included.

The service's name is in the environment (POWERTOOLS_SERVICE_NAME): it is the stack's, so that metrics and alarms of two
stacks in one account do not mix.
"""

import logging
import traceback
from collections.abc import Mapping

from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.metrics import EphemeralMetrics, MetricUnit

from shared.tracing import XRay

NAMESPACE = "Landfall"

logger = Logger()
metrics = Metrics(namespace=NAMESPACE)
tracer = Tracer(auto_patch=False, provider=XRay())


def log_unexpected(what: str, error: BaseException) -> None:
    """Log that something failed with an error that nobody has translated.

    Only the type and the place: its text may hold anything.
    """
    place = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s failed with an unexpected %s:\n%s", what, type(error).__name__, place)


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
