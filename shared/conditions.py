"""Outcomes to conditions and Events, in Kratix's own words (spec sections 3 and 4). Pure: objects in, objects out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from shared.errors import InvalidObject, LandfallError, StateStoreNotReady
from shared.messages import Reference, Verdict
from shared.resources import Destination, StateStoreRef

READY: Final = "Ready"

MAX_MESSAGE: Final = 1024  # Events allow no more, and a condition that reads well needs no more


@dataclass(frozen=True, slots=True)
class EventFact:
    """What an Event says.

    Attributes:
        type: `Normal` or `Warning`.
    """

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def destination_ready(reference: Reference, destination: Destination) -> Verdict:
    """Return the verdict of a Destination whose canary documents are as they should be."""
    if destination.spec.init_workloads.enabled:
        return _verdict(reference, "True", "TestDocumentsWritten", "Test documents written to State Store")
    return _verdict(reference, "True", "DestinationReady", "Destination is ready")


def destination_first_seen(reference: Reference) -> Verdict:
    """Return the verdict of a Destination that nobody has looked at before."""
    seen = _verdict(reference, "False", "DestinationNotReady", "Destination is not ready")
    return seen.model_copy(update={"first_seen": True})


def store_not_found(reference: Reference, ref: StateStoreRef) -> Verdict:
    """Return the verdict of a Destination whose State Store does not exist."""
    return _verdict(reference, "False", "StateStoreNotFound", f"{ref.kind}/{ref.name}: not found")


def path_clash(reference: Reference, other: Destination) -> Verdict:
    """Return the verdict of a Destination whose path in the same State Store an older one has."""
    return _verdict(
        reference,
        "False",
        "PathClash",
        f"Destination {other.name} has the same path in the same State Store: change spec.path of one of them",
    )


def destination_failed(reference: Reference, ref: StateStoreRef | None, error: Exception) -> Verdict:
    """Turn what went wrong with a Destination into its verdict; the only place where errors become reasons.

    Args:
        reference: of the Destination.
        ref: its State Store; None where the Destination could not even be read.
        error: as a writer or a check raised it.
    """
    why = str(error) if isinstance(error, LandfallError) else f"an unexpected {type(error).__name__}; see the logs"
    if isinstance(error, InvalidObject):
        return _verdict(reference, "False", "InvalidDestination", why)
    if isinstance(error, StateStoreNotReady) and ref is not None:
        return _verdict(reference, "False", "StateStoreNotReady", f"{ref.kind}/{ref.name}: {why}")
    return _verdict(
        reference, "False", "StateStoreWriteFailed", f"Failed to write test documents to State Store: {why}"
    )


def finalizer_failed(reference: Reference, error: LandfallError) -> Verdict:
    """Return the verdict of a Destination whose finalizer could not be changed."""
    return _verdict(reference, "False", "DestinationFinalizerUpdateFailed", str(error))


def is_stale(verdict: Verdict, obj: Mapping[str, Any]) -> bool:
    """Whether a verdict is about something that the object no longer is, so that it must be dropped.

    Dropped are verdicts about another uid (deleted and created again), an older generation, or an older moment than
    the one at which the condition last changed its status.

    Args:
        verdict: on its way to the object.
        obj: as the Kubernetes API has it now.
    """
    metadata = obj.get("metadata") or {}
    reference = verdict.reference
    if reference.uid and reference.uid != metadata.get("uid"):
        return True
    if reference.generation < (metadata.get("generation") or 0):
        return True
    current = find(_conditions(obj), verdict.type)
    if current is None:
        return False
    if verdict.first_seen:
        return True
    changed_at = _time(current.get("lastTransitionTime"))
    return (
        current.get("status") != verdict.status
        and changed_at is not None
        and verdict.decided_at.replace(microsecond=0) < changed_at
        and current.get("observedGeneration") == reference.generation
    )


def merged(verdict: Verdict, obj: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Return the object's conditions with the verdict among them, or None where nothing would change.

    `lastTransitionTime` moves only when `status` changes (Kubernetes API conventions).
    """
    conditions = [dict(condition) for condition in _conditions(obj)]
    wanted: dict[str, Any] = {
        "type": verdict.type,
        "status": verdict.status,
        "reason": verdict.reason,
        "message": verdict.message,
        "observedGeneration": verdict.reference.generation,
    }
    current = find(conditions, verdict.type)
    if current is None:
        return [*conditions, {**wanted, "lastTransitionTime": rfc3339(verdict.decided_at)}]
    if all(current.get(key) == value for key, value in wanted.items()):
        return None
    if current.get("status") != verdict.status or not current.get("lastTransitionTime"):
        wanted["lastTransitionTime"] = rfc3339(verdict.decided_at)
    current.update(wanted)
    return conditions


def event_of(verdict: Verdict, obj: Mapping[str, Any]) -> EventFact | None:
    """Return the Event that a verdict records on the object, or None where it says nothing new.

    A Ready that stays True is no news; a failure is, each time, and the same one only raises its Event's count.

    Args:
        verdict: that is not stale.
        obj: as it was before the verdict was merged into it.
    """
    if verdict.first_seen or verdict.status is None:
        return None
    current = find(_conditions(obj), verdict.type) or {}
    if verdict.status == "True":
        if current.get("status") == "True":
            return None
        return EventFact("Normal", "DestinationReady", "Destination is Ready")
    message = verdict.message
    if verdict.reason == "InvalidDestination":
        message = f"Destination is invalid: {message}"
    elif verdict.reason == "DestinationFinalizerUpdateFailed":
        message = f"Failed to update finalizers: {message}"
    return EventFact("Warning", "DestinationNotReady", message[:MAX_MESSAGE])


def latest(verdicts: Sequence[Verdict]) -> Verdict | None:
    """Return the one verdict of several about one condition that counts: the newest generation, then the newest."""
    with_status = [v for v in verdicts if v.status is not None]
    return max(with_status, key=lambda v: (v.reference.generation, not v.first_seen, v.decided_at), default=None)


def find(conditions: Sequence[dict[str, Any]], of_type: str) -> dict[str, Any] | None:
    """Return the condition of that type, if there is one."""
    return next((condition for condition in conditions if condition.get("type") == of_type), None)


def rfc3339(moment: datetime) -> str:
    """Return a moment as Kubernetes writes it: UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _verdict(reference: Reference, status: Literal["True", "False"], reason: str, message: str) -> Verdict:
    if len(message) > MAX_MESSAGE:
        message = message[: MAX_MESSAGE - 1] + "…"
    return Verdict(reference=reference, type=READY, status=status, reason=reason, message=message)


def _conditions(obj: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list((obj.get("status") or {}).get("conditions") or ())


def _time(text: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
