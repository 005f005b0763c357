"""What the batch use cases share: one task for all messages about one object, and trying again later."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.errors import LandfallError
from shared.kube import Key
from shared.messages import Reference
from shared.plan import Outcome
from shared.queues import Outgoing
from shared.settings import Settings


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


def tasks_by_cluster(messages: Mapping[str, Reference]) -> dict[str, dict[tuple[str, Key], Task]]:
    """Fold the messages of a batch into one task for each object, by cluster, then by kind and key."""
    clusters: dict[str, dict[tuple[str, Key], Task]] = {}
    for message_id, reference in messages.items():
        tasks = clusters.setdefault(reference.cluster, {})
        key = (reference.namespace, reference.name)
        known = tasks.get((reference.kind, key))
        if known is None:
            tasks[reference.kind, key] = Task(key, reference, frozenset({message_id}))
        else:
            newest = max(known.reference, reference, key=lambda r: (r.generation, -r.attempt))
            tasks[reference.kind, key] = Task(key, newest, known.origin | {message_id})
    return clusters


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
