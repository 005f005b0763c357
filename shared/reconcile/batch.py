"""What the batch use cases share: each cluster for itself, one task for all messages about one object, retries."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from shared.deadline import Deadline
from shared.errors import LandfallError, OutOfTime, StoreUnavailable, first
from shared.kube import Cluster, Clusters, Key
from shared.messages import Reference
from shared.observability import log_unexpected
from shared.plan import Outcome, Written
from shared.queues import Outgoing
from shared.reconcile.connections import Connections
from shared.settings import Settings

_Message = TypeVar("_Message")
# By message id, why it has to be delivered again; and what to send.
Share = tuple[Mapping[str, Exception], Iterable[Outgoing]]


async def for_each_cluster(
    shares: Mapping[str, Mapping[str, _Message]],
    act: Callable[[str, Mapping[str, _Message], Cluster], Awaitable[Share]],
    connections: Connections,
    deadline: Deadline,
) -> dict[str, Exception]:
    """Do each cluster's share of a batch beside the others', and send what follows from it.

    A cluster that is slow, down or full of surprises delays and fails nothing but its own share.

    Args:
        shares: by cluster name, the messages about it by their ids.
        act: does the share of one cluster.
        connections: of this container.
        deadline: of this invocation.

    Returns:
        By message id: why it has to be delivered again.
    """

    async def do(name: str, share: Mapping[str, _Message]) -> dict[str, Exception]:
        try:
            failures, outgoing = await act(name, share, await connections.clusters.get(name))
            return {**failures, **await connections.queues.send(outgoing, deadline)}
        except Exception as error:  # noqa: BLE001 -- whatever it was, it is this cluster's
            cause = first(error)
            if not isinstance(cause, LandfallError):
                log_unexpected(f"the share of cluster {name}", cause)
            return dict.fromkeys(share, cause)

    done = await asyncio.gather(*(do(name, share) for name, share in shares.items()))
    await connections.writers.trim()
    return {message_id: error for failures in done for message_id, error in failures.items()}


def by_cluster(messages: Mapping[str, Reference], clusters: Clusters) -> dict[str, dict[str, Reference]]:
    """Return the messages about each cluster, by its name."""
    shares: dict[str, dict[str, Reference]] = {}
    for message_id, reference in messages.items():
        shares.setdefault(clusters.name(reference.cluster), {})[message_id] = reference
    return shares


@dataclass(frozen=True, slots=True)
class Task:
    """One object to look at.

    Attributes:
        key: its namespace and name.
        reference: the newest of the messages about it.
        origin: the ids of all messages about it.
    """

    key: Key
    reference: Reference
    origin: frozenset[str]

    def means(self, obj: Mapping[str, Any]) -> bool:
        """Whether the task is still about this object.

        It is not where the object was created again under its name, or where a retry has been overtaken by a newer
        generation, which has a write and retries of its own.
        """
        metadata = obj.get("metadata") or {}
        if self.reference.uid and self.reference.uid != metadata.get("uid"):
            return False
        return not self.reference.attempt or self.reference.generation >= (metadata.get("generation") or 0)


Tasks = Mapping[tuple[str, Key], Task]  # by kind and key


def fold(messages: Mapping[str, Reference]) -> Tasks:
    """Fold messages about one cluster into one task for each object."""
    tasks: dict[tuple[str, Key], Task] = {}
    for message_id, reference in messages.items():
        key = (reference.namespace, reference.name)
        known = tasks.get((reference.kind, key))
        if known is None:
            tasks[reference.kind, key] = Task(key, reference, frozenset({message_id}))
        else:
            newest = max(known.reference, reference, key=lambda r: (r.generation, -r.attempt))
            tasks[reference.kind, key] = Task(key, newest, known.origin | {message_id})
    return tasks


def retry(
    queue: str,
    reference: Reference,
    outcome: Outcome,
    origin: frozenset[str],
    settings: Settings,
    *,
    whatever_it_was: bool = False,
) -> list[Outgoing]:
    """Return the message that tries a failed write again after a while, or none.

    Nothing is tried again that only a change of the object can mend: that change is an event. The delays end where the
    resync takes over, so that a failing object never has more than one such message at a time for long.
    """
    if not isinstance(outcome, LandfallError) or not (outcome.transient or whatever_it_was):
        return []
    if reference.attempt >= len(settings.retry_delays_seconds):
        return []
    again = reference.model_copy(update={"attempt": reference.attempt + 1, "why": "retry"})
    return [Outgoing(queue, again, origin, settings.retry_delays_seconds[reference.attempt])]


def may_have_written(outcome: Outcome | None) -> bool:
    """Whether a write has changed files, or may have before it failed."""
    return outcome.changed if isinstance(outcome, Written) else isinstance(outcome, StoreUnavailable | OutOfTime)
