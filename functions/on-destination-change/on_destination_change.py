"""on-destination-change: decode the forwarders' events, decide, and send references and verdicts."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from shared.events import decode
from shared.observability import logger, metrics
from shared.reconcile.changes import decide_changes
from shared.runtime import serve_events


@logger.inject_lambda_context
@metrics.log_metrics(capture_cold_start_metric=True)
def lambda_handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Decide about every Destination that a batch of events concerns.

    The event is an SQS batch with one event a message, or one event itself (EventBridge, SNS, a CloudEvent).
    """
    return serve_events(event, context, decode, decide_changes)
