"""All the queues of the template, in memory or in a real SQS, behind one small interface."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final, Protocol

from infra.local.sources import FIRST_REDELIVERY_SECONDS, MemoryQueue, Message, Source
from infra.local.sqs_api import SqsApi
from infra.local.sqs_source import SqsSource
from infra.local.template import REGION, Queue

if TYPE_CHECKING:
    from types_aiobotocore_sqs.client import SQSClient
    from types_aiobotocore_sqs.literals import QueueAttributeNameType

_ENTRIES: Final = 10
_PREFIX: Final = "landfall-"


class Queues(Protocol):
    """The queues that the runtime stands on.

    Attributes:
        endpoint: URL of the SQS that functions send to.
        urls: by a queue's logical id, its URL there.
    """

    endpoint: str
    urls: Mapping[str, str]

    async def start(self) -> None:
        """Make the queues."""

    async def stop(self) -> None:
        """Give back what they use."""

    def source(self, queue: str) -> Source:
        """Return what an event source mapping reads from."""

    async def send(self, queue: str, bodies: Sequence[str]) -> None:
        """Send messages to a queue."""

    async def waiting(self) -> dict[str, int]:
        """Return by name how many messages each queue has, those in flight included."""


class MemoryQueues:
    """Queues in memory, behind SQS's own HTTP API.

    Attributes:
        queues: by logical id.
    """

    def __init__(
        self,
        declared: Mapping[str, Queue],
        *,
        first_redelivery_seconds: float = FIRST_REDELIVERY_SECONDS,
        host: str = "127.0.0.1",
    ) -> None:
        self.endpoint = ""
        self.urls: Mapping[str, str] = {}
        self.queues: dict[str, MemoryQueue] = {}
        for queue in sorted(declared.values(), key=lambda queue: queue.dead_letter != ""):  # dead-letter queues first
            self.queues[queue.id] = MemoryQueue(
                queue.name,
                queue.arn,
                max_receives=queue.max_receives,
                dead_letter=self.queues.get(queue.dead_letter),
                first_redelivery_seconds=first_redelivery_seconds,
            )
        self._api = SqsApi(self.queues, host)

    async def start(self) -> None:
        """Serve the API."""
        await self._api.start()
        self.endpoint = self._api.url
        self.urls = {id_: self._api.queue_url(queue) for id_, queue in self.queues.items()}

    async def stop(self) -> None:
        """End the API."""
        await self._api.stop()

    def source(self, queue: str) -> Source:
        """Return what an event source mapping reads from."""
        return self.queues[queue]

    async def send(self, queue: str, bodies: Sequence[str]) -> None:
        """Send messages to a queue."""
        for body in bodies:
            self.queues[queue].send(Message(body))

    async def waiting(self) -> dict[str, int]:
        """Return by name how many messages each queue has, those in flight included."""
        return {queue.name: len(queue.messages) + queue.in_flight for queue in self.queues.values()}


class SqsQueues:
    """Queues in a real SQS, or in a test's stand-in for it; made if they are not there."""

    def __init__(self, declared: Mapping[str, Queue], endpoint: str, environment: Mapping[str, str]) -> None:
        self.endpoint = endpoint
        self.urls: Mapping[str, str] = {}
        self._declared = declared
        self._environment = environment
        self._stack = AsyncExitStack()
        self._client: SQSClient | None = None
        self._arns: Mapping[str, str] = {}

    async def start(self) -> None:
        """Connect, and make the queues."""
        from aiobotocore.session import get_session  # noqa: PLC0415 -- late: the queues in memory do not need it

        context = get_session().create_client(
            "sqs",
            endpoint_url=self.endpoint,
            region_name=self._environment.get("AWS_REGION", REGION),
            aws_access_key_id=self._environment.get("AWS_ACCESS_KEY_ID"),
            aws_secret_access_key=self._environment.get("AWS_SECRET_ACCESS_KEY"),
            aws_session_token=self._environment.get("AWS_SESSION_TOKEN"),
        )
        client = await self._stack.enter_async_context(context)
        urls: dict[str, str] = {}
        arns: dict[str, str] = {}
        for queue in sorted(self._declared.values(), key=lambda queue: queue.dead_letter != ""):
            attributes: dict[QueueAttributeNameType, str] = {"VisibilityTimeout": str(queue.visibility_seconds)}
            if queue.dead_letter:
                redrive = {"deadLetterTargetArn": arns[queue.dead_letter], "maxReceiveCount": queue.max_receives}
                attributes["RedrivePolicy"] = json.dumps(redrive)
            made = await client.create_queue(QueueName=f"{_PREFIX}{queue.name}", Attributes=attributes)
            urls[queue.id] = made["QueueUrl"]
            told = await client.get_queue_attributes(QueueUrl=made["QueueUrl"], AttributeNames=["QueueArn"])
            arns[queue.id] = told["Attributes"]["QueueArn"]
        self._client, self.urls, self._arns = client, urls, arns

    async def stop(self) -> None:
        """Disconnect; the queues stay."""
        await self._stack.aclose()

    def source(self, queue: str) -> Source:
        """Return what an event source mapping reads from."""
        return SqsSource(self._connected, self.urls[queue], name=self._declared[queue].name, arn=self._arns[queue])

    async def send(self, queue: str, bodies: Sequence[str]) -> None:
        """Send messages to a queue, ten a call and the calls in parallel.

        Raises:
            OSError: some were not taken; all have to be sent again.
        """
        batches = [bodies[at : at + _ENTRIES] for at in range(0, len(bodies), _ENTRIES)]
        await asyncio.gather(*(self._send_batch(self.urls[queue], batch) for batch in batches))

    async def waiting(self) -> dict[str, int]:
        """Return by name how many messages each queue has, those in flight included."""
        found = {}
        for id_, url in self.urls.items():
            told = await self._connected.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
            counts = (int(n) for name, n in told["Attributes"].items() if name.startswith("ApproximateNumberOfMess"))
            found[self._declared[id_].name] = sum(counts)
        return found

    @property
    def _connected(self) -> "SQSClient":
        if self._client is None:
            raise RuntimeError("the queues are not started")
        return self._client

    async def _send_batch(self, url: str, bodies: Sequence[str]) -> None:
        entries: list[Any] = [{"Id": str(at), "MessageBody": body} for at, body in enumerate(bodies)]
        answer = await self._connected.send_message_batch(QueueUrl=url, Entries=entries)
        if failed := answer.get("Failed"):
            raise OSError(f"SQS did not take {len(failed)} messages: {failed[0].get('Message', failed[0]['Code'])}")
