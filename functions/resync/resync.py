"""resync: on a schedule, send references to everything."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from shared.observability import logger, metrics
from shared.reconcile.resync import resync
from shared.runtime import serve_schedule


@logger.inject_lambda_context
@metrics.log_metrics(capture_cold_start_metric=True)
def lambda_handler(event: dict[str, Any], context: LambdaContext) -> None:
    """List every cluster, and send a reference for each State Store with all its Destinations."""
    serve_schedule(event, context, resync)
