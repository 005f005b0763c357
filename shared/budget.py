"""The memory that everything in one function shares, in bytes: packs, the trees that warm writers keep, listings.

Each limit on its own holds one item back; six items at once are six times that. So what takes more than a little asks
here first, and waits until others have given theirs back.
"""

import asyncio
import threading
from collections import OrderedDict, deque
from concurrent.futures import Future
from functools import cache
from types import TracebackType
from typing import Final, Self

from shared.errors import StoreUnavailable, TooLarge

KEPT_SHARE: Final = 4  # kept things may take the budget's fourth part


class Budget:
    """Grants room in the order in which it was asked for.

    It is used from any thread. A holder never asks for more: it gives back what it holds and asks again, so that no two
    wait for each other.

    Args:
        total: bytes.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._lock = threading.Lock()
        self._free = total
        self._waiting: deque[tuple[int, Future[None]]] = deque()
        self._kept: OrderedDict[object, tuple[int, object]] = OrderedDict()

    def ask(self, size: int, what: str) -> "Room":
        """Return room that is granted now, or in its turn: see `Room.granted`.

        Args:
            size: bytes.
            what: needs it, for the message.

        Raises:
            TooLarge: it is more than there is in all.
        """
        if size > self.total:
            raise TooLarge(
                f"{what} needs {size} bytes of memory, over the function's {self.total}: make it smaller, or let the"
                " operator raise LANDFALL_MEMORY_BYTES"
            )
        granted: Future[None] = Future()
        with self._lock:
            self._waiting.append((size, granted))
            self._grant()
        return Room(self, size, granted)

    def keep(self, owner: object, thing: object, size: int) -> None:
        """Keep something until it is taken or others need the room; what was kept least recently goes first."""
        with self._lock:
            self._forget(owner)
            if size > self.total // KEPT_SHARE or self._waiting:
                return
            self._kept[owner] = (size, thing)
            self._free -= size
            while self._free < 0 or sum(kept for kept, _ in self._kept.values()) > self.total // KEPT_SHARE:
                self._forget(next(iter(self._kept)))

    def take(self, owner: object) -> "tuple[object, Room] | None":
        """Return what is kept for an owner, with the room that it takes; None where there is nothing any more."""
        with self._lock:
            if owner not in self._kept:
                return None
            size, thing = self._kept.pop(owner)
        granted: Future[None] = Future()
        granted.set_result(None)
        return thing, Room(self, size, granted)

    def forget(self, owner: object) -> None:
        """Forget what is kept for an owner."""
        with self._lock:
            self._forget(owner)
            self._grant()

    def give_back(self, size: int) -> None:
        """Take back bytes that were granted; for `Room`."""
        with self._lock:
            self._free += size
            self._grant()

    def withdraw(self, granted: "Future[None]") -> bool:
        """Take a request back; return whether it was still waiting; for `Room`."""
        with self._lock:
            waiting = [entry for entry in self._waiting if entry[1] is not granted]
            found = len(waiting) < len(self._waiting)
            self._waiting = deque(waiting)
            self._grant()
        return found

    def _forget(self, owner: object) -> None:
        if owner in self._kept:
            self._free += self._kept.pop(owner)[0]

    def _grant(self) -> None:
        while self._waiting:
            size, granted = self._waiting[0]
            while self._free < size and self._kept:
                self._forget(next(iter(self._kept)))
            if self._free < size:
                return
            self._waiting.popleft()
            if granted.set_running_or_notify_cancel():  # who waited may have been cancelled
                self._free -= size
                granted.set_result(None)


class Room:
    """Bytes of a budget, to be given back.

    Attributes:
        size: bytes.
        granted: done when they may be used.
    """

    def __init__(self, budget: Budget, size: int, granted: "Future[None]") -> None:
        self._budget, self.size, self.granted = budget, size, granted

    async def wait(self, seconds: float) -> None:
        """Wait until the bytes may be used.

        Raises:
            StoreUnavailable: others have had them for all that time.
        """
        try:
            await asyncio.wait_for(asyncio.wrap_future(self.granted), seconds)
        except TimeoutError:
            self.release()
            raise StoreUnavailable(
                f"the function's memory was in use for {seconds:.0f} seconds; it is tried again later"
            ) from None

    def shrink(self, size: int) -> None:
        """Give back all but so many bytes."""
        less = max(0, self.size - size)
        self.size -= less
        self._budget.give_back(less)

    def release(self) -> None:
        """Give everything back, or stop waiting for it."""
        if self._budget.withdraw(self.granted) or self.granted.cancelled():
            self.size = 0
        self.shrink(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def trim() -> None:
    """Give memory that is free back to the system, where the C library can: glibc keeps it, for each thread its own."""
    import ctypes  # noqa: PLC0415 -- most containers never have that much

    if (malloc_trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        malloc_trim(0)


@cache
def of(total: int) -> Budget:
    """Return the one budget of this process of so many bytes."""
    return Budget(total)
