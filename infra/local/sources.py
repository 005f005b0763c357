"""What an event source mapping reads from: a queue in memory, and the interface that real SQS fits too."""

import asyncio
import hashlib
import heapq
import itertools
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

FIRST_REDELIVERY_SECONDS: Final = 2.0
LAST_REDELIVERY_SECONDS: Final = 60.0


@dataclass
class Message:
    """A message as a queue gives it out.

    Attributes:
        body: text.
        id: the queue's name for the message.
        receipt: the queue's name for this very reception.
        receives: how often it has been given out, this time included.
        sent_at, first_received_at: seconds since the epoch.
        attributes: message attributes in the form that SQS's API has (`StringValue`, `DataType`).
    """

    body: str
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    receipt: str = ""
    receives: int = 0
    sent_at: float = field(default_factory=time.time)
    first_received_at: float = 0
    attributes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def md5(self) -> str:
        """The body's digest, as SQS tells it."""
        return hashlib.md5(self.body.encode(), usedforsecurity=False).hexdigest()


class Source(Protocol):
    """A queue, seen from an event source mapping."""

    name: str
    arn: str

    async def receive(self, limit: int, wait_seconds: float) -> list[Message]:
        """Return what is there, at most `limit` messages; wait for the first one so long, then return nothing."""

    async def delete(self, messages: Sequence[Message]) -> None:
        """Settle messages for good."""

    async def give_back(self, messages: Sequence[Message]) -> None:
        """Let messages be received again, later."""

    async def abandon(self) -> None:
        """Let everything be received again that a function had received itself and that now has ended."""


class MemoryQueue:
    """A queue in memory, with what this system relies on of SQS: delays, redelivery, a dead-letter queue.

    A message that is given back becomes visible after 2 s, then 4 s, 8 s, up to a minute: SQS would wait for its
    visibility time-out, which is longer than anybody at a terminal waits. For the same reason a function
    that hands a message back itself cannot make it stay away for longer than that.

    Attributes:
        name: what people call it.
        arn: what events carry.
        sent: how many messages were sent to it.
        settled: how many were deleted.
        returned: how many were given back.
        carry: from a message that is sent to what arrives, each with its delay; a test may lose, double or delay it.
    """

    def __init__(
        self,
        name: str,
        arn: str,
        *,
        max_receives: int = 0,
        dead_letter: "MemoryQueue | None" = None,
        first_redelivery_seconds: float = FIRST_REDELIVERY_SECONDS,
    ) -> None:
        self.name = name
        self.arn = arn
        self.sent = self.settled = self.returned = 0
        self.carry: Callable[[Message, float], Iterable[tuple[Message, float]]] = lambda *sent: (sent,)
        self._max_receives = max_receives
        self._dead_letter = dead_letter
        self._first_redelivery_seconds = first_redelivery_seconds
        self._ready: deque[Message] = deque()
        self._later: list[tuple[float, int, Message]] = []
        self._in_flight: dict[str, Message] = {}
        self._taken: set[str] = set()  # receipts of what a function received itself
        self._order = itertools.count()
        self._arrived = asyncio.Event()

    @property
    def messages(self) -> list[Message]:
        """Every message that waits here: ready ones first, then delayed ones."""
        return [*self._ready, *(message for _, _, message in sorted(self._later))]

    @property
    def in_flight(self) -> int:
        """How many messages are given out and not settled."""
        return len(self._in_flight)

    def send(self, message: Message, delay_seconds: float = 0) -> None:
        """Take a message."""
        self.sent += 1
        for arriving, delay in self.carry(message, delay_seconds):
            self._put(arriving, delay)

    async def receive(self, limit: int, wait_seconds: float) -> list[Message]:
        """Return what is there, at most `limit` messages; wait for the first one so long, then return nothing."""
        deadline = time.monotonic() + wait_seconds
        while True:
            self._arrived.clear()
            self._mature()
            if self._ready:
                return [self._give_out(self._ready.popleft()) for _ in range(min(limit, len(self._ready)))]
            wake = min(deadline, self._later[0][0] if self._later else deadline)
            left = wake - time.monotonic()
            if left <= 0 and wake == deadline:
                return []
            try:
                async with asyncio.timeout(max(left, 0)):
                    await self._arrived.wait()
            except TimeoutError:
                continue

    def take(self, limit: int) -> list[Message]:
        """Return what is there, at most `limit` messages, for a function that receives on its own."""
        self._mature()
        taken = [self._give_out(self._ready.popleft()) for _ in range(min(limit, len(self._ready)))]
        self._taken |= {message.receipt for message in taken}
        return taken

    def settle(self, receipt: str) -> bool:
        """Delete a message for good; False where it is not in flight by that receipt."""
        self._taken.discard(receipt)
        known = self._in_flight.pop(receipt, None) is not None
        self.settled += known
        return known

    def hide(self, receipt: str, seconds: float) -> bool:
        """Let a message be received again after so long; False where it is not in flight by that receipt."""
        message = self._in_flight.get(receipt)
        if message is None:
            return False
        self._return(message, min(seconds, self._redelivery_seconds(message)))
        return True

    async def delete(self, messages: Sequence[Message]) -> None:
        """Settle messages for good."""
        for message in messages:
            self.settle(message.receipt)

    async def abandon(self) -> None:
        """Let everything be received again that functions had received themselves: the one that had it has ended.

        SQS would wait for their visibility time-out.
        """
        await self.give_back([self._in_flight[receipt] for receipt in self._taken])

    async def give_back(self, messages: Sequence[Message]) -> None:
        """Let messages be received again after a while, or put them aside after so many receptions."""
        for message in messages:
            if message.receipt in self._in_flight:
                self._return(message, self._redelivery_seconds(message))

    def _redelivery_seconds(self, message: Message) -> float:
        return min(self._first_redelivery_seconds * 2.0 ** (message.receives - 1), LAST_REDELIVERY_SECONDS)

    def _return(self, message: Message, delay_seconds: float) -> None:
        self._taken.discard(message.receipt)
        del self._in_flight[message.receipt]
        self.returned += 1
        if self._dead_letter is not None and message.receives >= self._max_receives:
            self._dead_letter.send(message)
        else:
            self._put(message, delay_seconds)

    def _put(self, message: Message, delay_seconds: float) -> None:
        if delay_seconds > 0:
            heapq.heappush(self._later, (time.monotonic() + delay_seconds, next(self._order), message))
        else:
            self._ready.append(message)
        self._arrived.set()

    def _mature(self) -> None:
        now = time.monotonic()
        while self._later and self._later[0][0] <= now:
            self._ready.append(heapq.heappop(self._later)[2])

    def _give_out(self, message: Message) -> Message:
        message.receives += 1
        message.receipt = str(uuid.uuid4())
        message.first_received_at = message.first_received_at or time.time()
        self._in_flight[message.receipt] = message
        return message
