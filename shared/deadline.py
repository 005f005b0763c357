"""The one clock of an invocation: everything that waits is bounded by it."""

import time
from dataclasses import dataclass
from typing import Self

from shared.errors import OutOfTime


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock after which no new work begins.

    Attributes:
        at: seconds on `time.monotonic`'s clock.
    """

    at: float

    @classmethod
    def after(cls, seconds: float) -> Self:
        """Return the deadline so many seconds from now."""
        return cls(time.monotonic() + seconds)

    def later(self, seconds: float) -> Self:
        """Return a deadline so many seconds later: for publishing results after this one."""
        return type(self)(self.at + seconds)

    @property
    def remaining(self) -> float:
        """Seconds left; never negative."""
        return max(0.0, self.at - time.monotonic())

    @property
    def passed(self) -> bool:
        """Whether no time is left."""
        return time.monotonic() >= self.at

    def bound(self, seconds: float) -> float:
        """Return the timeout for a call: the given one, or the time left if that is less.

        Raises:
            OutOfTime: no time is left, so the call must not begin.
        """
        left = self.remaining
        if left <= 0:
            raise OutOfTime("the function's time is over; the item goes back to its queue and is done by the next run")
        return min(seconds, left)
