"""Queues as SQS has them: unordered, at least once, delays, visibility timeouts, receive counts, dead letters."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tests.interleavings.machine import CURRENT, Access, Machine

MAX_RECEIVES: Final = 6  # of the template, for every queue
VISIBILITY_SECONDS: Final = {
    "changes": 360,
    "status": 360,
    "canary": 720,
    "cleanup": 720,
    "works": 720,
    "documents": 720,
}
NAMES: Final = tuple(VISIBILITY_SECONDS)
_SLACK: Final = 1e-6


@dataclass
class Message:
    """A message in a queue.

    Attributes:
        chain: number of the user's operation that it follows from.
        visible_at: virtual seconds since the epoch.
        deleted: whether it is settled; another delivery of it may be under way all the same.
    """

    id: str
    queue: str
    body: str
    chain: int
    visible_at: float
    receives: int = 0
    deleted: bool = False

    def __str__(self) -> str:
        return f"{self.id} in {self.queue}"


@dataclass
class Queues:
    """All queues of a deployment.

    Attributes:
        messages: not yet settled, the oldest first.
        dead: what was received too often.
    """

    machine: Machine
    messages: list[Message] = field(default_factory=list)
    dead: list[Message] = field(default_factory=list)
    sent: int = 0
    most_receives: int = MAX_RECEIVES

    def send(self, queue: str, body: str, chain: int, delay: float = 0) -> None:
        """Put a message into a queue."""
        self.sent += 1
        self.messages.append(Message(f"m{self.sent}", queue, body, chain, self.machine.now + delay))

    def visible(self) -> list[Message]:
        """Return what can be received now; what was received too often goes aside."""
        now = self.machine.now + _SLACK
        found = []
        for message in list(self.messages):
            if message.visible_at > now:
                continue
            if message.receives >= self.most_receives:
                self.messages.remove(message)
                self.dead.append(message)
            else:
                found.append(message)
        return found

    def receive(self, message: Message, seconds: float | None = None) -> dict[str, Any]:
        """Hand a message out: it is hidden, and comes back unless it is deleted."""
        message.receives += 1
        message.visible_at = self.machine.now + (seconds or VISIBILITY_SECONDS[message.queue])
        return {
            "MessageId": message.id,
            "ReceiptHandle": f"{message.id}#{message.receives}",
            "Body": message.body,
            "Attributes": {"ApproximateReceiveCount": str(message.receives)},
        }

    def delete(self, receipt: str) -> None:
        """Settle a message, by any of its receipts (which a standard queue takes)."""
        self.messages = [message for message in self.messages if message.id != receipt.partition("#")[0]]

    def settle(self, receipts: Sequence[str]) -> None:
        """Settle messages."""
        for receipt in receipts:
            self.delete(receipt)

    def hide(self, receipt: str, seconds: float) -> None:
        """Change when a message is seen again; a receipt that is not the newest changes nothing."""
        for message in self.messages:
            if f"{message.id}#{message.receives}" == receipt:
                message.visible_at = self.machine.now + seconds

    @property
    def next_visible(self) -> float | None:
        """When the next hidden message can be received."""
        later = [m.visible_at for m in self.messages if m.visible_at > self.machine.now + _SLACK]
        return min(later, default=None)

    def fork(self, machine: Machine) -> "Queues":
        """Return queues that begin with the same messages."""
        return Queues(machine, [replace(m) for m in self.messages], list(self.dead), self.sent)


class SqsClient:
    """What the functions' queues have instead of aiobotocore's client; a queue's URL is its name."""

    def __init__(self, queues: Queues) -> None:
        self._queues = queues

    async def __aexit__(self, *_: object) -> None:
        pass

    async def send_message_batch(self, *, QueueUrl: str, Entries: Sequence[Mapping[str, Any]]) -> Any:
        chain = CURRENT.get().chain

        def apply() -> Any:
            for entry in Entries:
                self._queues.send(QueueUrl, entry["MessageBody"], chain, entry.get("DelaySeconds", 0))
            return {"Successful": [{"Id": entry["Id"]} for entry in Entries]}

        return await self._call("send", QueueUrl, apply, _ERRORS)

    async def receive_message(
        self, *, QueueUrl: str, MaxNumberOfMessages: int, VisibilityTimeout: int, **_: Any
    ) -> Any:
        def apply() -> Any:
            queues = self._queues
            found = [m for m in queues.visible() if m.queue == QueueUrl][:MaxNumberOfMessages]
            return {"Messages": [queues.receive(message, VisibilityTimeout) for message in found]}

        return await self._call("receive", QueueUrl, apply)

    async def delete_message_batch(self, *, QueueUrl: str, Entries: Sequence[Mapping[str, Any]]) -> Any:
        def apply() -> Any:
            for entry in Entries:
                self._queues.delete(entry["ReceiptHandle"])
            return {}

        return await self._call("delete", QueueUrl, apply)

    async def change_message_visibility_batch(self, *, QueueUrl: str, Entries: Sequence[Mapping[str, Any]]) -> Any:
        def apply() -> Any:
            for entry in Entries:
                self._queues.hide(entry["ReceiptHandle"], entry["VisibilityTimeout"])
            return {}

        return await self._call("hide", QueueUrl, apply)

    async def _call(
        self, what: str, queue: str, apply: Callable[[], Any], errors: tuple[Callable[[], BaseException], ...] = ()
    ) -> Any:
        access = Access(f"sqs:{queue}", writes=True, commutes=True)
        return await self._queues.machine.call(f"{what} {queue}", access, apply, errors)


_ERRORS: Final = (lambda: ConnectionResetError("the connection was cut"),)
