"""status-report: set conditions and finalizers, and record Events."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from shared.messages import Verdict
from shared.observability import logger, metrics
from shared.reconcile.reports import report
from shared.runtime import serve_queue


@logger.inject_lambda_context
@metrics.log_metrics(capture_cold_start_metric=True)
def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Set the conditions of a batch of verdicts."""
    return serve_queue(event, context, Verdict.decode, report)
