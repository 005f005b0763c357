"""cleanup: delete the files of Destinations that are being deleted or have moved."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from shared.messages import Reference
from shared.observability import logger, metrics
from shared.reconcile.cleanup import clean_up
from shared.runtime import serve_queue


@logger.inject_lambda_context
@metrics.log_metrics(capture_cold_start_metric=True)
def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Delete the files of a batch of Destinations: one changeset for each State Store."""
    return serve_queue(event, context, Reference.decode, clean_up)
