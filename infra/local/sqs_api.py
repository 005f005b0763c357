"""SQS's HTTP API in front of the queues in memory, as far as the functions use it.

Protocol: AWS JSON 1.0, the one of every AWS SDK since 2023. Quotas and error codes are those of the SQS API reference.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from aiohttp import web

from infra.local.sources import MemoryQueue, Message
from infra.local.template import ACCOUNT

_MAX_ENTRIES: Final = 10
_MAX_BYTES: Final = 1024 * 1024
_MAX_DELAY_SECONDS: Final = 900
_PREFIX: Final = "landfall-"


class _Refused(Exception):
    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class SqsApi:
    """Serves the queues on a port of this machine.

    Attributes:
        url: of the endpoint.
    """

    def __init__(self, queues: Mapping[str, MemoryQueue], host: str = "127.0.0.1") -> None:
        self.url = ""
        self._host = host
        self._queues = {f"{_PREFIX}{queue.name}": queue for queue in queues.values()}
        self._runner: web.AppRunner | None = None

    def queue_url(self, queue: MemoryQueue) -> str:
        """Return the URL by which the API knows a queue."""
        return f"{self.url}/{ACCOUNT}/{_PREFIX}{queue.name}"

    async def start(self) -> None:
        """Listen on a free port."""
        app = web.Application(client_max_size=2 * _MAX_BYTES)
        app.router.add_post("/", self._handle)
        app.router.add_post("/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, self._host, 0).start()
        self.url = f"http://{self._host}:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _handle(self, request: web.Request) -> web.Response:
        operation = request.headers.get("X-Amz-Target", "").rpartition(".")[2]
        try:
            answer = self._answer(operation, json.loads(await request.read() or b"{}"))
        except _Refused as refused:
            body = {"__type": f"com.amazonaws.sqs#{refused.code}", "message": str(refused)}
            return _json(body, status=400, headers={"x-amzn-query-error": f"{refused.code};Sender"})
        except (ValueError, KeyError, TypeError, AttributeError):
            return _json({"__type": "com.amazon.coral.service#SerializationException"}, status=400)
        return _json(answer)

    def _answer(self, operation: str, request: Mapping[str, Any]) -> dict[str, Any]:
        if operation == "GetQueueUrl":
            return {"QueueUrl": self.queue_url(self._queue(request["QueueName"]))}
        queue = self._queue(request["QueueUrl"].rpartition("/")[2])
        act = _OPERATIONS.get(operation)
        if act is None:
            what = operation or "an unnamed operation"
            raise _Refused("UnsupportedOperation", f"the local queues do not know {what}")
        return act(queue, request)

    def _queue(self, name: str) -> MemoryQueue:
        try:
            return self._queues[name]
        except KeyError:
            raise _Refused("QueueDoesNotExist", f"there is no queue {name!r} here") from None


def _send(queue: MemoryQueue, request: Mapping[str, Any]) -> dict[str, Any]:
    message, delay = _message(request)
    queue.send(message, delay)
    return {"MessageId": message.id, "MD5OfMessageBody": message.md5}


def _attributes(queue: MemoryQueue, _: Mapping[str, Any]) -> dict[str, Any]:
    waiting, in_flight = str(len(queue.messages)), str(queue.in_flight)
    counts = {"ApproximateNumberOfMessages": waiting, "ApproximateNumberOfMessagesNotVisible": in_flight}
    return {"Attributes": {"QueueArn": queue.arn, **counts}}


def _receive(queue: MemoryQueue, request: Mapping[str, Any]) -> dict[str, Any]:
    """Give messages to a function that asks for more than its event brought; it never waits for any."""
    limit = int(request.get("MaxNumberOfMessages") or 1)
    if not 1 <= limit <= _MAX_ENTRIES:
        raise _Refused("InvalidParameterValue", f"MaxNumberOfMessages is 1 to {_MAX_ENTRIES}, not {limit}")
    return {
        "Messages": [
            {
                "MessageId": message.id,
                "ReceiptHandle": message.receipt,
                "Body": message.body,
                "MD5OfBody": message.md5,
                "Attributes": {
                    "ApproximateReceiveCount": str(message.receives),
                    "SentTimestamp": str(int(message.sent_at * 1000)),
                },
                "MessageAttributes": dict(message.attributes),
            }
            for message in queue.take(limit)
        ]
    }


def _delete_batch(queue: MemoryQueue, request: Mapping[str, Any]) -> dict[str, Any]:
    return _each(request, lambda entry: queue.settle(entry["ReceiptHandle"]))


def _hide_batch(queue: MemoryQueue, request: Mapping[str, Any]) -> dict[str, Any]:
    return _each(request, lambda entry: queue.hide(entry["ReceiptHandle"], int(entry["VisibilityTimeout"])))


def _each(request: Mapping[str, Any], act: Callable[[Mapping[str, Any]], bool]) -> dict[str, Any]:
    """Do something with each entry's message; one that is not in flight by its receipt fails alone."""
    entries = request["Entries"]
    _check(entries)
    done = {entry["Id"]: act(entry) for entry in entries}
    refusal = {"Code": "ReceiptHandleIsInvalid", "Message": "not in flight by that receipt", "SenderFault": True}
    return {
        "Successful": [{"Id": id_} for id_, good in done.items() if good],
        "Failed": [{"Id": id_, **refusal} for id_, good in done.items() if not good],
    }


def _check(entries: list[Mapping[str, Any]]) -> None:
    if not entries:
        raise _Refused("EmptyBatchRequest", "there must be at least one entry")
    if len(entries) > _MAX_ENTRIES:
        raise _Refused("TooManyEntriesInBatchRequest", f"at most {_MAX_ENTRIES} entries, {len(entries)} were sent")
    if len({entry["Id"] for entry in entries}) < len(entries):
        raise _Refused("BatchEntryIdsNotDistinct", "two entries have one Id")


def _send_batch(queue: MemoryQueue, request: Mapping[str, Any]) -> dict[str, Any]:
    entries = request["Entries"]
    _check(entries)
    if sum(len(entry["MessageBody"].encode()) for entry in entries) > _MAX_BYTES:
        raise _Refused("BatchRequestTooLong", f"the entries together are over {_MAX_BYTES} bytes")
    successful, failed = [], []
    for entry in entries:
        try:
            message, delay = _message(entry)
        except _Refused as refused:
            failed.append({"Id": entry["Id"], "Code": refused.code, "Message": str(refused), "SenderFault": True})
            continue
        queue.send(message, delay)
        successful.append({"Id": entry["Id"], "MessageId": message.id, "MD5OfMessageBody": message.md5})
    return {"Successful": successful, "Failed": failed}


def _message(request: Mapping[str, Any]) -> tuple[Message, float]:
    body, delay = request["MessageBody"], int(request.get("DelaySeconds") or 0)
    if not body or len(body.encode()) > _MAX_BYTES:
        raise _Refused("InvalidParameterValue", f"a message body has 1 to {_MAX_BYTES} bytes")
    if not 0 <= delay <= _MAX_DELAY_SECONDS:
        raise _Refused("InvalidParameterValue", f"DelaySeconds is 0 to {_MAX_DELAY_SECONDS}, not {delay}")
    return Message(body, attributes=request.get("MessageAttributes") or {}), delay


def _json(body: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.json_response(body, status=status, headers=headers, content_type="application/x-amz-json-1.0")


_OPERATIONS: Final[Mapping[str, Callable[[MemoryQueue, Mapping[str, Any]], dict[str, Any]]]] = {
    "SendMessage": _send,
    "SendMessageBatch": _send_batch,
    "ReceiveMessage": _receive,
    "DeleteMessageBatch": _delete_batch,
    "ChangeMessageVisibilityBatch": _hide_batch,
    "GetQueueAttributes": _attributes,
}
