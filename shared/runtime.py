"""What every handler does around its use case: one loop a container, one deadline an invocation, partial answers."""

import asyncio
import functools
import math
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Final, TypeVar

from aws_lambda_powertools.utilities.typing import LambdaContext

from shared.deadline import Deadline
from shared.errors import LandfallError, UnknownEvent, first
from shared.observability import count_by_function, flush_measured, log_unexpected, logger
from shared.queues import Record
from shared.reconcile.connections import Connections
from shared.settings import Settings

Message = TypeVar("Message")
UseCase = Callable[[Mapping[str, Message], Connections, Deadline], Coroutine[Any, Any, dict[str, Exception]]]


# A batch that starts so soon after the last one is part of a burst, so the function waits briefly to coalesce it: for
# half of the time that the last batch took (all of it after a large batch), within bounds, while messages keep coming
# and there are fewer than in the last batch. Without this, a burst would become many small batches, each with its own
# lists and commits. A single event never waits (docs/decisions/0012-draining-the-own-queue.md).
_STREAM_SECONDS: Final = 0.3
_SHORTEST_GATHERING_SECONDS: Final = 0.1
_LONGEST_GATHERING_SECONDS: Final = 1.0
_LARGE_BATCH: Final = 100  # messages


class _Container:
    """The event loop and the connections, which live as long as the container."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.connections = Connections(Settings.from_environment())
        self.served_at = -math.inf  # on the monotonic clock, when the last batch was done
        self.last_batch = 0  # messages
        self.gathering_seconds = _SHORTEST_GATHERING_SECONDS  # how long the next batch of a burst waits for more


_container: _Container | None = None


def close() -> None:
    """Close the container's connections and its event loop. Lambda never calls this; local processes do."""
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
        decode: reads one message's body; a message that it refuses fails alone and ends in the dead-letter queue.
        use_case: gets the messages by id, returns which of them must be redelivered, and why.

    Raises:
        UnknownEvent: the event has no `Records`: a queue did not invoke the function.
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
        LandfallError: an event that came without a queue is not understood or has failed; its sender retries.
    """
    if _is_queue_batch(event):
        # The whole record, because a message attribute may name the cluster.
        return _serve(event, context, lambda record: decode({"Records": [record]}, ""), use_case)
    count_by_function("Messages", 1, context.function_name)
    _serve_one("event", decode(event, ""), context, use_case)
    return {"batchItemFailures": []}


def serve_schedule(event: object, context: LambdaContext, use_case: UseCase[object]) -> None:
    """Handle one tick of a schedule.

    Raises:
        LandfallError: it has failed; Lambda retries.
    """
    count_by_function("Ticks", 1, context.function_name)
    _serve_one("tick", event, context, use_case)


def _serve(
    event: Mapping[str, Any],
    context: LambdaContext,
    decode: Callable[[Mapping[str, Any]], Message],
    use_case: UseCase[Message],
) -> dict[str, list[dict[str, str]]]:
    if not _is_queue_batch(event):
        raise UnknownEvent("this function reads SQS batches: send the message to its queue, or wrap it in Records")
    given: list[Record] = event["Records"]
    count_by_function("Messages", len(given), context.function_name)

    async def serve(container: _Container, deadline: Deadline) -> dict[str, Exception]:
        taken = await _taken(len(given), container, deadline)
        began = time.monotonic()
        messages, failures = _decoded([*given, *taken], decode)
        if messages:
            failures.update(await _guarded(messages, container, deadline, use_case))
        if taken:
            count_by_function("Messages", len(taken), context.function_name)
        count_by_function("MessagesReturned", len(failures), context.function_name)
        for message_id, failure in failures.items():
            logger.warning("message %s has to be delivered again: %s", message_id, _words(failure))
        queues = container.connections.queues
        await asyncio.gather(  # at once: a call that hangs takes no time from the others
            queues.settle([r for r in taken if r["messageId"] not in failures], deadline),
            queues.hand_back([r for r in (*given, *taken) if r["messageId"] in failures], deadline),
        )
        container.served_at = time.monotonic()
        took = container.served_at - began
        container.last_batch = len(given) + len(taken)
        worth = took if container.last_batch >= _LARGE_BATCH else took / 2
        container.gathering_seconds = min(max(_SHORTEST_GATHERING_SECONDS, worth), _LONGEST_GATHERING_SECONDS)
        return failures

    failures = _run(context, serve)
    returned = [record["messageId"] for record in given if record["messageId"] in failures]
    return {"batchItemFailures": [{"itemIdentifier": message_id} for message_id in returned]}


def _decoded(
    records: Iterable[Record], decode: Callable[[Mapping[str, Any]], Message]
) -> tuple[dict[str, Message], dict[str, Exception]]:
    messages: dict[str, Message] = {}
    failures: dict[str, Exception] = {}
    for record in records:
        try:
            messages[record["messageId"]] = decode(record)
        except Exception as refusal:  # noqa: BLE001 -- whatever a forged message does, it fails alone
            if not isinstance(refusal, LandfallError):
                log_unexpected("a message's reading", refusal)
            failures[record["messageId"]] = refusal
    return messages, failures


def _serve_one(name: str, message: Message, context: LambdaContext, use_case: UseCase[Message]) -> None:
    """Handle one message that came without a queue.

    Raises:
        LandfallError: it has failed; its sender retries.
    """
    for error in _run(context, functools.partial(_guarded, {name: message}, use_case=use_case)).values():
        raise LandfallError(_words(error)) from None


def _run(
    context: LambdaContext, work: Callable[[_Container, Deadline], Coroutine[Any, Any, dict[str, Exception]]]
) -> dict[str, Exception]:
    global _container  # noqa: PLW0603 -- one a container is what Lambda's freezing and thawing asks for
    try:
        if _container is None:
            _container = _Container()
        left = context.get_remaining_time_in_millis() / 1000 - _container.connections.settings.reserve_seconds
        return _container.runner.run(work(_container, Deadline.after(max(left, 0.0))))
    finally:
        flush_measured()


async def _taken(given: int, container: _Container, deadline: Deadline) -> list[Record]:
    """Receive what else is in the queue; for a single message outside of a burst the queue is not asked."""
    streaming = time.monotonic() - container.served_at < _STREAM_SECONDS
    if not streaming and given == 1:
        return []
    seconds, enough = (container.gathering_seconds, container.last_batch - given) if streaming else (0.0, 0)
    return await container.connections.queues.take(deadline, seconds, enough)


async def _guarded(
    messages: Mapping[str, Message], container: _Container, deadline: Deadline, use_case: UseCase[Message]
) -> dict[str, Exception]:
    try:
        return await use_case(messages, container.connections, deadline)
    except Exception as error:  # noqa: BLE001 -- the batch goes back to its queue, whatever it was
        cause = first(error)
        if not isinstance(cause, LandfallError):
            log_unexpected("the batch", cause)
        return dict.fromkeys(messages, cause)


def _is_queue_batch(event: Mapping[str, Any]) -> bool:
    records = event.get("Records")
    return isinstance(records, list) and all("messageId" in record and "body" in record for record in records)


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, LandfallError) else f"an unexpected {type(error).__name__}"
