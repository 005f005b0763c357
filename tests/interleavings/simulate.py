"""`make simulate`: the real use cases on servers in memory, with the latencies of SQS, Lambda and the servers.

What is computed is real: every message, call, batch and write of the functions. What is assumed is how long each takes:
`Latencies`. The functions' own CPU time is this machine's, times a factor.
"""

import argparse
import heapq
import itertools
import random
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from infra.forwarder.changes import Changes
from infra.local.embedded.kubernetes.schema import Kind
from shared.deadline import Deadline
from shared.errors import LandfallError, first
from tests.interleavings import scenarios
from tests.interleavings.kubernetes_api import BY_NAME
from tests.interleavings.large import (
    LargeBucket,
    LargeMachine,
    LargeObjects,
    LargeQueues,
    LargeSqsClient,
    server_of,
)
from tests.interleavings.machine import START, Step
from tests.interleavings.world import FUNCTIONS, Function, Invocation, World

Object = dict[str, Any]

_ROOT: Final = Path(__file__).parents[2]
_BATCH: Final = 10  # messages that a mapping hands out without a window
_STREAM_SECONDS: Final = 0.3  # as in shared/runtime: a function that served so lately takes the rest of its queue
_READS: Final = ("get", "list")


@dataclass(frozen=True)
class Latencies:
    """Seconds that things take; each is drawn from 0.7 to 1.6 times as long.

    Attributes:
        kubernetes, store, queue: a call to the API server, to the State Store, to SQS.
        scan: of the API server, for each object of a kind that a list goes over; measured: 1 us.
        item: for each object in a list's answer, made there and read here; measured: 45 us.
        invoke: from a message in a queue until its function runs, where a container is warm.
        cold: more, where none is.
        forward: from a change in the cluster until its event is in the queue.
        cpu: the functions' CPU time by this machine's.
    """

    kubernetes: float = 0.004
    store: float = 0.030
    queue: float = 0.010
    scan: float = 1e-6
    item: float = 45e-6
    invoke: float = 0.025
    cold: float = 1.5
    forward: float = 0.15
    cpu: float = 1.0

    def of(self, step: Step, objects: LargeObjects) -> float:
        """Return how long a call takes, but for what depends on its answer."""
        server = server_of(step.access)
        seconds = {"k8s": self.kubernetes, "sqs": self.queue}.get(server, self.store)
        if server == "k8s" and step.name.startswith("list "):
            kind = BY_NAME[step.access.key.split(":")[1]]
            seconds += self.scan * len(objects._keys[kind])
        return seconds * random.uniform(0.7, 1.6)


@dataclass
class Costs:
    """What a scenario has cost.

    Attributes:
        calls: by server, and whether they read.
        invocations: by function.
        messages: by queue.
    """

    calls: Counter[str] = field(default_factory=Counter)
    invocations: Counter[str] = field(default_factory=Counter)
    messages: Counter[str] = field(default_factory=Counter)


@dataclass
class SimulatedWorld(World):
    """A deployment of which everything takes time.

    Attributes:
        awaited: by kind, namespace and name, when an object was changed that is to become Ready.
        seconds: of each object that was awaited, from its change to its Ready.
    """

    latencies: Latencies = field(default_factory=Latencies)
    most: Mapping[str, int] = field(default_factory=dict)
    awaited: dict[tuple[str, str, str], float] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    costs: Costs = field(default_factory=Costs)
    _due: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _flying: set[int] = field(default_factory=set)
    _busy: Counter[str] = field(default_factory=Counter)
    _served_at: dict[int, float] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @classmethod
    def of(cls, latencies: Latencies, seed: int) -> "SimulatedWorld":
        """Return a world with a bucket and its State Store, and nothing else."""
        machine = LargeMachine(START)
        queues = LargeQueues(machine, latencies.forward)
        by_name = _most_at_once()
        made = cls(
            machine, LargeObjects(), queues, {}, {}, Changes(), itertools.count(1), latencies=latencies, most=by_name
        )
        made.enter(seed)
        for name in ("default", "landfall"):
            made.store.create(BY_NAME["Namespace"], "", {"metadata": {"name": name}})
        scenarios.declare_store(made, "bucket", {})
        made.buckets[scenarios.BUCKET] = LargeBucket(machine, scenarios.BUCKET)
        return made

    def await_ready(self, kind: str, namespace: str, name: str) -> None:
        """Measure an object from now until it is Ready in its present generation."""
        self.awaited[kind, namespace, name] = self.machine.now

    def run(self, tell: Callable[[str], None]) -> None:
        """Let everything happen until all is at rest.

        Raises:
            RuntimeError: something went wrong that the functions did not expect, or came to nothing.
        """
        shown = time.perf_counter()
        while True:
            self._fly()
            self._invoke()
            queues: Any = self.queues
            moments = [at for at in (self.machine.next_timer, queues.next_visible) if at is not None]
            moments += [self._due[0][0]] if self._due else []
            if not self._due and not queues.left and not self.invocations:
                break
            self.machine.advance(max(self.machine.now, min(moments)))
            while self._due and self._due[0][0] <= self.machine.now:
                heapq.heappop(self._due)[2]()
            if time.perf_counter() - shown > 15:
                shown = time.perf_counter()
                tell(f"    {len(self.awaited)} not Ready, {queues.left} messages, {self.machine.now - START:.1f} s")
        if self.machine.surprises or queues.dead or self.awaited:
            some = [*self.machine.surprises, *map(str, queues.dead), *map(str, self.awaited)][:3]
            raise RuntimeError(f"{len(self.awaited)} did not become Ready; {len(queues.dead)} dead letters: {some}")

    def _at(self, seconds: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.machine.now + seconds, next(self._numbers), do))

    def _fly(self, late: float = 0.0) -> None:
        """Set out the calls that were made since; those of a function that was computing are later by that."""
        for step in self.machine.pending:
            if id(step) not in self._flying:
                self._flying.add(id(step))
                self._at(late + self.latencies.of(step, self._objects), lambda step=step: self._land(step))  # type: ignore[misc]

    @property
    def _objects(self) -> LargeObjects:
        assert isinstance(self.store, LargeObjects)
        return self.store

    def _land(self, step: Step) -> None:
        self._flying.discard(id(step))
        if step not in self.machine.pending:
            return
        server, read = server_of(step.access), step.name.startswith(_READS)
        self.costs.calls[f"{server} {'reads' if read else 'writes'}" if server != "sqs" else "sqs"] += 1
        began = time.process_time()
        assert isinstance(self.machine, LargeMachine)
        answer = self.machine.carry_out(step)
        self._fly(late=(time.process_time() - began) * self.latencies.cpu + self._answering(answer))

    def _answering(self, answer: Any) -> float:
        """Return the seconds that an API server needs to make a list's answer."""
        body = answer[2] if isinstance(answer, tuple) and len(answer) == 3 and isinstance(answer[2], dict) else {}
        return self.latencies.item * len(body.get("items") or body.get("rows") or ())

    def _invoke(self) -> None:
        """Let Lambda invoke functions for messages that wait, as many at once as the template allows."""
        queues: Any = self.queues
        for queue in FUNCTIONS:
            while self._busy[queue] < self.most[queue] and queues.waits(queue):
                messages = queues.take(queue, _BATCH)
                if not messages:
                    break
                self._busy[queue] += 1
                cold = 0.0 if self._warm.get(queue) else self.latencies.cold
                wait = (self.latencies.invoke + cold) * random.uniform(0.7, 1.6)
                self._at(wait, lambda messages=messages: self._begin(messages))  # type: ignore[misc]

    def _begin(self, messages: Sequence[Any]) -> None:
        began = time.process_time()
        self.costs.invocations[messages[0].queue] += 1
        self.deliver(messages, 1)
        self._fly(late=(time.process_time() - began) * self.latencies.cpu)

    def _invocation(self, queue: str, name: str, seconds: int, chain: int) -> Invocation:
        made = super()._invocation(queue, name, seconds, chain)
        assert isinstance(self.queues, LargeQueues)
        made.connections.queues._client = LargeSqsClient(self.queues)  # type: ignore[assignment]
        return made

    async def _serve(
        self, invocation: Invocation, function: Function, records: Sequence[Mapping[str, Any]], seconds: int
    ) -> None:
        queue, connections = invocation.queue, invocation.connections
        if queue != "resync":
            served = self._served_at.get(id(connections), 0.0)
            if len(records) > 1 or self.machine.now - served < _STREAM_SECONDS:
                taking: Any = connections.queues
                take = getattr(taking, "receive_more", None) or taking.take
                deadline = Deadline.after(seconds - connections.settings.reserve_seconds)
                records = [*records, *await take(deadline)]
        try:
            await super()._serve(invocation, function, records, seconds)
        except Exception as error:
            if not isinstance(first(error), LandfallError):
                raise
        finally:
            self._busy[queue] -= 1
            self._served_at[id(connections)] = self.machine.now

    def _changed(self, kind: Kind, type_: str, obj: Object) -> None:
        super()._changed(kind, type_, obj)
        metadata = obj["metadata"]
        key = (kind.kind, metadata.get("namespace") or "", metadata["name"])
        if key in self.awaited and _is_ready(obj):
            self.seconds.append(self.machine.now - self.awaited.pop(key))


def _most_at_once() -> dict[str, int]:
    """Return how many invocations of each function a mapping has at once, by queue (template.yaml, Small: false)."""
    text = (_ROOT / "template.yaml").read_text()
    found = re.findall(
        r"Queue: !GetAtt (\w+)Queue\.Arn.*?MaximumConcurrency: (?:!If \[IsSmall, \d+, )?(\d+)", text, re.DOTALL
    )
    return {name.lower(): int(most) for name, most in found}


def _is_ready(obj: Object) -> bool:
    said = next((c for c in (obj.get("status") or {}).get("conditions") or () if c["type"] == "Ready"), None)
    generation = obj["metadata"]["generation"]
    return said is not None and said["status"] == "True" and said.get("observedGeneration", generation) == generation


@dataclass(frozen=True)
class Simulation:
    """A fleet, and what happens to it."""

    world: SimulatedWorld
    count: int
    tell: Callable[[str], None]

    def run(self) -> None:
        """Run everything, and tell of each."""
        few = max(1, self.count // 100)
        self._scenario(f"all {self.count:,} Destinations at once", self._destinations(range(self.count)))
        self._scenario(f"all {self.count:,} WorkPlacements at once", self._placements("w", range(self.count)))
        self._scenario("one Destination", self._destinations([self.count]))
        self._scenario("one WorkPlacement", self._placements("one", [0]))
        self._scenario(f"1 % of WorkPlacements at once ({few:,})", self._placements("few", range(few)))
        self._scenario(f"1 % of Destinations change at once ({few:,})", self._changes(range(few)))
        self._scenario("one relabelled Destination, with one Promise's dependencies", self._relabelled())
        self._scenario("a resync", [lambda: self.world.tick(1)])

    def _scenario(self, name: str, acts: Sequence[Callable[[], None]]) -> None:
        world = self.world
        world.seconds.clear()
        world.costs = Costs()
        assert isinstance(world.queues, LargeQueues)
        world.queues.sends.clear()
        began, wall = world.machine.now, time.perf_counter()
        world.machine.cause = 1
        for act in acts:
            act()
        world.run(self.tell)
        took = world.machine.now - began
        self.tell(f"{name}: at rest after {took:.2f} s")
        if world.seconds:
            spread = sorted(world.seconds)
            p99 = spread[min(len(spread) - 1, int(len(spread) * 0.99))]
            self.tell(f"    to Ready: p50 {statistics.median(spread):.2f} s, p99 {p99:.2f} s, {len(spread):,} objects")
        costs = world.costs
        self.tell(f"    calls: {', '.join(f'{n:,} {kind}' for kind, n in sorted(costs.calls.items()))}")
        invoked = ", ".join(f"{n:,} {FUNCTIONS[queue][0]}" for queue, n in sorted(costs.invocations.items()))
        sent = sum(world.queues.sends.values())
        self.tell(f"    {sent:,} messages; invocations: {invoked}; simulated in {time.perf_counter() - wall:.1f} s")

    def _destinations(self, numbers: Sequence[int] | range) -> list[Callable[[], None]]:
        def create(number: int) -> None:
            name = f"d{number:06}"
            self.world.create("Destination", scenarios.destination(name, "nestedByMetadata", "bucket"))
            self.world.await_ready("Destination", "", name)

        return [lambda number=number: create(number) for number in numbers]  # type: ignore[misc]

    def _placements(self, prefix: str, numbers: Sequence[int] | range) -> list[Callable[[], None]]:
        def create(number: int) -> None:
            name, target = f"{prefix}{number:06}", f"d{number:06}"
            obj = scenarios.placement(name, "nestedByMetadata", {"a.yaml": b"a: 1\n"}, targetDestinationName=target)
            obj["metadata"]["labels"]["kratix.io/targetDestinationName"] = target
            self.world.create("WorkPlacement", obj, "default")
            self.world.await_ready("WorkPlacement", "default", name)

        return [lambda number=number: create(number) for number in numbers]  # type: ignore[misc]

    def _changes(self, numbers: range) -> list[Callable[[], None]]:
        def change(number: int) -> None:
            name = f"d{number:06}"
            self.world.patch("Destination", "", name, lambda obj: obj["spec"].update(initWorkloads={"enabled": False}))
            self.world.await_ready("Destination", "", name)

        return [lambda number=number: change(number) for number in numbers]  # type: ignore[misc]

    def _relabelled(self) -> list[Callable[[], None]]:
        name = "d000000"

        def relabel() -> None:
            self.world.create("Work", scenarios.work({"aaaaa1": {"a.yaml": b"a: 1\n"}}, "relabelled"), "default")
            labels = {"environment": "relabelled"}
            self.world.patch("Destination", "", name, lambda obj: obj["metadata"].update(labels=labels))
            self.world.await_ready("WorkPlacement", "default", f"app.{name}-aaaaa")

        return [relabel]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's parameters."""
    parser.add_argument("--destinations", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    for each in fields(Latencies):
        parser.add_argument(f"--{each.name}", type=float, default=each.default, help="seconds; see Latencies")


def main(chosen: argparse.Namespace) -> int:
    """Run the simulation, and print what came of it."""
    latencies = Latencies(**{each.name: getattr(chosen, each.name) for each in fields(Latencies)})
    world = SimulatedWorld.of(latencies, chosen.seed)
    print(f"{chosen.destinations:,} Destinations in one bucket; {latencies}", flush=True)
    Simulation(world, chosen.destinations, lambda line: print(line, flush=True)).run()
    return 0
