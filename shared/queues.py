"""The queues between the functions: the only user of SQS.

Sending reports which messages were not sent, so that the caller can return the messages that they came from.

A function receives the rest of its own queue itself, because an event source mapping hands out at most ten messages
without a batching window (docs/decisions/0012-draining-the-own-queue.md).
"""

import asyncio
import functools
import time
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, Self

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError
from botocore.loaders import Loader, create_loader

from shared.deadline import Deadline
from shared.errors import LandfallError, QueueUnavailable
from shared.observability import logger
from shared.settings import Settings

if TYPE_CHECKING:
    from types_aiobotocore_sqs.client import SQSClient
    from types_aiobotocore_sqs.type_defs import MessageTypeDef, SendMessageBatchRequestEntryTypeDef

_ENTRIES: Final = 10  # of a SendMessageBatch (SQS quota)
_BYTES: Final = 256 * 1024  # of a SendMessageBatch's bodies together: the quota that every SQS has had
_MAX_DELAY_SECONDS: Final = 900  # SQS quota
_CALLS: Final = 16  # at once
_ATTEMPTS: Final = 3
_STEP_SECONDS: Final = 0.1  # between two receives of a queue that may get more
_TAKEN_BYTES: Final = 32 * 1024 * 1024  # of bodies; a batch has to fit into a function's memory
# Work may use up the deadline, so time is reserved to publish its results. By these shares of the reserve:
_SENT_BY: Final = 0.5  # the results of the batch are sent, or fail
_SETTLED_BY: Final = 0.8  # the function's own messages are deleted or returned; the rest is for the answer to Lambda
_HIDDEN_LONGER_SECONDS: Final = 10  # than an invocation can last
_FIRST_REDELIVERY_SECONDS: Final = 5
_LAST_REDELIVERY_SECONDS: Final = 600
_FAILURES: Final = (BotoCoreError, ClientError, TimeoutError, OSError)

Record = Mapping[str, Any]  # of a queue's message, in the form of Lambda's events


class _Encodable(Protocol):
    def encode(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to send.

    Attributes:
        queue: `canary`, `cleanup`, `status`, `works` or `documents`.
        message: encoded as the body.
        origin: ids of the received messages that it came from.
        delay: seconds before it can be received.
    """

    queue: str
    message: _Encodable
    origin: frozenset[str] = frozenset()
    delay: int = 0


class Queues:
    """The deployment's queues, by their names in the settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._urls: Mapping[str, str] = {
            "canary": settings.canary_queue_url,
            "cleanup": settings.cleanup_queue_url,
            "status": settings.status_queue_url,
            "works": settings.works_queue_url,
            "documents": settings.documents_queue_url,
        }
        self._client: SQSClient | None = None
        self._calls = asyncio.Semaphore(_CALLS)

    async def send(self, outgoing: Iterable[Outgoing], deadline: Deadline) -> dict[str, Exception]:
        """Send messages, ten a call and the calls in parallel.

        Args:
            outgoing: the messages.
            deadline: of the invocation. The work may have used it up: a part of the reserve is for this.

        Returns:
            By id of a received message in an `origin`: why a message that came from it could not be sent.
        """
        batches = [
            (queue, batch)
            for queue, messages in _by_queue(outgoing).items()
            for batch in _batches([(item, item.message.encode()) for item in messages])
        ]
        if not batches:
            return {}
        client = await self._open()
        end = deadline.later(self._settings.reserve_seconds * _SENT_BY)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._send_batch(client, queue, batch, end)) for queue, batch in batches]
        failures: dict[str, Exception] = {}
        for task in tasks:
            for item, error in task.result():
                failures.update(dict.fromkeys(item.origin, error))
        return failures

    async def take(self, deadline: Deadline, gathering_seconds: float = 0.0, enough: int = 0) -> list[Record]:
        """Receive the messages that are in the function's own queue, up to the limit of a batch.

        If the queue does not answer, this returns none: the event source mapping hands the messages out later.

        Args:
            deadline: of the invocation; received messages stay hidden from others until a little later.
            gathering_seconds: how long to receive again after the queue was empty; a second empty answer ends it.
            enough: with so many messages, an empty answer ends it at once.

        Returns:
            Records as an event source mapping hands them out.
        """
        taken: list[Record] = []
        size = 0
        url, limit = self._settings.own_queue_url, self._settings.batch_messages
        if not url:
            return taken
        client = await self._open()
        hidden = int(deadline.remaining + self._settings.reserve_seconds) + _HIDDEN_LONGER_SECONDS
        calls = 1
        end = time.monotonic() + min(gathering_seconds, deadline.remaining)
        waited = False
        while len(taken) < limit and size < _TAKEN_BYTES:
            calls = min(calls, -(-(limit - len(taken)) // _ENTRIES))
            answers = await asyncio.gather(*(self._receive(client, url, hidden, deadline) for _ in range(calls)))
            got = [message for answer in answers for message in answer]
            taken += [_record(message) for message in got]
            size += sum(len(message["Body"]) for message in got)
            if not got and (waited or len(taken) >= enough or time.monotonic() >= end):
                break
            waited = not got
            if waited:
                await asyncio.sleep(_STEP_SECONDS)
            # SQS may return fewer messages than there are: only an empty answer means that none is left.
            calls = min(2 * calls, _CALLS) if len(got) >= calls * _ENTRIES // 2 else 1
        return taken

    async def settle(self, taken: Sequence[Record], deadline: Deadline) -> None:
        """Delete received messages that are done. One that cannot be deleted is redelivered, which does no harm."""
        url = self._settings.own_queue_url
        if not taken:
            return
        calls = []
        client = await self._open()
        for part in _parts(taken):
            entries = [{"Id": str(at), "ReceiptHandle": record["receiptHandle"]} for at, record in enumerate(part)]
            calls.append(client.delete_message_batch(QueueUrl=url, Entries=entries))  # type: ignore[arg-type]
        await self._quietly(calls, deadline)

    async def hand_back(self, failed: Sequence[Record], deadline: Deadline) -> None:
        """Change the visibility of messages that failed: they are redelivered after seconds, with backoff.

        Without this they would be redelivered when the queue's visibility timeout ends, some minutes later.
        """
        url = self._settings.own_queue_url
        if not url or not failed:
            return
        calls = []
        client = await self._open()
        for part in _parts(failed):
            entries = [
                {"Id": str(at), "ReceiptHandle": record["receiptHandle"], "VisibilityTimeout": _redelivery(record)}
                for at, record in enumerate(part)
            ]
            calls.append(client.change_message_visibility_batch(QueueUrl=url, Entries=entries))  # type: ignore[arg-type]
        await self._quietly(calls, deadline)

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.__aexit__(None, None, None)
            self._client = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _open(self) -> "SQSClient":
        if self._client is None:
            self._client = await _new_client(self._settings).__aenter__()
        return self._client

    async def _receive(
        self, client: "SQSClient", url: str, hidden_seconds: int, deadline: Deadline
    ) -> list["MessageTypeDef"]:
        try:
            async with self._calls, asyncio.timeout(deadline.remaining):
                answer = await client.receive_message(
                    QueueUrl=url,
                    MaxNumberOfMessages=_ENTRIES,
                    WaitTimeSeconds=0,
                    VisibilityTimeout=hidden_seconds,
                    MessageSystemAttributeNames=["ApproximateReceiveCount", "SentTimestamp"],
                    MessageAttributeNames=["All"],
                )
        except _FAILURES as error:
            logger.warning("the function's own queue could not be asked for more: %s", type(error).__name__)
            return []
        return answer.get("Messages", [])

    async def _quietly(self, calls: Iterable[Awaitable[object]], deadline: Deadline) -> None:
        end = deadline.later(self._settings.reserve_seconds * _SETTLED_BY)

        async def one(call: Awaitable[object]) -> None:
            try:
                async with self._calls, asyncio.timeout(end.remaining):
                    await call
            except _FAILURES as error:
                logger.warning("the function's own queue did not answer: %s", type(error).__name__)

        await asyncio.gather(*(one(call) for call in calls))

    async def _send_batch(
        self, client: "SQSClient", queue: str, batch: Sequence[tuple[Outgoing, str]], end: Deadline
    ) -> list[tuple[Outgoing, Exception]]:
        url = self._urls[queue]
        if not url:
            error = LandfallError(f"the {queue} queue is not known: set LANDFALL_{queue.upper()}_QUEUE_URL")
            return [(item, error) for item, _ in batch]
        left = dict(enumerate(batch))
        why = "no answer"
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(min(0.2 * 2**attempt, end.remaining))
            entries: list[SendMessageBatchRequestEntryTypeDef] = [
                {"Id": str(at), "MessageBody": body, "DelaySeconds": min(item.delay, _MAX_DELAY_SECONDS)}
                for at, (item, body) in left.items()
            ]
            try:
                async with self._calls, asyncio.timeout(end.remaining):
                    answer = await client.send_message_batch(QueueUrl=url, Entries=entries)
            except _FAILURES as error:
                why = f"{type(error).__name__}: {error}"[:300]
                continue
            for entry in answer.get("Successful", []):
                left.pop(int(entry["Id"]))
            if not left:
                return []
            why = "; ".join(sorted({entry.get("Message", entry["Code"]) for entry in answer.get("Failed", [])}))
        failure = QueueUnavailable(f"the {queue} queue did not take {len(left)} messages: {why}")
        logger.warning(str(failure))
        return [(item, failure) for item, _ in left.values()]


def _new_client(settings: Settings, **credentials: Any) -> AbstractAsyncContextManager["SQSClient"]:
    config = AioConfig(connect_timeout=5, read_timeout=10, retries={"mode": "standard", "max_attempts": 3})
    session = get_session()
    session.register_component("data_loader", _loader())
    return session.create_client("sqs", endpoint_url=settings.sqs_endpoint_url, config=config, **credentials)


@functools.cache
def _loader() -> Loader:
    """One for all clients: it keeps what it has read."""
    return create_loader()


def _by_queue(outgoing: Iterable[Outgoing]) -> dict[str, list[Outgoing]]:
    queues: dict[str, list[Outgoing]] = {}
    for item in outgoing:
        queues.setdefault(item.queue, []).append(item)
    return queues


def _batches(messages: Sequence[tuple[Outgoing, str]]) -> Iterable[list[tuple[Outgoing, str]]]:
    batch: list[tuple[Outgoing, str]] = []
    size = 0
    for item, body in messages:
        length = len(body.encode())
        if batch and (len(batch) == _ENTRIES or size + length > _BYTES):
            yield batch
            batch, size = [], 0
        batch.append((item, body))
        size += length
    if batch:
        yield batch


def _record(message: "MessageTypeDef") -> Record:
    """Return a message in the form in which Lambda hands it out (Lambda guide, "Using with SQS")."""
    attributes = message.get("MessageAttributes", {})
    return {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": message.get("Attributes", {}),
        "messageAttributes": {
            name: {"stringValue": value.get("StringValue"), "dataType": value.get("DataType", "String")}
            for name, value in attributes.items()
        },
        "eventSource": "aws:sqs",
    }


def _parts(records: Sequence[Record]) -> Iterable[Sequence[Record]]:
    return (records[at : at + _ENTRIES] for at in range(0, len(records), _ENTRIES))


def _redelivery(record: Record) -> int:
    """Return the seconds until a failed message is received again: 5, 20, 80, 320, then ten minutes.

    With the template's maxReceiveCount a Kubernetes API may be away for a quarter of an hour before messages are put
    aside.
    """
    received = max(1, int((record.get("attributes") or {}).get("ApproximateReceiveCount") or 1))
    return int(min(_FIRST_REDELIVERY_SECONDS * 4.0 ** (received - 1), _LAST_REDELIVERY_SECONDS))
