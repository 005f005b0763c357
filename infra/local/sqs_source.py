"""A real SQS queue as the source of an event source mapping, by polling as Lambda's own pollers do."""

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from infra.local.sources import FIRST_REDELIVERY_SECONDS, LAST_REDELIVERY_SECONDS, Message

if TYPE_CHECKING:
    from types_aiobotocore_sqs.client import SQSClient
    from types_aiobotocore_sqs.type_defs import MessageTypeDef

_ENTRIES: Final = 10
_POLLERS: Final = 5


class SqsSource:
    """Receives from an SQS queue.

    Attributes:
        name: what people call it.
        arn: what events carry.
    """

    def __init__(self, client: "SQSClient", url: str, *, name: str, arn: str) -> None:
        self.name = name
        self.arn = arn
        self._client = client
        self._url = url

    async def receive(self, limit: int, wait_seconds: float) -> list[Message]:
        """Return what is there, at most `limit` messages; wait for the first one so long, then return nothing."""
        messages = await self._receive(min(limit, _ENTRIES), int(wait_seconds))
        if not messages and 0 < wait_seconds < 1:  # SQS waits whole seconds or not at all
            await asyncio.sleep(wait_seconds)
            messages = await self._receive(min(limit, _ENTRIES), 0)
        while messages and len(messages) < limit:
            calls = min(_POLLERS, -(-(limit - len(messages)) // _ENTRIES))
            sizes = [min(_ENTRIES, limit - len(messages) - call * _ENTRIES) for call in range(calls)]
            more = await asyncio.gather(*(self._receive(size, 0) for size in sizes))
            if not any(more):
                break
            messages += [message for got in more for message in got]
        return messages

    async def delete(self, messages: Sequence[Message]) -> None:
        """Settle messages for good."""
        for at in range(0, len(messages), _ENTRIES):
            entries = [
                {"Id": str(number), "ReceiptHandle": message.receipt}
                for number, message in enumerate(messages[at : at + _ENTRIES])
            ]
            await self._client.delete_message_batch(QueueUrl=self._url, Entries=entries)  # type: ignore[arg-type]

    async def give_back(self, messages: Sequence[Message]) -> None:
        """Let messages be received again, with the same short delays as the queue in memory has."""
        for at in range(0, len(messages), _ENTRIES):
            entries = [
                {
                    "Id": str(number),
                    "ReceiptHandle": message.receipt,
                    "VisibilityTimeout": int(_delay(message)),
                }
                for number, message in enumerate(messages[at : at + _ENTRIES])
            ]
            await self._client.change_message_visibility_batch(QueueUrl=self._url, Entries=entries)  # type: ignore[arg-type]

    async def abandon(self) -> None:
        """Do nothing: what a function had received itself comes back when its time-out in SQS is over."""

    async def _receive(self, limit: int, wait_seconds: int) -> list[Message]:
        answer = await self._client.receive_message(
            QueueUrl=self._url,
            MaxNumberOfMessages=limit,
            WaitTimeSeconds=min(wait_seconds, 20),
            AttributeNames=["All"],
            MessageAttributeNames=["All"],
        )
        return [_message(message) for message in answer.get("Messages", [])]


def _delay(message: Message) -> float:
    return min(FIRST_REDELIVERY_SECONDS * 2.0 ** (message.receives - 1), LAST_REDELIVERY_SECONDS)


def _message(message: "MessageTypeDef") -> Message:
    attributes = message.get("Attributes", {})
    return Message(
        body=message["Body"],
        id=message["MessageId"],
        receipt=message["ReceiptHandle"],
        receives=int(attributes.get("ApproximateReceiveCount", "1")),
        sent_at=int(attributes.get("SentTimestamp", "0")) / 1000,
        first_received_at=int(attributes.get("ApproximateFirstReceiveTimestamp", "0")) / 1000,
        attributes=message.get("MessageAttributes", {}),
    )
