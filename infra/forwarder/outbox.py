"""The events that wait to be sent: the newest event of each object, however long AWS is unavailable."""

import asyncio
import contextlib
import logging
import random
import time
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Protocol

from infra.forwarder.changes import Event, Key
from infra.forwarder.targets import ENTRIES, NotSent

BATCHES_AT_ONCE: Final = 4
_FIRST_BACKOFF_SECONDS: Final = 0.5
_LAST_BACKOFF_SECONDS: Final = 30.0

_log = logging.getLogger("landfall.forwarder")


class Sender(Protocol):
    """As `targets.Target`."""

    async def send(self, bodies: list[str]) -> dict[int, str]:
        """Send, and return why events were not accepted, by their index."""


@dataclass(frozen=True)
class Traffic:
    """What an outbox has sent, and what it still has.

    Attributes:
        sent: events that the target accepted, including heartbeats.
        failed: events that the target did not accept; each is sent again.
        sent_at: Unix time of the last send that the target accepted; 0 before the first.
        waiting: events that are not sent yet.
        oldest_seconds: for how long the oldest of them has waited.
    """

    sent: int
    failed: int
    sent_at: float
    waiting: int
    oldest_seconds: float


class Outbox:
    """Holds one event for each object, and sends until none is left.

    It never grows beyond the number of objects, it drops nothing, and `put` never waits. While AWS is unavailable, a
    later event of an object replaces the earlier one: receivers read the object again anyway.
    """

    def __init__(self, target: Sender, cluster: str) -> None:
        self._target = target
        self._cluster = cluster
        self._waiting: dict[Key, Event] = {}
        self._since: dict[Key, float] = {}  # on the monotonic clock: when the first event that is not sent yet came
        self._more = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()
        self._on_its_way = 0
        self._sent = self._failed = 0
        self._sent_at = 0.0
        self._stuck_since: float | None = None
        self._task = asyncio.create_task(self._run())

    def put(self, event: Event) -> None:
        """Queue an event."""
        if (older := self._waiting.get(event.key)) is not None:
            event = older.merged_into(event)
        self._waiting[event.key] = event
        self._since.setdefault(event.key, time.monotonic())
        self._more.set()
        self._empty.clear()

    def state(self) -> dict[str, Any]:
        """Return how many events were sent, how many wait, and for how many seconds nothing could be sent."""
        stuck = 0 if self._stuck_since is None else round(time.monotonic() - self._stuck_since)
        return {"sent": self._sent, "waiting": len(self._waiting) + self._on_its_way, "stuckSeconds": stuck}

    def traffic(self) -> Traffic:
        """Return what was sent since the start, and what waits."""
        oldest = min(self._since.values(), default=None)
        return Traffic(
            sent=self._sent,
            failed=self._failed,
            sent_at=self._sent_at,
            waiting=len(self._waiting) + self._on_its_way,
            oldest_seconds=0.0 if oldest is None else time.monotonic() - oldest,
        )

    async def close(self, seconds: float) -> None:
        """Send what waits, for at most so many seconds."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), seconds)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        if self._waiting:
            _log.error("%d events were not sent before the end; the next start sends them again", len(self._waiting))

    async def _run(self) -> None:
        backoff = _FIRST_BACKOFF_SECONDS
        while True:
            await self._more.wait()
            batches, sent = self._take(), self._sent
            self._on_its_way = sum(map(len, batches))
            try:
                why = set().union(*await asyncio.gather(*(self._send(batch) for batch in batches)))
            finally:
                self._on_its_way = 0
            if not self._waiting:
                self._more.clear()
                self._empty.set()
            if not why:
                self._stuck_since, backoff = None, _FIRST_BACKOFF_SECONDS
                continue
            if self._sent > sent:
                self._stuck_since, backoff = None, _FIRST_BACKOFF_SECONDS
            else:
                self._stuck_since = self._stuck_since or time.monotonic()
            _log.error("%d events wait, again in %.1f s: %s", len(self._waiting), backoff, "; ".join(sorted(why)[:3]))
            await asyncio.sleep(backoff * random.uniform(0.7, 1.3))  # noqa: S311 -- jitter
            backoff = min(backoff * 2, _LAST_BACKOFF_SECONDS)

    def _take(self) -> list[list[Event]]:
        events = [self._waiting[key] for key in list(islice(self._waiting, ENTRIES * BATCHES_AT_ONCE))]
        for event in events:
            del self._waiting[event.key]
        return [events[start : start + ENTRIES] for start in range(0, len(events), ENTRIES)]

    async def _send(self, batch: list[Event]) -> set[str]:
        try:
            failed = await self._target.send([event.text(self._cluster) for event in batch])
        except NotSent as error:
            failed = dict.fromkeys(range(len(batch)), str(error))
        except BaseException as error:
            self._take_back(batch)
            if not isinstance(error, Exception):
                raise
            self._failed += len(batch)
            _log.exception("sending failed with an unexpected error")
            return {type(error).__name__}
        if len(failed) < len(batch):
            self._sent_at = time.time()
        for place, event in enumerate(batch):
            if place not in failed and event.key not in self._waiting:
                self._since.pop(event.key, None)
        self._take_back([batch[place] for place in failed])
        self._sent += len(batch) - len(failed)
        self._failed += len(failed)
        return set(failed.values())

    def _take_back(self, events: list[Event]) -> None:
        for event in events:
            newer = self._waiting.get(event.key)
            self._waiting[event.key] = event if newer is None else event.merged_into(newer)
            self._more.set()
