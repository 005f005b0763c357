"""What the batch use cases share: each cluster for itself, one task for all messages about one object, retries."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from shared.deadline import Deadline
from shared.errors import LandfallError, first
from shared.kube import Cluster, Clusters, Key
from shared.messages import Reference
from shared.observability import log_unexpected
from shared.plan import Outcome
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
    """One object to look at: all messages about its name.

    Attributes:
        key: its namespace and name.
        references: of the messages, one for each uid that they name, and those without one.
        origin: the ids of the messages.
    """

    key: Key
    references: tuple[Reference, ...]
    origin: frozenset[str]

    @property
    def reference(self) -> Reference:
        """Any of the references: what they have in common is kind, namespace and name."""
        return self.references[0]

    @property
    def alone(self) -> bool:
        """Whether a State Store is meant without its Destinations."""
        return all(reference.alone for reference in self.references)

    def current(self, obj: Mapping[str, Any]) -> Reference | None:
        """Return the reference that is about this very object; None where none is.

        None is where the object was created again under its name, or where a retry has been overtaken by a newer
        generation, which has a write and retries of its own.
        """
        metadata = obj.get("metadata") or {}
        uid, generation = metadata.get("uid"), metadata.get("generation") or 0
        found = [
            r
            for r in self.references
            if r.uid in {"", uid} and (not r.attempt or not r.generation or r.generation >= generation)
        ]
        return min(found, key=lambda r: r.attempt, default=None)


Tasks = Mapping[tuple[str, Key], Task]  # by kind and key


def fold(messages: Mapping[str, Reference]) -> Tasks:
    """Fold messages about one cluster into one task for each object.

    Objects that had the same name, one after the other, stay apart: a message about one says nothing about the other.
    """
    tasks: dict[tuple[str, Key], Task] = {}
    for message_id, reference in ((id_, one) for id_, message in messages.items() for one in message.each()):
        key = (reference.namespace, reference.name)
        known = tasks.get((reference.kind, key))
        references = (reference,) if known is None else _folded(known.references, reference)
        message_ids = frozenset({message_id}) if known is None else known.origin | {message_id}
        tasks[reference.kind, key] = Task(key, references, message_ids)
    return tasks


def _folded(known: tuple[Reference, ...], more: Reference) -> tuple[Reference, ...]:
    """Return references with one more, which is merged into the one with the same uid.

    An event beside a retry is no retry: whatever generation either knows, the object is looked at as it is now.
    """
    same = next((r for r in known if r.uid == more.uid), None)
    if same is None:
        return (*known, more)
    both = {
        "generation": max(same.generation, more.generation),
        "attempt": min(same.attempt, more.attempt),
        "hops": max(same.hops, more.hops),
        "place": more.place or same.place,
        "alone": more.alone and same.alone,
    }
    return tuple(more.model_copy(update=both) if r is same else r for r in known)


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
    again = reference.model_copy(update={"attempt": reference.attempt + 1, "hops": 0})
    return [Outgoing(queue, again, origin, settings.retry_delays_seconds[reference.attempt])]
