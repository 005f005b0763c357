"""Where events are sent: an EventBridge bus, an SNS topic or an SQS queue, ten at a time."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError

from infra.forwarder.settings import Settings

ENTRIES: Final = 10  # of PutEvents, PublishBatch and SendMessageBatch alike
# Ten events of `changes.Event.text` stay far below the 256 KB that the smallest of the three takes at once.
SOURCE: Final = "landfall.forwarder"
DETAIL_TYPE: Final = "Kubernetes object changed"
_CONFIG: Final = AioConfig(
    connect_timeout=5, read_timeout=15, retries={"mode": "standard", "total_max_attempts": 2}, max_pool_connections=10
)


class NotSent(Exception):
    """No event of a batch was accepted; the message says why."""


class Target:
    """Sends batches."""

    def __init__(self, client: Any, settings: Settings) -> None:
        self._client = client
        self._settings = settings

    async def send(self, bodies: Sequence[str]) -> dict[int, str]:
        """Send at most ten bodies, and return why some were not accepted, by index.

        Raises:
            NotSent: none was.
        """
        try:
            return await getattr(self, f"_send_to_{self._settings.service}")(bodies)  # type: ignore[no-any-return]
        except ClientError as error:
            raise NotSent(_words(error)) from None
        except (BotoCoreError, aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NotSent(f"{type(error).__name__}: {error}"[:300]) from None

    async def _send_to_events(self, bodies: Sequence[str]) -> dict[int, str]:
        bus = self._settings.target
        entries = [
            {"EventBusName": bus, "Source": SOURCE, "DetailType": DETAIL_TYPE, "Detail": body} for body in bodies
        ]
        answer = await self._client.put_events(Entries=entries)
        return {
            place: f"{entry['ErrorCode']}: {entry.get('ErrorMessage', '')}"
            for place, entry in enumerate(answer["Entries"])
            if entry.get("ErrorCode")
        }

    async def _send_to_sns(self, bodies: Sequence[str]) -> dict[int, str]:
        entries = [{"Id": str(place), "Message": body} for place, body in enumerate(bodies)]
        answer = await self._client.publish_batch(TopicArn=self._settings.target, PublishBatchRequestEntries=entries)
        return _failed(answer)

    async def _send_to_sqs(self, bodies: Sequence[str]) -> dict[int, str]:
        entries = [{"Id": str(place), "MessageBody": body} for place, body in enumerate(bodies)]
        answer = await self._client.send_message_batch(QueueUrl=self._queue_url, Entries=entries)
        return _failed(answer)

    @property
    def _queue_url(self) -> str:
        target = self._settings.target
        if not target.startswith("arn:"):
            return target
        account, name = target.split(":")[4:6]
        return f"{self._client.meta.endpoint_url}/{account}/{name}"


@asynccontextmanager
async def open_target(settings: Settings) -> AsyncIterator[Target]:
    """Open a client of the target's service, with whatever identity the pod has: Pod Identity, IRSA, environment."""
    async with get_session().create_client(settings.service, region_name=settings.region, config=_CONFIG) as client:
        yield Target(client, settings)


def _failed(answer: dict[str, Any]) -> dict[int, str]:
    return {int(each["Id"]): f"{each['Code']}: {each.get('Message', '')}" for each in answer.get("Failed") or ()}


def _words(error: ClientError) -> str:
    code = str(error.response["Error"].get("Code", ""))
    # What AWS says about a wrong signature repeats the request's headers, and the session token is one of them.
    message = "" if "Signature" in code else str(error.response["Error"].get("Message", ""))
    return f"{error.operation_name} answered {code} {message}"[:500].strip()
