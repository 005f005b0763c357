"""What goes wrong: functions killed at work, messages lost, doubled and reordered, networks slow, cut and silent."""

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping

from infra.local.queues import MemoryQueues
from infra.local.runtime import LocalRuntime
from infra.local.sources import Message
from tests.chaos.journal import Journal
from tests.servers.proxy import Proxy, Stream

LOST, DOUBLED, LATE = 0.03, 0.06, 0.12  # of all messages

# A message is put aside after five deliveries that fail; ours must not be what puts it aside.
_KILL_GAP_SECONDS = 3.0
_DELIVERIES_KILLED = 3


class Faults:
    """Faults that are on from `start` to `stop`, drawn from one seed."""

    def __init__(self, runtime: LocalRuntime, proxies: Mapping[str, Proxy], journal: Journal, seed: int) -> None:
        self._runtime = runtime
        self._proxies = proxies
        self._journal = journal
        self._random = random.Random(f"{seed} faults")
        self._on = False
        self._tasks: list[asyncio.Task[None]] = []
        self.poisoned: list[tuple[str, str]] = []
        if not isinstance(runtime.queues, MemoryQueues):
            raise TypeError("messages can be lost and doubled in the runtime's own queues only")
        self._queues = runtime.queues.queues
        template = runtime._template
        self._sources = {template.functions[mapping.function].name: mapping.queue for mapping in template.mappings}
        self._aside = {queue: template.queues[queue].dead_letter for queue in self._sources.values()}
        for queue in self._aside:
            self._queues[queue].carry = self._carry

    def start(self) -> None:
        """Let things go wrong."""
        self._on = True
        self._tasks = [asyncio.create_task(self._kill()), asyncio.create_task(self._poison())]
        self._tasks += [asyncio.create_task(self._disturb(name)) for name in self._proxies]

    async def stop(self) -> None:
        """Let nothing more go wrong; what is on its way arrives."""
        self._on = False
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        for proxy in self._proxies.values():
            # A connection whose end was swallowed would be waited on for minutes: all are cut, once.
            await asyncio.to_thread(proxy.down)
            await asyncio.to_thread(proxy.clear)
        for error in ended:
            if isinstance(error, Exception):
                raise error

    def _carry(self, message: Message, delay: float) -> Iterator[tuple[Message, float]]:
        poisoned = any(body == message.body for _, body in self.poisoned)
        fate = self._random.random() if self._on and not poisoned else 1.0
        if fate < LOST:
            self._journal.fault("messages lost")
            return
        if fate < LOST + DOUBLED:
            self._journal.fault("messages doubled")
            yield Message(message.body, attributes=message.attributes), delay + self._random.uniform(0, 4)
        elif fate < LOST + DOUBLED + LATE:
            self._journal.fault("messages reordered")
            delay += self._random.uniform(0.1, 3)
        yield message, delay

    async def _kill(self) -> None:
        killed: dict[str, float] = {}
        while True:
            await asyncio.sleep(self._random.uniform(0.3, 1.5))
            until = time.monotonic() + 2
            while time.monotonic() < until:
                now = time.monotonic()
                busy = [
                    (name, pid)
                    for name, pool in self._runtime.functions.items()
                    for pid in sorted(worker.pid or 0 for worker in pool.at_work)
                    if pid and now - killed.get(name, 0) > _KILL_GAP_SECONDS and self._may_be_killed(name)
                ]
                if busy:
                    name, pid = self._random.choice(busy)
                    # Somewhere in the middle of it.
                    await asyncio.sleep(self._random.uniform(0, 0.08))
                    if any(worker.pid == pid for worker in self._runtime.functions[name].at_work):
                        os.kill(pid, signal.SIGKILL)
                        killed[name] = now
                        self._journal.fault(f"{name} killed at work")
                        break
                await asyncio.sleep(0.01)

    def _may_be_killed(self, function: str) -> bool:
        if function not in self._sources:
            return True
        at_work = self._queues[self._sources[function]]._in_flight.values()
        return all(message.receives <= _DELIVERIES_KILLED for message in at_work)

    async def _poison(self) -> None:
        """Put messages that nobody can read beside the others; they belong in the dead-letter queues, alone."""
        while True:
            await asyncio.sleep(self._random.uniform(4, 12))
            queue = self._random.choice(list(self._aside))
            body = f'{{"poison": {len(self.poisoned)}}}' if self._random.random() < 0.7 else f"p{len(self.poisoned)} {{"
            self.poisoned.append((queue, body))
            self._journal.fault("poison messages")
            self._queues[queue].send(Message(body))

    async def _disturb(self, name: str) -> None:
        proxy = self._proxies[name]
        # The cluster's own API is nearer than the stores, and everything needs it.
        rest, length = ((4, 12), 2.0) if name == "kubernetes" else ((0.5, 6), 5.0)
        while True:
            await asyncio.sleep(self._random.uniform(*rest))
            stream: Stream = self._random.choice(("downstream", "upstream"))
            kind = self._random.choice(("latency", "reset", "timeout", "cut", "down", "slow close", "bandwidth"))
            self._journal.fault(f"{name}: {kind}")
            await _to_the_end(self._spoil, proxy, kind, stream)
            await asyncio.sleep(self._random.uniform(0.3, length))
            await _to_the_end(proxy.clear)
            self._journal.diary.append((time.monotonic(), f"{name}: well again"))

    def _spoil(self, proxy: Proxy, kind: str, stream: Stream) -> None:
        match kind:
            case "latency":
                proxy.latency(self._random.choice((50, 300, 1500)), jitter=40, stream=stream)
            case "reset":
                proxy.reset_peer(after_milliseconds=self._random.choice((0, 20, 200)), stream=stream)
            case "timeout":
                proxy.timeout(self._random.choice((0, 500)), stream=stream)
            case "cut":
                proxy.limit_data(self._random.choice((0, 700, 4000, 20000)), stream=stream)
            case "down":
                proxy.down()
            case "slow close":
                proxy.slow_close(800, stream=stream)
            case _:
                proxy.bandwidth(4, stream=stream)

    async def unexpected_dead_letters(self) -> list[str]:
        """Return, as sentences, what was put aside that was not poisoned, and what was poisoned and not put aside."""
        wrong = []
        for queue, dead_letter in self._aside.items():
            aside = sorted(message.body for message in self._queues[dead_letter].messages)
            poisoned = sorted(body for name, body in self.poisoned if name == queue)
            wrong += [f"{queue}: a message was put aside: {body[:300]}" for body in aside if body not in poisoned]
            wrong += [f"{queue}: {body} was not put aside, once" for body in poisoned if aside.count(body) != 1]
        return wrong


async def _to_the_end(call: Callable[..., None], *arguments: object) -> None:
    """Run a call in a thread; one that is cancelled ends first, or its fault would begin after all have been ended."""
    running = asyncio.ensure_future(asyncio.to_thread(call, *arguments))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await running
        raise
