"""A batch's work, place by place: each place's Lease is taken, its share is done, reported, and the Lease released.

Places are tried side by side and independently: none is held while another is waited for. A share whose Lease others
hold is sent again with a delay, as a new message: waiting brings no message nearer to the dead-letter queue.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from shared import conditions
from shared.deadline import Deadline
from shared.errors import (
    KubernetesError,
    KubernetesUnavailable,
    LandfallError,
    OutOfTime,
    StateStoreNotReady,
    first,
    is_out_of_reach,
)
from shared.kube import Cluster, Key
from shared.messages import Reference
from shared.observability import log_unexpected
from shared.queues import Outgoing
from shared.reconcile.batch import Task, Tasks
from shared.reconcile.connections import Connections
from shared.reconcile.leases import Held
from shared.reconcile.view import View
from shared.resources import STORE_KINDS

# Shorter than a Lease is kept for a function that waits for it (`leases`), so that its messages are back in time.
_LONGEST_DELAY_SECONDS: Final = 4


@dataclass
class Done:
    """What became of one place's share.

    Attributes:
        failures: by message id, why it has to be delivered again.
        outgoing: what to send.
        settled: whether every call to the State Store has been answered; where not, its Lease is left to run out.
    """

    failures: dict[str, Exception] = field(default_factory=dict)
    outgoing: list[Outgoing] = field(default_factory=list)
    settled: bool = True


Act = Callable[[Tasks, str, View, Deadline], Awaitable[Done]]


class Snapshots:
    """Reads of a whole cluster, shared by all that ask before one begins; none is older than its asking."""

    def __init__(self, name: str, cluster: Cluster, deadline: Deadline) -> None:
        self._name, self._cluster, self._deadline = name, cluster, deadline
        self._next: asyncio.Task[View] | None = None
        self._current: asyncio.Task[View] | None = None

    async def read(self) -> View:
        """Return the cluster as it is now, or a moment later.

        Raises:
            KubernetesError: it could not be read.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._read(self._current))
        return await asyncio.shield(self._next)

    async def _read(self, before: asyncio.Task[View] | None) -> View:
        await asyncio.sleep(0)  # those that got their Lease with this one share its read
        if before is not None:
            await asyncio.wait([before])
        self._current, self._next = self._next, None
        return await View.of_all(self._name, self._cluster, self._deadline)


async def locate(tasks: Tasks, snapshots: Snapshots) -> dict[str, dict[tuple[str, Key], Task]]:
    """Return tasks about Destinations and State Stores by the place that they are about; under "" what has none.

    A task that knows its place is taken at its word: under the Lease it is looked at again.

    Raises:
        KubernetesError: the cluster could not be read.
    """
    found: dict[str, dict[tuple[str, Key], Task]] = {}
    view = None if all(task.reference.place for task in tasks.values()) else await snapshots.read()
    for (kind, key), task in tasks.items():
        place = task.reference.place
        if not place and view is not None:
            place = view.store_place((kind, *key)) if kind in STORE_KINDS else view.place(key)
        found.setdefault(place, {})[kind, key] = task
    return found


async def for_each_place(
    places: Mapping[str, Tasks], act: Act, work: "PlaceWork", connections: Connections, deadline: Deadline
) -> dict[str, Exception]:
    """Do each place's share under its Lease, report it at once, and release the Lease.

    Args:
        places: by Lease, what is to be done there; under "" what needs no State Store, or has none.
        act: does a share. It gets the tasks, the place, the cluster as it is under the Lease, and the deadline of the
            work in the State Store; what it finds to be another place's it sends there (`PlaceWork.elsewhere`).
        work: whose work it is.
        connections: of this container.
        deadline: of this invocation.

    Returns:
        By message id: why it has to be delivered again.
    """
    leases = connections.leases(work.cluster_name, work.cluster, work.role)
    at_once = asyncio.Semaphore(connections.settings.stores_concurrency)

    async def act_safely(place: str, tasks: Tasks, held: Held | None) -> Done:
        try:
            view = await work.snapshots.read()
            within = deadline if held is None else held.deadline
            return await act(tasks, place, view, within)
        except Exception as error:  # noqa: BLE001 -- whatever it was, it is this place's
            cause = first(error)
            if not isinstance(cause, LandfallError):
                log_unexpected(f"the share of {place or 'no place'}", cause)
            reading = isinstance(cause, KubernetesError)  # nothing had been sent to the State Store
            return Done(dict.fromkeys(_message_ids(tasks), cause), settled=reading)

    async def do(place: str, tasks: Tasks) -> dict[str, Exception]:
        if not place:
            done = await act_safely(place, tasks, None)
            return {**done.failures, **await connections.queues.send(done.outgoing, deadline)}
        async with at_once:
            try:
                held = await leases.acquire(place, work.store_of(tasks), deadline)
            except LandfallError as error:
                refused = work.refused(tasks, error)
                failed: dict[str, Exception] = dict.fromkeys(_message_ids(tasks), error)
                return {**failed, **await connections.queues.send(refused, deadline)}
            if held is None:
                failures, waiting = _send_again(work.queue, place, tasks, connections.settings.max_hops)
                return {**failures, **await connections.queues.send(waiting, deadline)}
            done = await act_safely(place, tasks, held)
            unsent, _ = await asyncio.gather(
                connections.queues.send(done.outgoing, deadline), leases.release(held, deadline, settled=done.settled)
            )
            return {**done.failures, **unsent}

    shares = await asyncio.gather(*(do(place, tasks) for place, tasks in places.items()))
    return {message_id: error for failures in shares for message_id, error in failures.items()}


@dataclass(frozen=True, slots=True)
class PlaceWork:
    """Whose work `for_each_place` does, and in which cluster.

    Attributes:
        role: the function's name.
        queue: that brings it its messages.
        cluster_name: that messages carry.
    """

    role: str
    queue: str
    cluster_name: str
    cluster: Cluster
    snapshots: Snapshots

    def elsewhere(self, reference: Reference, place: str, message_ids: frozenset[str]) -> Outgoing:
        """Return the message that has an object looked at under the Lease of another place."""
        moved = reference.model_copy(update={"place": place, "hops": reference.hops + 1})
        return Outgoing(self.queue, moved, message_ids)

    @staticmethod
    def store_of(tasks: Tasks) -> str:
        """Return kind and name of a State Store, where a task names one."""
        return next((f"{kind}/{key[1]}" for kind, key in tasks if kind in STORE_KINDS), "")

    @staticmethod
    def refused(tasks: Tasks, error: LandfallError) -> list[Outgoing]:
        """Return what State Stores whose Lease cannot be had say of it; nothing is written to them."""
        if isinstance(error, OutOfTime) or is_out_of_reach(error):
            return []
        return [
            Outgoing("status", conditions.store_failed(reference, StateStoreNotReady(str(error))), task.origin)
            for (kind, _), task in tasks.items()
            if kind in STORE_KINDS
            for reference in task.references
        ]


def _message_ids(tasks: Tasks) -> frozenset[str]:
    return frozenset[str]().union(*(task.origin for task in tasks.values()))


def _send_again(queue: str, place: str, tasks: Tasks, max_hops: int) -> tuple[dict[str, Exception], list[Outgoing]]:
    """Return the messages that wait for a Lease, and by message id those that have waited too often."""
    failures: dict[str, Exception] = {}
    outgoing: list[Outgoing] = []
    for (kind, _), task in tasks.items():
        for reference in task.references:
            if reference.hops >= max_hops:
                why = KubernetesUnavailable(
                    f"{reference} has waited {max_hops} times for Lease {place}: see who holds it"
                )
                failures.update(dict.fromkeys(task.origin, why))
                continue
            named = place if kind in STORE_KINDS or kind == "Destination" else reference.place
            waiting = reference.model_copy(update={"hops": reference.hops + 1, "place": named})
            delay = random.randint(1, _LONGEST_DELAY_SECONDS)  # noqa: S311 -- jitter, not a secret
            outgoing.append(Outgoing(queue, waiting, task.origin, delay))
    return failures, outgoing
