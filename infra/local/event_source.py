"""An event source mapping as Lambda plays it: gathers a batch, invokes, reads the partial batch response."""

import asyncio
import json
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from infra.local.sources import Message, Source
from infra.local.template import REGION, EventSource
from infra.local.workers import FunctionFailed, FunctionPool

_POLL_SECONDS: Final = 20.0
_AWAY_SECONDS: Final = 1.0
_MAX_PAYLOAD_BYTES: Final = 6 * 1024 * 1024 - 64 * 1024  # Lambda's quota for a synchronous invocation, and some room
_RECORD_BYTES: Final = 1024  # of a record without its body


class EventSourceMapping:
    """Feeds one function from one queue: what is there at once, or what comes within the window that is declared."""

    def __init__(
        self,
        declared: EventSource,
        source: Source,
        function: FunctionPool,
        *,
        concurrency: int = 1,
    ) -> None:
        self._declared = declared
        self._source = source
        self._function = function
        self._concurrency = concurrency
        self._loops: list[asyncio.Task[None]] = []
        self._running: set[asyncio.Task[None]] = set()

    @property
    def busy(self) -> bool:
        """Whether an invocation is running."""
        return bool(self._running)

    def start(self) -> None:
        """Begin to receive."""
        self._loops = [asyncio.create_task(self._loop()) for _ in range(self._concurrency)]

    async def stop(self, grace_seconds: float) -> None:
        """Receive no more, and let running invocations end within the grace."""
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        if self._running:
            _, late = await asyncio.wait(self._running, timeout=grace_seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _loop(self) -> None:
        held: deque[Message] = deque()  # received, but over what one invocation can carry
        while True:
            try:
                batch = await self._gather(held)
                task = asyncio.create_task(self._deliver(batch))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
                await asyncio.shield(task)
            except Exception as error:  # noqa: BLE001 -- a queue that is away for a while does not end the flow
                self._function.note(f"queue {self._source.name}: {type(error).__name__}: {error}")
                await asyncio.sleep(_AWAY_SECONDS)

    async def _gather(self, held: deque[Message]) -> list[Message]:
        batch: list[Message] = []
        size = 0
        until = 0.0
        while True:
            while held and (not batch or size + _size(held[0]) <= _MAX_PAYLOAD_BYTES):
                size += _size(held[0])
                batch.append(held.popleft())
            now = time.monotonic()
            if batch and not until:
                until = now + self._declared.window_seconds
            if batch and (held or len(batch) >= self._declared.batch_size or now >= until):
                return batch
            if not self._running:  # a process that was killed while it asked for more is answered after its end
                await self._source.abandon()
            wait = until - now if batch else _POLL_SECONDS
            held.extend(await self._source.receive(self._declared.batch_size - len(batch), wait))

    async def _deliver(self, batch: Sequence[Message]) -> None:
        try:
            answer = await self._function.invoke(lambda_event(batch, self._source.arn))
        except FunctionFailed:
            await self._source.give_back(batch)
            if len(self._running) == 1:  # what others have taken themselves is still being worked on
                await self._source.abandon()
            return
        failed = failed_ids(answer, {message.id for message in batch}) if self._declared.partial else frozenset()
        await self._source.delete([message for message in batch if message.id not in failed])
        await self._source.give_back([message for message in batch if message.id in failed])


def lambda_event(batch: Sequence[Message], arn: str) -> dict[str, Any]:
    """Return the event that Lambda gives a function for a batch of SQS messages (Lambda guide, "Using with SQS")."""
    return {
        "Records": [
            {
                "messageId": message.id,
                "receiptHandle": message.receipt,
                "body": message.body,
                "attributes": {
                    "ApproximateReceiveCount": str(message.receives),
                    "SentTimestamp": str(int(message.sent_at * 1000)),
                    "SenderId": "local",
                    "ApproximateFirstReceiveTimestamp": str(int(message.first_received_at * 1000)),
                },
                "messageAttributes": {name: _attribute(value) for name, value in message.attributes.items()},
                "md5OfBody": message.md5,
                "eventSource": "aws:sqs",
                "eventSourceARN": arn,
                "awsRegion": REGION,
            }
            for message in batch
        ]
    }


def failed_ids(answer: Any, ids: Collection[str]) -> frozenset[str]:
    """Read a partial batch response, and take it for a failure of all where it is none (Lambda guide).

    An answer that is null or empty, or whose list is, is a success of all; an identifier that is empty, null or none
    of the batch, and anything else that is no such response, is a failure of all.
    """
    everything = frozenset(ids)
    if answer is None or answer == {}:
        return frozenset()
    if not isinstance(answer, Mapping) or "batchItemFailures" not in answer:
        return frozenset() if isinstance(answer, Mapping) else everything
    failures = answer["batchItemFailures"]
    if failures is None:
        return frozenset()
    if not isinstance(failures, list):
        return everything
    failed = {str(item.get("itemIdentifier")) if isinstance(item, Mapping) else "" for item in failures}
    return frozenset(failed) if failed <= everything else everything


def _size(message: Message) -> int:
    return len(json.dumps(message.body)) + _RECORD_BYTES


def _attribute(value: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "stringValue": value.get("StringValue"),
        "stringListValues": [],
        "binaryListValues": [],
        "dataType": value.get("DataType", "String"),
    }
