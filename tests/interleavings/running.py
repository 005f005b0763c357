"""Runs a world by a plan: which chain of events goes on when, what is killed, doubled or lost."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Self

from tests.interleavings.machine import FLIGHT_SECONDS, Access, Step
from tests.interleavings.sqs import Message
from tests.interleavings.world import Invocation, World

# Of one schedule; more means that something never rests. Functions that wait for the Lease of a killed one look at it
# some thousand times.
MOST_EVENTS: Final = 20_000
LONGEST_SECONDS: Final = 4 * 3600.0  # of virtual time, likewise
_BATCH: Final = 10

# What a user does next: False while it cannot be done yet.
Act = Callable[[World], bool]


@dataclass(frozen=True)
class Plan:
    """Deviations from the schedule in which each operation is over before the next one begins.

    Written as `s12,k30`: a letter and the number of events that have happened by then.

    Attributes:
        switches (s): the other chain goes on, until it can no longer.
        turns (t): the same, and from then on they take turns whenever an invocation ends.
        merges (m): the next event, a delivery, brings the function all messages of both chains that its queue has.
        kills (k): the invocation that the last event belongs to is killed; what it has sent is lost.
        lands (l): the same, and what it has sent has its effect once the other chain can no longer go on.
        doubles (d): the messages of the next event, a delivery, are delivered once more when all is at rest.
        losses (x): the call of the next event is not carried out, and its caller sees a cut connection.
        cuts (c): the call of the next event is carried out, and its caller sees a cut connection.
    """

    actions: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a plan."""
        found: dict[int, str] = {}
        for part in filter(None, text.split(",")):
            match = re.fullmatch(r"([stmkldxc])(\d+)", part)
            if match is None:
                raise ValueError(f"{part!r} is no deviation: write a letter of s, t, m, k, l, d, x, c and a number")
            found[int(match[2])] = found.get(int(match[2]), "") + match[1]
        return cls(found)


@dataclass(frozen=True)
class Happened:
    """One event of a schedule.

    Attributes:
        what: for a person.
        access: of a call; None for a delivery and for what a user does.
        sends: whether it is a send to a queue.
        delivers: the queue of a delivery; empty for everything else.
    """

    chain: int
    what: str
    access: Access | None = None
    sends: bool = False
    delivers: str = ""


class NeverRests(Exception):
    """A schedule has too many events, or something waits for what never comes.

    Attributes:
        trace: what happened until then.
    """

    trace: Sequence["Happened"] = ()


class Runner:
    """Runs two or more chains of events, each begun by a user's operation."""

    def __init__(self, world: World, operations: Sequence[Sequence[Act]], plan: Plan) -> None:
        self.world = world
        self.trace: list[Happened] = []
        self._left = {number: list(acts) for number, acts in enumerate(operations, 1)}
        self._chains = list(self._left)
        self._plan = plan
        self._current = self._chains[0] if self._chains else 0
        self._turns = False
        self._doubled: list[Message] = []
        self._landing: list[Step] = []
        self._last: Invocation | None = None
        self._deviated = -1  # the number of events at which the plan was last asked
        self._tried: set[int] = set()  # chains whose user cannot go on now

    def run(self) -> None:
        """Run until nothing is left to happen.

        Raises:
            NeverRests: that does not come.
        """
        try:
            self._run()
        except NeverRests as error:
            error.trace = self.trace
            raise

    def _run(self) -> None:
        began = self.world.machine.now
        while True:
            self._deviate()
            if self._go_on() or self._switch() or self._end_of_everything():
                if len(self.trace) > MOST_EVENTS:
                    raise NeverRests(f"more than {MOST_EVENTS} events")
                if self.world.machine.now - began > LONGEST_SECONDS:
                    raise NeverRests(f"something goes on for over {LONGEST_SECONDS / 3600:g} hours")
                continue
            return

    def _deviate(self) -> None:
        if len(self.trace) == self._deviated:
            return
        self._deviated = len(self.trace)
        for letter in self._plan.actions.get(len(self.trace), ""):
            if letter in "st":
                self._current = self._other()
                self._turns = self._turns or letter == "t"
            elif letter in "kl" and self._last is not None and self._last in self.world.invocations:
                mine = [step for step in self.world.machine.pending if step.actor is self._last.actor]
                self.world.kill(self._last)
                self._note(self._current, f"KILLED {self._last.actor.name}")
                self._landing += mine if letter == "l" else []
                for step in mine:
                    self.world.machine.drop(step)

    def _go_on(self) -> bool:
        """Let the current chain go on by one event; False where it cannot."""
        world, machine, chain = self.world, self.world.machine, self._current
        letters = self._plan.actions.get(len(self.trace), "")
        for step in [step for step in machine.pending if step.abandoned]:
            machine.drop(step)
        for step in [step for step in machine.pending if step.actor.chain == chain][:1]:
            self._last = next((i for i in world.invocations if i.actor is step.actor), None)
            self._note(chain, f"{step.actor.name}: {step.name}", step.access, sends=step.name.startswith("send "))
            faulty = bool(step.errors) and ("x" in letters or "c" in letters)
            machine.perform(step, error=0 if faulty else None, applied="x" not in letters or not faulty)
            if self._turns and self._last is not None and self._last.done and self._could(self._other()):
                self._current = self._other()
            return True
        batch = self._batch(chain, merged="m" in letters)
        if batch:
            if "d" in letters:
                self._doubled += batch
            words = f"{len(batch)} of {batch[0].queue}: {' '.join(m.id for m in batch)}"
            self._note(chain, f"DELIVERED {words}", delivers=batch[0].queue)
            self._last = world.deliver(batch, chain)
            return True
        for act in self._left.get(chain, [])[:1]:
            machine.cause = chain
            if act(world):
                self._left[chain].pop(0)
                self._note(chain, f"USER {getattr(act, '__name__', 'acts')}")
                return True
            self._tried.add(chain)
        if any(cause == chain for *_, cause in world.garbage):
            world.garbage.sort(key=lambda entry: entry[-1] != chain)
            world.collect_garbage()
            self._note(chain, "GARBAGE collected")
            return True
        return False

    def _batch(self, chain: int, *, merged: bool) -> list[Message]:
        visible = self.world.queues.visible()
        first = next((message for message in visible if message.chain == chain), None)
        if first is None:
            return []
        if not merged:
            return [first]
        others = [m for m in visible if m.queue == first.queue and m is not first]
        return [first, *others][:_BATCH]

    def _other(self) -> int:
        at = self._chains.index(self._current)
        return self._chains[(at + 1) % len(self._chains)]

    def _switch(self) -> bool:
        """Let another chain go on, as the current one cannot; False where none can."""
        for chain in self._chains:
            if chain != self._current and self._could(chain):
                self._current = chain
                return True
        return False

    def _could(self, chain: int) -> bool:
        world = self.world
        return (
            any(step.actor.chain == chain and not step.abandoned for step in world.machine.pending)
            or any(message.chain == chain for message in world.queues.visible())
            or any(cause == chain for *_, cause in world.garbage)
            or (bool(self._left.get(chain)) and chain not in self._tried)
        )

    def _end_of_everything(self) -> bool:
        """Let happen what comes when no chain can go on: late effects, time, redelivery; False at the very end."""
        world, machine = self.world, self.world.machine
        if self._landing:
            step = self._landing.pop(0)
            if machine.now - step.issued <= FLIGHT_SECONDS:
                machine.pending.append(step)
                self._note(step.actor.chain, f"LATE {step.name}", step.access)
                machine.perform(step)
            return True
        moments = [at for at in (machine.next_timer, world.queues.next_visible) if at is not None]
        busy = bool(world.queues.messages) or any(not i.done for i in world.invocations)
        if busy and moments:
            machine.advance(min(moments))
            return True
        if busy:
            raise NeverRests(f"{[i.actor.name for i in world.invocations]} wait for what never comes")
        if self._doubled:
            for message in self._doubled:
                world.queues.messages.append(Message(message.id + "'", message.queue, message.body, message.chain, 0))
            self._doubled.clear()
            return True
        return False

    def _note(
        self, chain: int, what: str, access: Access | None = None, *, sends: bool = False, delivers: str = ""
    ) -> None:
        self.trace.append(Happened(chain, what, access, sends, delivers))
        self._tried.clear()
