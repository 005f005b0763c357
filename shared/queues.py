"""The queues between the functions: the only user of SQS.

A message is sent or it is not: the caller learns which ones were not, and returns what they came from to its own queue.
"""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, Self

from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError

from shared.deadline import Deadline
from shared.errors import LandfallError, QueueUnavailable
from shared.observability import logger
from shared.settings import Settings

if TYPE_CHECKING:
    from types_aiobotocore_sqs.client import SQSClient
    from types_aiobotocore_sqs.type_defs import SendMessageBatchRequestEntryTypeDef

_ENTRIES: Final = 10  # of a SendMessageBatch (SQS quota)
_BYTES: Final = 256 * 1024  # of a SendMessageBatch's bodies together: the quota that every SQS has had
_MAX_DELAY_SECONDS: Final = 900  # SQS quota
_CALLS: Final = 16  # at once
_ATTEMPTS: Final = 3


class _Encodable(Protocol):
    def encode(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message on its way.

    Attributes:
        queue: `canary`, `cleanup`, `status`, `works` or `documents`.
        message: to be encoded as the body.
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
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._send_batch(client, queue, batch, deadline)) for queue, batch in batches]
        failures: dict[str, Exception] = {}
        for task in tasks:
            for item, error in task.result():
                failures.update(dict.fromkeys(item.origin, error))
        return failures

    async def close(self) -> None:
        """Give back connections."""
        if self._client is not None:
            await self._client.__aexit__(None, None, None)
            self._client = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _open(self) -> "SQSClient":
        if self._client is None:
            config = AioConfig(connect_timeout=5, read_timeout=10, retries={"mode": "standard", "max_attempts": 3})
            context = get_session().create_client("sqs", endpoint_url=self._settings.sqs_endpoint_url, config=config)
            self._client = await context.__aenter__()
        return self._client

    async def _send_batch(
        self, client: "SQSClient", queue: str, batch: Sequence[tuple[Outgoing, str]], deadline: Deadline
    ) -> list[tuple[Outgoing, Exception]]:
        url = self._urls[queue]
        if not url:
            error = LandfallError(f"the {queue} queue is not known: set LANDFALL_{queue.upper()}_QUEUE_URL")
            return [(item, error) for item, _ in batch]
        left = dict(enumerate(batch))
        why = "no answer"
        for attempt in range(_ATTEMPTS):
            if attempt:
                await asyncio.sleep(min(0.2 * 2**attempt, deadline.remaining))
            entries: list[SendMessageBatchRequestEntryTypeDef] = [
                {"Id": str(at), "MessageBody": body, "DelaySeconds": min(item.delay, _MAX_DELAY_SECONDS)}
                for at, (item, body) in left.items()
            ]
            try:
                async with self._calls, asyncio.timeout(deadline.remaining):
                    answer = await client.send_message_batch(QueueUrl=url, Entries=entries)
            except (BotoCoreError, ClientError, TimeoutError, OSError) as error:
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
