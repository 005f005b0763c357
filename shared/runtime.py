"""What every handler does around its use case: one loop a container, one deadline an invocation, partial answers."""

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from aws_lambda_powertools.metrics import MetricUnit
from aws_lambda_powertools.utilities.typing import LambdaContext

from shared.deadline import Deadline
from shared.errors import LandfallError, UnknownEvent
from shared.observability import logger, metrics
from shared.reconcile.connections import Connections
from shared.settings import Settings

Message = TypeVar("Message")
UseCase = Callable[[Mapping[str, Message], Connections, Deadline], Awaitable[dict[str, Exception]]]


class _Container:
    """The loop and the connections that live as long as the container does."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.connections = Connections(Settings.from_environment())


_container: _Container | None = None


def close() -> None:
    """Give back the container's connections and its loop; Lambda never does, a process that is to end cleanly does."""
    global _container  # noqa: PLW0603 -- see _run
    if _container is not None:
        _container.runner.run(_container.connections.close())
        _container.runner.close()
        _container = None


def serve_queue(
    event: Mapping[str, Any], context: LambdaContext, decode: Callable[[str], Message], use_case: UseCase[Message]
) -> dict[str, list[dict[str, str]]]:
    """Handle a batch of an SQS queue, and return the partial batch response.

    Args:
        event: as Lambda's event source mapping makes it.
        context: of the invocation.
        decode: reads one message's body; what it refuses fails alone and ends in the dead-letter queue.
        use_case: gets the messages by id, returns which of them have to be delivered again, and why.

    Raises:
        UnknownEvent: the event has no `Records`; the function was invoked by something that is no queue.
    """
    return _serve(event, context, lambda record: decode(record["body"]), use_case)


def serve_events(
    event: Mapping[str, Any],
    context: LambdaContext,
    decode: Callable[[object, str], Message],
    use_case: UseCase[Message],
) -> dict[str, list[dict[str, str]]]:
    """Handle a batch of an SQS queue as `serve_queue` does, or an event that invoked the function without a queue.

    Raises:
        LandfallError: an event that came without a queue is not understood or not done; its sender tries again.
    """
    if _is_queue_batch(event):
        # The whole record, because a message attribute may name the cluster.
        return _serve(event, context, lambda record: decode({"Records": [record]}, ""), use_case)
    metrics.add_metric("Messages", MetricUnit.Count, 1)
    for error in _run({"event": decode(event, "")}, context, use_case).values():
        raise LandfallError(_words(error)) from None
    return {"batchItemFailures": []}


def serve_schedule(event: object, context: LambdaContext, use_case: UseCase[object]) -> None:
    """Handle one tick of a schedule.

    Raises:
        LandfallError: it is not done; Lambda tries again.
    """
    metrics.add_metric("Ticks", MetricUnit.Count, 1)
    for error in _run({"tick": event}, context, use_case).values():
        raise LandfallError(_words(error)) from None


def _serve(
    event: Mapping[str, Any],
    context: LambdaContext,
    decode: Callable[[Mapping[str, Any]], Message],
    use_case: UseCase[Message],
) -> dict[str, list[dict[str, str]]]:
    if not _is_queue_batch(event):
        raise UnknownEvent("this function reads SQS batches: send the message to its queue, or wrap it in Records")
    metrics.add_metric("Messages", MetricUnit.Count, len(event["Records"]))
    messages: dict[str, Message] = {}
    failures: dict[str, Exception] = {}
    for record in event["Records"]:
        try:
            messages[record["messageId"]] = decode(record)
        except LandfallError as refusal:
            failures[record["messageId"]] = refusal
    if messages:
        failures.update(_run(messages, context, use_case))
    metrics.add_metric("MessagesReturned", MetricUnit.Count, len(failures))
    for message_id, failure in failures.items():
        logger.warning("message %s has to be delivered again: %s", message_id, _words(failure))
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in failures]}


def _run(messages: Mapping[str, Message], context: LambdaContext, use_case: UseCase[Message]) -> dict[str, Exception]:
    global _container  # noqa: PLW0603 -- one a container is what Lambda's freezing and thawing asks for
    if _container is None:
        _container = _Container()
    connections = _container.connections
    left = context.get_remaining_time_in_millis() / 1000 - connections.settings.reserve_seconds
    deadline = Deadline.after(max(left, 0.0))

    async def guarded() -> dict[str, Exception]:
        try:
            return await use_case(messages, connections, deadline)
        except Exception as error:  # noqa: BLE001 -- the batch goes back to its queue, whatever it was
            cause = _first(error)
            if not isinstance(cause, LandfallError):
                # Only the type and the place: the text of an error that nobody translated may hold anything.
                place = "".join(traceback.format_tb(cause.__traceback__))
                logger.error("the batch failed with an unexpected %s:\n%s", type(cause).__name__, place)
            return dict.fromkeys(messages, cause)

    return _container.runner.run(guarded())


def _is_queue_batch(event: Mapping[str, Any]) -> bool:
    records = event.get("Records")
    return isinstance(records, list) and all("messageId" in record and "body" in record for record in records)


def _first(error: Exception) -> Exception:
    """Return the first error of a task group's, which is what the group failed for."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, LandfallError) else f"an unexpected {type(error).__name__}"
