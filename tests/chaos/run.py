"""One chaos run: shake, let settle, resync, and compare the world with the model."""

import asyncio
import os
import pickle
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.local.queues import MemoryQueues
from infra.local.runtime import LocalRuntime
from tests.chaos.faults import Faults
from tests.chaos.journal import FOR_EVER, Journal
from tests.chaos.model import Contents
from tests.chaos.neighbours import Neighbours
from tests.chaos.operations import DESTINATIONS, Destinations
from tests.chaos.verdicts import Verdicts
from tests.chaos.world import SECRETS, World
from tests.progress import telling

ROUNDS = 2  # of resync; the aim is that the first one is enough
_CATCH_UP_SECONDS = 60.0
_SETTLE_SECONDS = 240.0  # generous: the machine is shared
_TOUCHES_STORES = ("write-canary", "cleanup")


@dataclass
class Report:
    """What a run found.

    Attributes:
        rounds: differences after each resync, the last one empty if all is well.
        before: how many there were before the first.
        phases: of the run, with the moments at which they ended, in seconds since its beginning.
    """

    seed: int
    journal: Journal
    before: int = 0
    rounds: list[list[str]] = field(default_factory=list)
    allowances: Counter[str] = field(default_factory=Counter)
    phases: dict[str, float] = field(default_factory=dict)
    live: int = 0
    files: int = 0

    @property
    def differences(self) -> list[str]:
        """What is still wrong at the end."""
        return self.rounds[-1]

    def __str__(self) -> str:
        lines = [f"seed {self.seed}; {', '.join(f'{phase} at {at:.0f} s' for phase, at in self.phases.items())}"]
        for title, counts in (("operations", self.journal.operations), ("faults", self.journal.faults)):
            lines.append(f"{title}: {counts.total()}")
            lines += [f"  {count:6} {what}" for what, count in sorted(counts.items())]
        lines.append("left as it is, where the contract leaves it open:")
        lines += [f"  {count:6} {why}" for why, count in sorted(self.allowances.items())]
        lines.append(f"compared: {self.live} live Destinations, {self.files} files, all statuses and finalizers")
        lines.append(f"differences before any resync: {self.before}")
        for number, found in enumerate(self.rounds, 1):
            lines.append(f"differences after resync {number}: {len(found)}")
            lines += [f"  {sentence}" for sentence in found]
        return "\n".join(lines)


async def chaos(
    world: World,
    *,
    seconds: float,
    seed: int,
    names: int = 20,
    concurrency: int = 1,
    log: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Shake a world for so long, and compare it with the model when it is quiet again.

    Args:
        world: with nothing declared in its cluster.
        seconds: of shaking; settling comes on top.
        seed: of operations and faults. What they meet depends on the machine's timing all the same.
        names: how many Destinations live at most.
        concurrency: processes a function.
        log: where the functions' output goes.
        say: gets a line of progress from time to time.
    """
    journal = world.journal
    report = Report(seed, journal)
    seen = _Seen()
    began = time.monotonic()

    def reached(phase: str) -> None:
        report.phases[phase] = time.monotonic() - began

    def progress() -> str:
        minutes, passed = divmod(int(time.monotonic() - began), 60)
        counts = f"{journal.operations.total()} operations, {journal.faults.total()} faults"
        return f"[{minutes:3}:{passed:02}] {list(report.phases)[-1] if report.phases else 'starting'}; {counts}"

    kubeconfig = world.api.write_kubeconfig(world.api.token, url=world.proxies["kubernetes"].url(world.api.url))
    async with (
        telling(progress, say),
        LocalRuntime(
            kubeconfig=kubeconfig,
            environment=_environment(world),
            resync_seconds=min(45.0, seconds / 2),
            concurrency=concurrency,
            first_redelivery_seconds=0.5,
            log_path=log,
            observe=seen.observe,
        ) as runtime,
    ):
        watching = asyncio.create_task(_watch(runtime, journal))
        faults = Faults(runtime, world.proxies, journal, seed)
        try:
            reached("started")
            for store in world.stores.values():
                await world.set_secret(store, store.right)
                await world.declare(store, store.paths[0])
            await _shake(world, faults, seconds, seed, names)
            reached("shaken")
            # A State Store that stays broken is tried again at each resync: with one every few seconds, without end.
            await runtime.stop_schedules()
            try:
                async with asyncio.timeout(_SETTLE_SECONDS):
                    await _settle(world, runtime, seen)
                    reached("settled")
                    report.before = len(await _compare(world, faults, report))
                    for number in range(1, ROUNDS + 1):
                        await runtime.resync()
                        await runtime.idle()
                        reached(f"resync {number} done")
                        report.rounds.append(await _compare(world, faults, report))
                        if not report.differences:
                            break
                    reached("compared")
            except TimeoutError:
                raise AssertionError(f"not at rest after {_SETTLE_SECONDS:.0f} s: {await _at_work(runtime)}") from None
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
    if report.differences and log is not None:
        # What the model judged by, to be looked into and judged again.
        log.with_suffix(".journal").write_bytes(pickle.dumps((journal, report)))
    return report


async def _shake(world: World, faults: Faults, seconds: float, seed: int, names: int) -> None:
    chance = random.Random(f"{seed} operations")
    destinations = Destinations(world, chance, names)
    neighbours = Neighbours(world, chance, destinations)
    end = time.monotonic() + seconds
    faults.start()
    try:
        while time.monotonic() < end:
            for _ in range(chance.choice((1, 1, 1, 2, 8))):  # bursts, so that batches are of several sizes
                action = destinations.draw() if chance.random() < 0.72 else neighbours.draw()
                await action()
            await destinations.look()
            await neighbours.put_right()
            await asyncio.sleep(chance.uniform(0, 0.6))
    finally:
        await faults.stop()
    await neighbours.put_right(all_of_them=True)
    # What is being deleted from a State Store that is broken for good would only wait for the grace.
    until = time.monotonic() + 30
    while time.monotonic() < until and any(
        d.deletion and d.deletion.gone == FOR_EVER for d in world.journal.destinations
    ):
        await destinations.look()
        await asyncio.sleep(0.2)
    await neighbours.leave_two_broken()


async def _settle(world: World, runtime: LocalRuntime, seen: "_Seen") -> None:
    """Wait until the forwarder has caught up with the last change of each kind, and no message is anywhere."""
    for kind in ("Destination", "BucketStateStore", "GitStateStore"):
        for obj in (await world.objects(kind))[:1]:
            mark = secrets.token_hex(8)
            name = obj["metadata"]["name"]
            store = world.stores.get((kind, name))
            path = DESTINATIONS if store is None else store.path
            await world.call("PATCH", f"{path}/{name}", {"metadata": {"labels": {"mark": mark}}})
            await seen.mark(mark)
    await runtime.idle()


async def _at_work(runtime: LocalRuntime) -> str:
    """Return what keeps a flow from coming to rest: messages, and which functions ran within some seconds."""
    assert isinstance(runtime.queues, MemoryQueues)
    before = {name: pool.invocations for name, pool in runtime.functions.items()}
    sent: list[str] = []
    for _ in range(100):
        for id_, queue in runtime.queues.queues.items():
            if "dead" not in queue.name:
                found = [*queue.messages, *queue._in_flight.values()]
                sent += [f"{id_}: {message.body[:700]}" for message in found]
        await asyncio.sleep(0.1)
    ran = {name: count for name, pool in runtime.functions.items() if (count := pool.invocations - before[name])}
    busy = {name: len(pool.at_work) for name, pool in runtime.functions.items() if pool.at_work}
    return "\n".join([f"ran within 10 s: {ran}; at work: {busy}; messages:", *dict.fromkeys(sent)][:40])


async def _compare(world: World, faults: Faults, report: Report) -> list[str]:
    """Return every difference between the world and the model, as sentences."""
    journal = world.journal
    destinations = await world.objects("Destination")
    uids = {obj["metadata"]["uid"] for obj in destinations}
    await _note_skipped(world)
    for each in journal.destinations:
        if each.deletion and each.deletion.gone == FOR_EVER and each.uid not in uids:
            each.deletion.gone = time.monotonic()
    await asyncio.sleep(0.1)
    lost = [each.name for each in journal.destinations if each.deletion is None and each.uid not in uids]
    stores = {
        (kind, obj["metadata"]["name"]): obj
        for kind in ("BucketStateStore", "GitStateStore")
        for obj in await world.objects(kind)
    }
    verdicts = Verdicts(
        destinations,
        stores,
        {obj["metadata"]["name"]: obj for obj in (await world.call("GET", SECRETS))["items"]},
        {key: store.right for key, store in world.stores.items()},
        {key: versions[-1].spec for key, versions in journal.stores.items()},
    )
    found = [f"Destination/{name}: nobody deleted it, and it is gone" for name in lost]
    found += verdicts.differences()
    contents = Contents(journal, verdicts.required, verdicts.refused)
    report.live, report.files = len(destinations), 0
    for where in (*world.buckets, *world.repositories):
        held = await world.read(where)
        report.files += len(held)
        found += contents.differences(where, held)
    report.allowances = contents.allowances
    return found + await faults.unexpected_dead_letters()


async def _note_skipped(world: World) -> None:
    """Record whose files were left behind: an Event must say so."""
    events = (await world.call("GET", "/api/v1/events?fieldSelector=reason%3DCleanupSkipped"))["items"]
    skipped = {event["involvedObject"]["uid"] for event in events}
    for each in world.journal.destinations:
        if each.deletion is not None:
            each.deletion.skipped = each.uid in skipped
    world.journal.operations["Destinations released with files left behind (CleanupSkipped)"] = len(skipped)


async def _watch(runtime: LocalRuntime, journal: Journal) -> None:
    while True:
        now = time.monotonic()
        began = [moment for name in _TOUCHES_STORES for moment in runtime.functions[name].at_work.values()]
        journal.watched.append(now)
        journal.begun.append(min(began, default=now))
        await asyncio.sleep(0.02)


class _Seen:
    """The marks that the forwarder has sent on."""

    def __init__(self) -> None:
        self._marks: set[str] = set()

    def observe(self, event: Mapping[str, Any]) -> None:
        """Look at a watch event."""
        self._marks.add((event["object"]["metadata"].get("labels") or {}).get("mark", ""))

    async def mark(self, mark: str) -> None:
        """Wait until a mark was sent on."""
        until = time.monotonic() + _CATCH_UP_SECONDS
        while mark not in self._marks:
            assert time.monotonic() < until, f"the forwarder sent no event on for {_CATCH_UP_SECONDS:.0f} s"
            await asyncio.sleep(0.1)


def _environment(world: World) -> dict[str, str]:
    """Return what the functions need here; time-outs and delays are short, as are the faults."""
    return {
        "LANDFALL_ALLOWED_NETWORKS": "127.0.0.0/8,::1/128",
        "LANDFALL_CA_BUNDLE": str(world.git.ca),
        "LANDFALL_RETRY_DELAYS_SECONDS": "1,1,2,3",
        "LANDFALL_STORE_TIMEOUT_SECONDS": "3",
        "LANDFALL_STORE_DEADLINE_SECONDS": "8",
        "LANDFALL_KUBERNETES_TIMEOUT_SECONDS": "4",
        "LANDFALL_CLEANUP_GRACE_SECONDS": "6",
        "LANDFALL_FIRST_SEEN_DELAY_SECONDS": "2",
        "LANDFALL_CLEANUP_GIVE_UP_SECONDS": "25",
        "AWS_ACCESS_KEY_ID": os.environ.get("AWS_ACCESS_KEY_ID", "local"),
        "AWS_SECRET_ACCESS_KEY": os.environ.get("AWS_SECRET_ACCESS_KEY", "local"),
        "AWS_REGION": "us-east-1",
    }
