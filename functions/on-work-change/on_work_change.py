"""on-work-change: schedule Works, as WorkPlacements at the Destinations that match."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from shared.messages import Reference
from shared.observability import logger, metrics
from shared.reconcile.works import place_works
from shared.runtime import serve_queue


@logger.inject_lambda_context
@metrics.log_metrics(capture_cold_start_metric=True)
def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Schedule a batch of Works."""
    return serve_queue(event, context, Reference.decode, place_works)
