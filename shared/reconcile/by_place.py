"""A batch's work, place by place: each place's Lease is taken, its share is done, reported, and the Lease released.

Places are tried side by side and independently: none is held while another is waited for. A share whose Lease others
hold is sent again with a delay, as a new message: waiting brings no message nearer to the dead-letter queue.
"""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Self

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
from shared.messages import Reference, packed
from shared.observability import log_unexpected
from shared.queues import Outgoing
from shared.reconcile.batch import Task, Tasks
from shared.reconcile.claims import Claims
from shared.reconcile.connections import Connections
from shared.reconcile.leases import Held, Leases
from shared.reconcile.ownership import AllClaims, Site, look_again
from shared.reconcile.view import View, destinations_of
from shared.resources import STORE_KINDS
from shared.settings import Settings

# Shorter than a Lease is kept for a function that waits for it (`leases`), so that its messages are back in time.
_LONGEST_DELAY_SECONDS: Final = 4
_MOST: Final = 1000  # objects of a place in one invocation; the others wait in the queue, and not in memory


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


Act = Callable[[Tasks, Site | None], Awaitable[Done]]


async def with_destinations(tasks: Tasks, work: "PlaceWork", deadline: Deadline) -> dict[tuple[str, Key], Task]:
    """Return tasks with one for each Destination of the State Stores that they name, at the place of the State Store.

    Those are retries: that they fail has the State Store checked by no further message.

    Raises:
        KubernetesError: the cluster could not be read.
    """
    found = dict(tasks)
    asked = {(kind, *key): task for (kind, key), task in tasks.items() if kind in STORE_KINDS and not task.alone}
    if not asked:
        return found
    view = await View.of(work.cluster_name, work.cluster, deadline, stores=asked)
    places = {store: view.store_place(store) for store in asked}
    attempts = {store: max(1, *(r.attempt for r in task.references)) for store, task in asked.items()}
    async for key, store in destinations_of(asked, view, work.cluster, deadline):
        (reference,) = look_again(work.cluster_name, [key], places[store], attempts[store])
        known = found.get(("Destination", key), Task(key, (reference,), frozenset()))
        found["Destination", key] = replace(known, origin=known.origin | asked[store].origin)
    return found


async def locate(tasks: Tasks, work: "PlaceWork", deadline: Deadline) -> dict[str, dict[tuple[str, Key], Task]]:
    """Return tasks about Destinations and State Stores by the place that they are about; under "" what has none.

    A task that knows its place is taken at its word: under the Lease it is looked at again.

    Raises:
        KubernetesError: the cluster could not be read.
    """
    found: dict[str, dict[tuple[str, Key], Task]] = {}
    unknown = [(kind, key) for (kind, key), task in tasks.items() if not task.reference.place]
    destinations = [key for kind, key in unknown if kind not in STORE_KINDS]
    stores = [(kind, *key) for kind, key in unknown if kind in STORE_KINDS]
    view = await View.of(work.cluster_name, work.cluster, deadline, destinations, stores)
    for (kind, key), task in tasks.items():
        place = task.reference.place
        if not place:
            place = view.store_place((kind, *key)) if kind in STORE_KINDS else view.place(key)
        found.setdefault(place, {})[kind, key] = task
    return found


async def for_each_place(
    places: Mapping[str, Tasks], act: Act, work: "PlaceWork", connections: Connections, deadline: Deadline
) -> dict[str, Exception]:
    """Do each place's share under its Lease, report it at once, and release the Lease.

    Args:
        places: by Lease, what is to be done there; under "" what needs no State Store, or has none.
        act: does a share. It gets the tasks and the place with its claims, None where there is none; what it finds to
            be another place's it sends there (`PlaceWork.elsewhere`).
        work: whose work it is.
        connections: of this container.
        deadline: of this invocation.

    Returns:
        By message id: why it has to be delivered again.
    """
    leases = connections.leases(work.cluster_name, work.cluster, work.role)
    at_once = asyncio.Semaphore(connections.settings.stores_concurrency)

    async def act_safely(place: str, tasks: Tasks, site: Site | None) -> Done:
        try:
            return await act(tasks, site)
        except Exception as error:  # noqa: BLE001 -- whatever it was, it is this place's
            cause = first(error)
            if not isinstance(cause, LandfallError):
                log_unexpected(f"the share of {place or 'no place'}", cause)
            reading = isinstance(cause, KubernetesError)  # nothing had been sent to the State Store
            return Done(dict.fromkeys(_message_ids(tasks), cause), settled=reading)

    async def do(place: str, everything: Tasks) -> dict[str, Exception]:
        tasks, rest = _bounded(everything, place, work.queue)
        unsent = await connections.queues.send(rest, deadline)
        if not place:
            done = await act_safely(place, tasks, None)
            return {**unsent, **done.failures, **await connections.queues.send(done.outgoing, deadline)}
        async with at_once:
            held: Held | None = None
            try:
                held = await leases.acquire(place, work.store_of(tasks), deadline)
                site = None if held is None else await work.open(place, held, leases)
            except LandfallError as error:
                if held is not None:
                    await leases.release(held, deadline, settled=True)
                refused = work.refused(tasks, error)
                failed: dict[str, Exception] = dict.fromkeys(_message_ids(tasks), error)
                return {**unsent, **failed, **await connections.queues.send(refused, deadline)}
            if held is None or site is None:
                failures, waiting = _send_again(work.queue, place, tasks, connections.settings.max_hops)
                return {**unsent, **failures, **await connections.queues.send(waiting, deadline)}
            done = await act_safely(place, tasks, site)
            lost, _ = await asyncio.gather(
                connections.queues.send(done.outgoing, deadline),
                leases.release(site.claims.held, deadline, settled=done.settled),
            )
            return {**unsent, **done.failures, **lost}

    shares = await asyncio.gather(*(do(place, tasks) for place, tasks in places.items()))
    return {message_id: error for failures in shares for message_id, error in failures.items()}


@dataclass(frozen=True, slots=True)
class PlaceWork:
    """Whose work `for_each_place` does, and in which cluster.

    Attributes:
        role: the function's name.
        queue: that brings it its messages.
        cluster_name: that messages carry.
        namespace: of Leases and claims.
        all_claims: reads the claims of places where they are not complete.
    """

    role: str
    queue: str
    cluster_name: str
    cluster: Cluster
    namespace: str
    all_claims: AllClaims

    @classmethod
    def of(cls, role: str, queue: str, name: str, cluster: Cluster, *, settings: Settings, deadline: Deadline) -> Self:
        """Return the work of a function in one cluster, until the invocation's deadline."""
        return cls(role, queue, name, cluster, settings.lease_namespace, AllClaims(name, cluster, deadline))

    async def open(self, place: str, held: Held, leases: Leases) -> Site:
        """Return a place whose Lease is held, with its claims complete.

        Raises:
            KubernetesError: the claims could not be had; nothing may be written or deleted there.
        """
        claims = await Claims.open(place, held, leases, lambda: self.all_claims.of(place))
        return Site(place, claims, self.cluster_name, self.cluster, self.namespace, held.deadline)

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
        """Return what State Stores whose Lease or claims cannot be had say of it; nothing is written to them."""
        if isinstance(error, OutOfTime) or is_out_of_reach(error):
            return []
        return [
            Outgoing("status", conditions.store_failed(reference, StateStoreNotReady(str(error))), task.origin)
            for (kind, _), task in tasks.items()
            if kind in STORE_KINDS
            for reference in task.references
        ]


def in_parts(queue: str, tasks: Iterable[tuple[Reference, frozenset[str]]], delay: int = 0) -> list[Outgoing]:
    """Return the messages for many objects: few, where they come from the same messages."""
    by_origin: dict[frozenset[str], list[Reference]] = {}
    for reference, origin in tasks:
        by_origin.setdefault(origin, []).append(reference)
    return [
        Outgoing(queue, message, origin, delay)
        for origin, references in by_origin.items()
        for message in packed(references)
    ]


def retries(queue: str, failed: Iterable[tuple[Reference, frozenset[str]]], settings: Settings) -> Iterator[Outgoing]:
    """Yield the messages that try again what failed of messages for many objects, each chain for as long as `retry`."""
    by_attempt: dict[int, list[tuple[Reference, frozenset[str]]]] = {}
    for reference, origin in failed:
        if reference.attempt < len(settings.retry_delays_seconds):
            again = reference.model_copy(update={"attempt": reference.attempt + 1, "hops": 0})
            by_attempt.setdefault(reference.attempt, []).append((again, origin))
    for attempt, tasks in by_attempt.items():
        yield from in_parts(queue, tasks, settings.retry_delays_seconds[attempt])


def _message_ids(tasks: Tasks) -> frozenset[str]:
    return frozenset[str]().union(*(task.origin for task in tasks.values()))


def _at(place: str, kind: str, reference: Reference, hops: int = 0) -> Reference:
    named = place if kind in STORE_KINDS or kind == "Destination" else reference.place
    return reference.model_copy(update={"hops": reference.hops + hops, "place": named})


def _bounded(tasks: Tasks, place: str, queue: str) -> tuple[Tasks, list[Outgoing]]:
    """Return as many tasks as one invocation does at a place, and the messages for the others."""
    if len(tasks) <= _MOST:
        return tasks, []
    later = itertools.islice(tasks.items(), _MOST, None)
    rest = [(_at(place, kind, r), task.origin) for (kind, _), task in later for r in task.references]
    return dict(itertools.islice(tasks.items(), _MOST)), in_parts(queue, rest)


def _send_again(queue: str, place: str, tasks: Tasks, max_hops: int) -> tuple[dict[str, Exception], list[Outgoing]]:
    """Return the messages that wait for a Lease, and by message id those that have waited too often."""
    failures: dict[str, Exception] = {}
    waiting: list[tuple[Reference, frozenset[str]]] = []
    for (kind, _), task in tasks.items():
        for reference in task.references:
            if reference.hops >= max_hops:
                why = KubernetesUnavailable(
                    f"{reference} has waited {max_hops} times for Lease {place}: see who holds it"
                )
                failures.update(dict.fromkeys(task.origin, why))
            else:
                waiting.append((_at(place, kind, reference, hops=1), task.origin))
    outgoing = in_parts(queue, waiting)
    delays = (random.randint(1, _LONGEST_DELAY_SECONDS) for _ in outgoing)  # noqa: S311 -- jitter, not a secret
    return failures, [Outgoing(o.queue, o.message, o.origin, delay) for o, delay in zip(outgoing, delays, strict=True)]
