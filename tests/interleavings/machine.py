"""The scheduler: virtual time, an event loop that runs what is ready, and the calls that wait to be carried out."""

import asyncio
import contextvars
import heapq
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from tests.interleavings.lockstep import Thread, ThreadKilled

T = TypeVar("T")

START: Final = 1_790_000_000.25  # virtual seconds since the epoch; not the beginning of a second
STEP_SECONDS: Final = 0.002  # that a call takes where nothing delays it
# The longest time from the sending of a call to its effect, whatever became of its caller. A client gives up after
# `store_timeout_seconds` (20) at most; what was on its way by then lands within the rest.
FLIGHT_SECONDS: Final = 25.0


@dataclass(frozen=True, slots=True)
class Access:
    """What a call reads or writes, for finding out which calls do not commute.

    Attributes:
        key: as `<server>:<place>:<name>`; a `*` at the end stands for all that begin so.
        writes: whether it changes anything there.
        commutes: whether its order among others makes no difference: sends to queues, Events.
    """

    key: str
    writes: bool
    commutes: bool = False

    def conflicts(self, other: "Access") -> bool:
        """Whether the order of the two can make a difference."""
        if self.commutes or other.commutes or not (self.writes or other.writes):
            return False
        return _covers(self.key, other.key) or _covers(other.key, self.key)


def _covers(one: str, other: str) -> bool:
    return other.startswith(one[:-1]) if one.endswith("*") else one == other


@dataclass(eq=False)
class Actor:
    """One invocation of a function. A killed one never runs again: no `except`, no `finally`.

    Attributes:
        chain: number of the user's operation that it follows from.
        name: of its function.
        number: among all of a world.
    """

    chain: int
    name: str
    number: int = 0
    dead: bool = False
    tasks: list["asyncio.Task[Any]"] = field(default_factory=list)


CURRENT: Final[contextvars.ContextVar[Actor]] = contextvars.ContextVar("actor")


@dataclass(eq=False)
class Step:
    """A call on its way to a server.

    Attributes:
        apply: carries it out at once, and returns its answer or raises its refusal.
        errors: what its client may see instead of an answer: a lost connection, a server in trouble.
    """

    actor: Actor
    name: str
    access: Access
    apply: Callable[[], Any]
    errors: tuple[Callable[[], BaseException], ...]
    issued: float
    future: "asyncio.Future[Any] | None" = None
    thread: "Thread | None" = None
    answered: bool = False

    @property
    def abandoned(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.actor.dead or self.answered or (self.future is not None and self.future.done())


_idle_threads: list[Thread] = []
_local = threading.local()


_EventLoop: Any = asyncio.AbstractEventLoop  # of which only what is used here is made


class Machine(_EventLoop):  # type: ignore[misc]
    """An event loop on a virtual clock, whose calls to servers wait until the scheduler picks them.

    Attributes:
        now: virtual seconds since the epoch; the monotonic clock shows the same.
        pending: calls that nobody has carried out yet, the oldest first.
        cause: number of the user's operation whose consequence happens now.
        surprises: what went wrong that no code of ours has dealt with.
    """

    def __init__(self, now: float = START) -> None:
        self.now = now
        self.pending: list[Step] = []
        self.cause = 0
        self.surprises: list[str] = []
        self._ready: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._order = 0
        self._threads: list[Thread] = []
        self._kept: list[Actor] = []

    # What a client does.

    async def call(
        self,
        name: str,
        access: Access,
        apply: Callable[[], T],
        errors: tuple[Callable[[], BaseException], ...] = (),
    ) -> T:
        """Make a call, and wait until the scheduler has carried it out."""
        future: asyncio.Future[T] = asyncio.Future(loop=self)
        self.pending.append(Step(CURRENT.get(), name, access, apply, errors, self.now, future))
        return await future

    def call_in_thread(
        self,
        name: str,
        access: Access,
        apply: Callable[[], T],
        errors: tuple[Callable[[], BaseException], ...],
        *,
        timeout: float,
        late: Callable[[], BaseException],
    ) -> T:
        """Do the same from code that is not asynchronous and runs in `run_in_executor`.

        Args:
            timeout: seconds after which the client sees `late` instead of an answer.
        """
        thread: Thread = _local.thread
        step = Step(CURRENT.get(), name, access, apply, errors, self.now, None, thread)
        self.pending.append(step)
        thread.step = step
        timer = self.call_later(timeout, self.fail, step, late())
        thread.wait()
        timer.cancel()
        if thread.failure is not None:
            raise thread.failure
        return thread.answer  # type: ignore[no-any-return]

    def sleep_in_thread(self, seconds: float) -> None:
        """Sleep, in such code."""
        thread: Thread = _local.thread
        context = contextvars.copy_context()
        self.call_later(seconds, thread.resume, context=context)
        thread.wait()

    # What the scheduler does.

    def perform(self, step: Step, *, error: int | None = None, applied: bool = True) -> None:
        """Carry a call out and let its caller go on until all wait again.

        Args:
            step: one of `pending`.
            error: which of its errors the caller sees instead of the answer.
            applied: whether it has its effect all the same.
        """
        self.pending.remove(step)
        self.now += STEP_SECONDS
        answer: Any = None
        failure: BaseException | None = None
        self.cause = step.actor.chain
        if applied:
            try:
                answer = step.apply()
            except Exception as refused:
                failure = refused
        if error is not None:
            failure = step.errors[error]()
        self._answer(step, answer, failure)
        self.run_ready()

    def fail(self, step: Step, failure: BaseException) -> None:
        """Let a caller see a failure while its call is on its way."""
        self._answer(step, None, failure)

    def drop(self, step: Step) -> None:
        """Let a call be lost whose caller does not wait for it any more."""
        self.pending.remove(step)

    def kill(self, actor: Actor) -> None:
        """End an invocation where it is. What it has sent may still arrive: that is for the scheduler to say."""
        actor.dead = True
        self._kept.append(actor)

    def advance(self, until: float) -> None:
        """Let time pass, and run what waited for it."""
        while self._timers and self._timers[0][0] <= until:
            when, _, handle = heapq.heappop(self._timers)
            if not handle.cancelled():
                self.now = max(self.now, when)
                self._ready.append(handle)
                self.run_ready()
        self.now = max(self.now, until)

    @property
    def next_timer(self) -> float | None:
        """When the next timer of a living invocation runs out."""
        while self._timers:
            when, _, handle = self._timers[0]
            if not handle.cancelled() and not _is_dead(handle):
                return when
            heapq.heappop(self._timers)
        return None

    def run_ready(self) -> None:
        """Run callbacks until everything waits for a call, a timer or the scheduler."""
        asyncio._set_running_loop(self)
        try:
            while self._ready:
                handle = self._ready.popleft()
                if not handle.cancelled() and not _is_dead(handle):
                    handle._run()
        finally:
            asyncio._set_running_loop(None)

    def start(self, coroutine: Coroutine[Any, Any, Any], actor: Actor) -> "asyncio.Task[Any]":
        """Begin an invocation; it runs until it waits."""
        context = contextvars.Context()
        context.run(CURRENT.set, actor)
        task = self.create_task(coroutine, context=context)
        self.run_ready()
        return task

    def close(self) -> None:
        """End the schedule: threads are unwound, and what is left of tasks is forgotten."""
        for thread in self._threads:
            if not thread.idle:
                thread.kill()
            _idle_threads.append(thread)
        self._threads.clear()
        self._ready.clear()
        self._timers.clear()
        self.pending.clear()

    def _answer(self, step: Step, answer: Any, failure: BaseException | None) -> None:
        if step.abandoned:
            return
        step.answered = True
        if step.thread is not None:
            step.thread.answer, step.thread.failure, step.thread.step = answer, failure, None
            step.thread.resume()
        elif step.future is not None:
            if failure is None:
                step.future.set_result(answer)
            else:
                step.future.set_exception(failure)

    # What asyncio asks of an event loop.

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def create_task(
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: Context | None = None, **_: Any
    ) -> "asyncio.Task[T]":
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # what is killed is pending for ever
        actor = context.get(CURRENT) if context is not None else CURRENT.get(None)
        if actor is not None:
            actor.tasks.append(task)
        return task

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._order += 1
        heapq.heappush(self._timers, (when, self._order, handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.surprises.append(f"{context.get('message')}: {context.get('exception')!r}")

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> "asyncio.Future[T]":
        """Run code that is not asynchronous in a thread that takes turns with the scheduler."""
        del executor
        future: asyncio.Future[T] = asyncio.Future(loop=self)
        thread = _idle_threads.pop() if _idle_threads else Thread()
        self._threads.append(thread)
        context = contextvars.copy_context()

        def work() -> None:
            _local.thread = thread
            try:
                result = func(*args)
            except ThreadKilled:
                raise
            except BaseException as error:
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)

        thread.run(lambda: context.run(work))
        return future


def _is_dead(handle: asyncio.Handle) -> bool:
    actor = handle._context.get(CURRENT)  # type: ignore[attr-defined]
    return actor is not None and actor.dead
