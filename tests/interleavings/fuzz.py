"""Random schedules: several users, kills, duplicates, reordering, late effects, faults; each is one number.

A schedule draws all it does from its seed. `seed:n` is the same schedule whose first `n` draws count, and in which
everything goes on in order after them: a failing one is cut to the fewest draws that fail.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

from tests.interleavings import scenarios
from tests.interleavings.machine import FLIGHT_SECONDS, Step
from tests.interleavings.oracle import Expectation, differences
from tests.interleavings.running import LONGEST_SECONDS, MOST_EVENTS, Act, NeverRests, Plan, Runner
from tests.interleavings.sqs import Message
from tests.interleavings.world import Invocation, World

Object = dict[str, Any]

_ACTORS: Final = (3, 5)
_ACTS: Final = (1, 3)  # of each
_KILL: Final = 0.01  # of an event
_FAULT: Final = 0.02  # of a call
_DOUBLE: Final = 0.04  # of a delivery
_PAUSE: Final = 0.01  # of an event: time passes although something could go on
_LONGEST_PAUSE: Final = 40.0
# Whether Destinations move. Off while what they leave at their old place stays there (docs/failure-modes.md#46-moves).
MOVES: Final = False
_NESTED: Final = {"worker/inside/notes.txt": b"of somebody, in the nested Destination's directory\n"}


@dataclass
class Found:
    """What came of a random schedule."""

    name: str
    before: Sequence[str]
    after: Sequence[str]
    trace: Sequence[str]


@dataclass
class Chance:
    """Where a schedule's decisions come from.

    Attributes:
        left: draws that count; after them the answer is the least disturbing one.
        drawn: how many there were.
    """

    random: random.Random
    left: int
    drawn: int = 0

    def one_of(self, count: int) -> int:
        """Return one of so many."""
        if count < 2:
            return 0
        return self.random.randrange(count) if self._draw() else 0

    def happens(self, probability: float) -> bool:
        """Return whether something rare happens."""
        return self._draw() and self.random.random() < probability

    def between(self, low: float, high: float) -> float:
        """Return a number."""
        return self.random.uniform(low, high) if self._draw() else low

    def _draw(self) -> bool:
        self.drawn += 1
        return self.drawn <= self.left


def attempt(name: str) -> Found:
    """Run the random schedule of that name, `<seed>` or `<seed>:<draws>`."""
    seed, _, draws = name.partition(":")
    chosen = random.Random(f"operations {seed}")
    mode, store = chosen.choice(scenarios.MODES), chosen.choice(scenarios.STORES)
    world = _prepared(mode, store).fork(int(seed))
    where = scenarios.BUCKET if store == "bucket" else scenarios.GIT_URL
    expected = Expectation({where: {**scenarios.STRANGERS, **_NESTED}})
    operations = [_operations(chosen, mode, store, where, expected) for _ in range(chosen.randint(*_ACTORS))]
    chance = Chance(random.Random(f"schedule {seed}"), int(draws) if draws else 10**9)
    runner = RandomRunner(world, operations, chance)
    runner.trace.append(f"seed {name}: mode {mode}, {store}")
    before, after = [], []
    try:
        runner.run()
        before = differences(world, expected)
        again = Runner(world, [[scenarios.tick]], Plan())
        again.run()
        runner.trace += [f"RESYNC {event.what}" for event in again.trace]
        after = differences(world, expected)
    except NeverRests as error:
        before, after = [str(error)], [str(error)]
    world.close()
    return Found(f"{seed}:{draws or chance.drawn}", before, after, runner.trace)


def minimal(name: str) -> Found:
    """Return the shortest form of a failing schedule that still fails."""
    found = attempt(name)
    low, high = 0, int(found.name.partition(":")[2])
    seed = name.partition(":")[0]
    while low < high:
        middle = (low + high) // 2
        shorter = attempt(f"{seed}:{middle}")
        if shorter.after or shorter.before:
            found, high = shorter, middle
        else:
            low = middle + 1
    return found


class RandomRunner:
    """Lets anything happen next that can."""

    def __init__(self, world: World, operations: Sequence[Sequence[Act]], chance: Chance) -> None:
        self.world = world
        self.trace: list[str] = []
        self._left = [list(acts) for acts in operations]
        self._chance = chance
        self._landing: list[Step] = []
        self._events = 0

    def run(self) -> None:
        """Run until nothing is left to happen.

        Raises:
            NeverRests: that does not come.
        """
        machine = self.world.machine
        began = machine.now
        while self._events < MOST_EVENTS and machine.now - began < LONGEST_SECONDS:
            self._events += 1
            self._set_aside()
            if self._overdue() or self._kill() or self._pause():
                continue
            choices = self._choices()
            # Acts of users that cannot be done yet are passed over.
            while choices:
                choice = choices.pop(self._chance.one_of(len(choices)))
                if choice():
                    break
            else:
                if not self._let_time_pass():
                    return
        raise NeverRests(f"{self._events} events in {machine.now - began:.0f} s, and still not at rest")

    def _choices(self) -> list[Callable[[], bool]]:
        """Return what can happen next, the least disturbing first: calls, deliveries, what users do, late effects."""
        world = self.world
        found: list[Callable[[], bool]] = [self._performing(step) for step in world.machine.pending]
        visible = world.queues.visible()
        found += [self._delivering(message, visible) for message in visible]
        if world.garbage:
            found.append(self._collect)
        found += [self._acting(number) for number, acts in enumerate(self._left) if acts]
        found += [self._landing_of(step) for step in self._landing]
        return found

    def _performing(self, step: Step) -> Callable[[], bool]:
        def perform() -> bool:
            error, applied = None, True
            if step.errors and self._chance.happens(_FAULT):
                error, applied = self._chance.one_of(len(step.errors)), self._chance.happens(0.5)
            fault = "" if error is None else f"; FAULT {error}, {'applied' if applied else 'not applied'}"
            self._note(f"{step.actor.name} {id_of(step)}: {step.name}{fault}")
            self.world.machine.perform(step, error=error, applied=applied)
            return True

        return perform

    def _delivering(self, message: Message, visible: Sequence[Message]) -> Callable[[], bool]:
        def deliver() -> bool:
            batch = [message]
            for other in visible:
                if other is not message and other.queue == message.queue and self._chance.one_of(2):
                    batch.append(other)
            if self._chance.happens(_DOUBLE):
                delay = self._chance.between(0, 60)
                again = self.world.machine.now + delay
                copy = Message(f"{message.id}'", message.queue, message.body, message.chain, again)
                self.world.queues.messages.append(copy)
                self._note(f"DOUBLED {message.id}, after {delay:.0f} s")
            self._note(f"DELIVERED {len(batch)} of {message.queue}: {' '.join(m.id for m in batch)}")
            self.world.deliver(batch[:10], message.chain)
            return True

        return deliver

    def _acting(self, number: int) -> Callable[[], bool]:
        def act() -> bool:
            self.world.machine.cause = number + 1
            if not self._left[number][0](self.world):
                return False
            done = self._left[number].pop(0)
            self._note(f"USER {number + 1} {getattr(done, '__name__', 'acts')}")
            return True

        return act

    def _landing_of(self, step: Step) -> Callable[[], bool]:
        def land() -> bool:
            self._landing.remove(step)
            self.world.machine.pending.append(step)
            self._note(f"LATE {step.actor.name}: {step.name}")
            self.world.machine.perform(step)
            return True

        return land

    def _collect(self) -> bool:
        self._note("GARBAGE collected")
        self.world.collect_garbage()
        return True

    def _set_aside(self) -> None:
        """Take calls from those on their way that nobody waits for any more: they are lost, or land later."""
        machine = self.world.machine
        for step in [step for step in machine.pending if step.abandoned]:
            machine.drop(step)
            if step.access.writes and self._chance.happens(0.5):
                self._landing.append(step)

    def _overdue(self) -> bool:
        """Let a call land whose longest flight is over."""
        for step in self._landing:
            if self.world.machine.now - step.issued >= FLIGHT_SECONDS:
                return self._landing_of(step)()
        return False

    def _kill(self) -> bool:
        # What is killed at each of its receives is in the dead-letter queue, as it should be: nothing else comes of it.
        most = self.world.queues.most_receives
        living = [each for each in self.world.invocations if all(m.receives < most for m in each.messages)]
        if not living or not self._chance.happens(_KILL):
            return False
        invocation: Invocation = living[self._chance.one_of(len(living))]
        self._note(f"KILLED {invocation.actor.name}")
        self.world.kill(invocation)
        return True

    def _pause(self) -> bool:
        if not self._chance.happens(_PAUSE):
            return False
        seconds = self._chance.between(0.1, _LONGEST_PAUSE)
        self._advance(self.world.machine.now + seconds)
        return True

    def _let_time_pass(self) -> bool:
        world, machine = self.world, self.world.machine
        if self._landing:
            return self._landing_of(self._landing[0])()
        moments = [at for at in (machine.next_timer, world.queues.next_visible) if at is not None]
        busy = bool(world.queues.messages) or bool(world.invocations) or any(self._left)
        if not busy:
            return False
        if not moments:
            if any(self._left) and not world.queues.messages and not world.invocations:
                return False  # users wait for what does not come; the oracle says what is wrong, if anything
            raise NeverRests("something waits for what never comes")
        self._advance(min(moments))
        return True

    def _advance(self, until: float) -> None:
        """Let time pass, though no further than calls on their way may take."""
        machine = self.world.machine
        flights = [step.issued + FLIGHT_SECONDS for step in (*machine.pending, *self._landing)]
        until = max(machine.now, min([until, *flights]))
        self._note(f"{until - machine.now:.1f} s pass")
        machine.advance(until)
        late = [step for step in machine.pending if not step.abandoned and until - step.issued >= FLIGHT_SECONDS]
        for step in late:
            if step in machine.pending:
                machine.perform(step)

    def _note(self, text: str) -> None:
        self.trace.append(text)


def id_of(step: Step) -> str:
    """Return a short name of an invocation."""
    return f"#{step.actor.number}"


@cache
def _prepared(mode: str, store: str) -> World:
    world = World.new()
    scenarios.declare_store(world, store, {**scenarios.STRANGERS, **_NESTED})
    world.create("Destination", scenarios.destination("worker", mode, store))
    world.create("Destination", scenarios.destination("inner", mode, store, path="worker/inside"))
    world.create("WorkPlacement", scenarios.placement("w", mode, {"a.yaml": b"a: 1\n", "b.yaml": b"b: 1\n"}), "default")
    world.create("WorkPlacement", scenarios.placement("v", mode, {"v.yaml": b"v: 1\n"}), "default")
    Runner(world, [], Plan()).run()
    Runner(world, [[scenarios.tick]], Plan()).run()
    return world


def _operations(chosen: random.Random, mode: str, store: str, where: str, expected: Expectation) -> list[Act]:
    """Return what one user does, one after the other."""
    acts: list[Act] = []
    for _ in range(chosen.randint(*_ACTS)):
        acts += chosen.choice(_KINDS)(chosen, mode, store, where, expected)
    return acts


@dataclass
class _Names:
    """Names that operations are about."""

    placements: tuple[str, ...] = ("w", "v", "u")
    destinations: tuple[str, ...] = ("worker", "inner")
    contents: tuple[bytes, ...] = field(default=(b"1", b"2", b"3", b"4"))


_NAMES: Final = _Names()


def _files(chosen: random.Random, name: str) -> dict[str, bytes]:
    picked = chosen.sample("abcd", chosen.randint(1, 3))
    return {f"{name}-{letter}.yaml": chosen.choice(_NAMES.contents) for letter in picked}


def _placed(chosen: random.Random, mode: str, *_: Any) -> list[Act]:
    name, target = chosen.choice(_NAMES.placements), chosen.choice(_NAMES.destinations)
    obj = scenarios.placement(name, mode, _files(chosen, name), targetDestinationName=target)
    obj["metadata"]["labels"]["kratix.io/targetDestinationName"] = target
    return [scenarios.create_or_pass("WorkPlacement", "default", obj)]


def _changed(chosen: random.Random, *_: Any) -> list[Act]:
    name = chosen.choice(_NAMES.placements)
    files = scenarios.workloads(_files(chosen, name))
    return [scenarios.change_or_pass("WorkPlacement", "default", name, lambda o: o["spec"].update(workloads=files))]


def _removed(chosen: random.Random, *_: Any) -> list[Act]:
    return [scenarios.delete("WorkPlacement", "default", chosen.choice(_NAMES.placements))]


def _made_anew(chosen: random.Random, mode: str, *_: Any) -> list[Act]:
    name = chosen.choice(_NAMES.placements)
    obj = scenarios.placement(name, mode, _files(chosen, name))
    return [
        scenarios.delete("WorkPlacement", "default", name),
        scenarios.create_or_pass("WorkPlacement", "default", obj),
    ]


def _touched(chosen: random.Random, *_: Any) -> list[Act]:
    name, value = chosen.choice(_NAMES.destinations), str(chosen.random())
    return [scenarios.change_or_pass("Destination", "", name, lambda o: o["metadata"]["labels"].update(touched=value))]


def _toggled(chosen: random.Random, *_: Any) -> list[Act]:
    name, enabled = chosen.choice(_NAMES.destinations), chosen.random() < 0.5
    return [
        scenarios.change_or_pass(
            "Destination", "", name, lambda o: o["spec"].update(initWorkloads={"enabled": enabled})
        )
    ]


def _deleted(chosen: random.Random, mode: str, store: str, where: str, expected: Expectation) -> list[Act]:
    return [scenarios.delete_destination(chosen.choice(_NAMES.destinations), where, expected)]


def _restored(chosen: random.Random, mode: str, store: str, where: str, expected: Expectation) -> list[Act]:
    name = chosen.choice(_NAMES.destinations)
    spec = {} if name == "worker" else {"path": "worker/inside"}
    obj = scenarios.destination(name, mode, store, **spec)
    return [scenarios.delete_destination(name, where, expected), scenarios.create_or_pass("Destination", "", obj)]


def _moved(chosen: random.Random, *_: Any) -> list[Act]:
    path = chosen.choice(("moved", "moved/deeper", "worker"))
    return [scenarios.change_or_pass("Destination", "", "worker", lambda o: o["spec"].update(path=path))]


def _resynced(*_: Any) -> list[Act]:
    return [scenarios.tick]


_KINDS: Final = (
    *(_placed, _changed, _removed, _made_anew) * 2,
    _touched,
    _toggled,
    _deleted,
    _restored,
    _resynced,
    *((_moved,) if MOVES else ()),
)
