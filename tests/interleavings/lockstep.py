"""Threads that run in turn with the scheduler: never two at once, so that a schedule is the same each time."""

import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.interleavings.machine import Step


class ThreadKilled(BaseException):
    """Unwinds a thread whose schedule is over."""


class Thread:
    """A thread that runs only while the scheduler waits for it, so that it is one more coroutine."""

    def __init__(self) -> None:
        self._go = threading.Semaphore(0)
        self._back = threading.Semaphore(0)
        self._work: Callable[[], None] = lambda: None
        self.idle = True
        self.killed = False
        self.step: Step | None = None  # that it waits for
        self.answer: Any = None
        self.failure: BaseException | None = None
        threading.Thread(target=self._loop, daemon=True, name="lockstep").start()

    def run(self, work: Callable[[], None]) -> None:
        """Begin, and return when the work is done or waits for a step."""
        self._work, self.idle = work, False
        self.resume()

    def resume(self) -> None:
        """Go on, and return when the work is done or waits for a step."""
        self._go.release()
        self._back.acquire()

    def wait(self) -> None:
        """Let the scheduler go on; called in the thread."""
        if self.killed:
            raise ThreadKilled
        self._back.release()
        self._go.acquire()
        if self.killed:
            raise ThreadKilled

    def kill(self) -> None:
        """Unwind it."""
        self.killed = True
        self.resume()
        self.killed = False

    def _loop(self) -> None:
        while True:
            self._go.acquire()
            with contextlib.suppress(ThreadKilled):
                self._work()
            self.idle = True
            self._back.release()
