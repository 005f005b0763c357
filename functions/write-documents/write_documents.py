"""write-documents: write the documents of WorkPlacements to their Destinations."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from shared.messages import Reference
from shared.observability import logger, metrics
from shared.reconcile.deliveries import write_documents
from shared.runtime import serve_queue


@logger.inject_lambda_context
@metrics.log_metrics(capture_cold_start_metric=True)
def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Write the documents of a batch of WorkPlacements: one changeset for each State Store."""
    return serve_queue(event, context, Reference.decode, write_documents)
