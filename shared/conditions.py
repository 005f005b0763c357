"""Outcomes to conditions and Events, in Kratix's own words. Pure: objects in, objects out.

See docs/contract.md#destination-conditions, #state-store-conditions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from shared.errors import InvalidObject, LandfallError, StateStoreNotReady
from shared.messages import Reference, Verdict
from shared.resources import STORE_KINDS, Destination, StateStoreRef
from shared.steering import PAUSED, RECONCILED, REQUESTED

READY: Final = "Ready"
CLEANUP_SKIPPED: Final = "CleanupSkipped"
LEFT_BEHIND: Final = "FilesLeftBehind"
WRITE_SUCCEEDED: Final = "WriteSucceeded"
SCHEDULE_SUCCEEDED: Final = "ScheduleSucceeded"
MISMATCH: Final = "DestinationSelectorMismatch"

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


def paused(reference: Reference, what: str, *, leaving: bool = False) -> Verdict:
    """Return the verdict of an object that is left alone.

    Args:
        reference: to it.
        what: to do to go on.
        leaving: whether it is being deleted, which waits.
    """
    words = "Paused: its files stay and its deletion waits" if leaving else "Paused: nothing is written or deleted"
    return _verdict(reference, "Unknown", PAUSED, f"{words}; {what}")


def reconciled(reference: Reference, request: str) -> Verdict:
    """Return the verdict of an object that was looked at because someone asked for it."""
    return _verdict(reference, "True", REQUESTED, request).model_copy(update={"type": RECONCILED})


def path_clash(reference: Reference, other: str, *, leaving: bool = False) -> Verdict:
    """Return the verdict of a Destination whose path in the same State Store another one has.

    Args:
        reference: to the Destination.
        other: the other one's name.
        leaving: whether that one is being deleted or has moved, so that the path is free once its files are gone.
    """
    words = f"Destination {other} has the same path in the same State Store: change spec.path of one of them"
    if leaving:
        words = f"Destination {other}, which is leaving, still has files at the same path: they are deleted first"
    return _verdict(reference, "False", "PathClash", words)


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
    """Return the verdict of an object whose finalizers could not be changed, with a reason of its kind."""
    if reference.kind == "Work":
        return work_not_scheduled(reference, (), f"its finalizers could not be changed: {error}")
    if reference.kind == "WorkPlacement":
        return placement_failed(reference, f"its finalizers could not be changed: {error}")
    return _verdict(reference, "False", "DestinationFinalizerUpdateFailed", str(error))


def cleanup_skipped(reference: Reference, what: str, why: str) -> Verdict:
    """Return the verdict of a Destination that goes although its files stay (docs/contract.md#deletion)."""
    return _verdict(reference, None, CLEANUP_SKIPPED, f"{what} was left behind: {why}")


def files_left_behind(reference: Reference, where: str) -> Verdict:
    """Return the verdict of a Destination that has moved, and whose `cleanup` leaves its old files where they are."""
    return _verdict(reference, None, LEFT_BEHIND, f"{where} keeps the files of this Destination, as cleanup is none")


def store_ready(reference: Reference) -> Verdict:
    """Return the verdict of a State Store that can be written to."""
    return _verdict(reference, "True", "StateStoreReady", "State store is ready")


def store_failed(reference: Reference, error: LandfallError) -> Verdict:
    """Turn what went wrong with a State Store's check into its verdict (docs/contract.md#state-store-conditions)."""
    reason = error.reason if isinstance(error, StateStoreNotReady) else "ErrorValidatingPermissions"
    if isinstance(error, InvalidObject):
        reason = "ErrorInitialisingWriter"
    return _verdict(reference, "False", reason, store_failed_message(error))


def store_failed_message(error: LandfallError) -> str:
    """Return the message of a State Store's Ready for what its check said."""
    if isinstance(error, StateStoreNotReady | InvalidObject):
        return str(error)
    return f"Error validating state store permissions: {error}"


def placement_written(reference: Reference, version: str) -> Verdict:
    """Return the verdict of a WorkPlacement whose documents are where they belong (docs/contract.md#documents)."""
    written = _verdict(reference, "True", "WorkloadsWrittenToStateStore", "Workloads written to State Store")
    return written.model_copy(update={"type": WRITE_SUCCEEDED, "fields": {"versionID": version}})


def placement_failed(reference: Reference, why: str) -> Verdict:
    """Return the verdict of a WorkPlacement whose documents could not be written."""
    return _verdict(reference, "False", "WorkloadsFailedWrite", why).model_copy(update={"type": WRITE_SUCCEEDED})


def placement_scheduled(reference: Reference, *, misplaced: bool) -> Verdict:
    """Return the verdict of a WorkPlacement about its Destination (docs/contract.md#scheduling)."""
    if misplaced:
        words = "Target destination no longer matches destinationSelectors"
        verdict = _verdict(reference, "False", MISMATCH, words)
    else:
        verdict = _verdict(reference, "True", "ScheduledToDestination", "Scheduled to correct Destination")
    return verdict.model_copy(update={"type": SCHEDULE_SUCCEEDED})


def work_scheduled(
    reference: Reference,
    groups: int,
    *,
    unscheduled: Sequence[str] = (),
    misplaced: Sequence[str] = (),
    failing: Sequence[str] = (),
) -> Verdict:
    """Return the verdict of a Work: the first of unscheduled, failing, misplaced and all well that is true.

    Args:
        reference: to the Work.
        groups: how many workload groups it has.
        unscheduled: ids of groups that no Destination takes.
        misplaced: ids of groups with a misplaced placement.
        failing: names of its WorkPlacements whose documents could not be written.
    """
    if unscheduled:
        reason, words = (
            "UnscheduledWorkloads",
            f"No matching destination found for workloadGroups: [{','.join(unscheduled)}]",
        )
    elif failing:
        reason, words = "WorkplacementsFailing", f"Workplacements failed to write: [{','.join(failing)}]"
    elif misplaced:
        words = "Target destination no longer matches destinationSelectors for workloadGroups:"
        reason, words = MISMATCH, f"{words} [{','.join(misplaced)}]"
    else:
        reason, words = "AllWorkplacementsScheduled", "All workplacements scheduled successfully"
    well = reason == "AllWorkplacementsScheduled"
    fields = {"workPlacements": groups, "workPlacementsCreated": groups - len(unscheduled)}
    verdict = _verdict(reference, "True" if well else "False", reason, words)
    return verdict.model_copy(update={"type": SCHEDULE_SUCCEEDED, "fields": fields})


def work_not_scheduled(reference: Reference, groups: Sequence[str], why: str) -> Verdict:
    """Return the verdict of a Work that could not be scheduled for a reason of its own, or of the API server's."""
    words = f"Failed to schedule or update for workloadGroups: [{','.join(groups)}]: {why}"
    verdict = _verdict(reference, "False", "FailedToScheduleWorkloads", words)
    return verdict.model_copy(update={"type": SCHEDULE_SUCCEEDED})


def is_stale(verdict: Verdict, obj: Mapping[str, Any]) -> bool:
    """Whether a verdict is about something that the object no longer is, so that it must be dropped.

    Dropped are verdicts about another uid (deleted and created again) or an older generation, whose events bring
    decisions of their own, and "first seen" where something is known by now.

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
    return verdict.first_seen and find(_conditions(obj), verdict.type) is not None


def was_decided_on(verdict: Verdict, obj: Mapping[str, Any]) -> bool:
    """Whether nothing that a verdict was decided on has changed since: its own condition, and whether it is deleted.

    Other changes, such as another condition or a label, leave it true. A verdict that has not said what it was decided
    on counts where it turns nothing.
    """
    if verdict.seen is None:
        return verdict.status is None or not turns(verdict, obj)
    then, now = verdict.seen["metadata"], obj["metadata"]
    if then.get("resourceVersion") == now.get("resourceVersion"):
        return True
    if bool(then.get("deletionTimestamp")) != bool(now.get("deletionTimestamp")) or "status" not in verdict.seen:
        return False
    fields = dict.fromkeys(verdict.fields)
    known, current = verdict.seen["status"], obj.get("status") or {}
    same_fields = all(known.get(name) == current.get(name) for name in fields)
    return same_fields and find(_conditions(verdict.seen), verdict.type) == find(_conditions(obj), verdict.type)


def turns(verdict: Verdict, obj: Mapping[str, Any]) -> bool:
    """Whether a verdict changes what a condition of the object says already: its status or its reason."""
    current = find(_conditions(obj), verdict.type)
    known = (verdict.status, verdict.reason)
    return current is not None and (current.get("status"), current.get("reason")) != known


def merged(verdict: Verdict, obj: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what to merge into the object's status for a verdict, or None where nothing would change.

    `lastTransitionTime` moves only when `status` changes (Kubernetes API conventions). A State Store tells the same
    twice more, in `status.status` and `status.observedGeneration`.
    """
    if verdict.status is None:
        return None
    status: dict[str, Any] = dict(obj.get("status") or {})
    conditions = [dict(condition) for condition in _conditions(obj)]
    _set(conditions, verdict, verdict.type, verdict.status, verdict.reason, verdict.message)
    if verdict.reference.kind == "WorkPlacement":
        _set(conditions, verdict, READY, *_ready_of_placement(conditions))
    elif verdict.reference.kind == "Work":
        _set(conditions, verdict, READY, *_READY_OF_WORK[verdict.reason])
    patch: dict[str, Any] = {"conditions": conditions, **verdict.fields}
    if verdict.reference.kind in STORE_KINDS and verdict.type == READY:
        patch["status"] = "Ready" if verdict.status == "True" else "NotReady"
        patch["observedGeneration"] = verdict.reference.generation
    return None if all(status.get(key) == value for key, value in patch.items()) else patch


_READY_OF_WORK: Final[Mapping[str, tuple[str, str, str]]] = {
    "AllWorkplacementsScheduled": ("True", "AllWorkplacementsScheduled", "Ready"),
    "UnscheduledWorkloads": ("False", "UnscheduledWorkloads", "Pending"),
    MISMATCH: ("False", "Misplaced", "Misplaced"),
    "WorkplacementsFailing": ("False", "WorkplacementsFailing", "Failing"),
    "FailedToScheduleWorkloads": ("False", "FailedToScheduleWorkloads", "Pending"),
}


def _ready_of_placement(conditions: Sequence[dict[str, Any]]) -> tuple[str, str, str]:
    """Return a WorkPlacement's Ready, which follows from its two other conditions in whatever order they came."""
    written = (find(conditions, WRITE_SUCCEEDED) or {}).get("status")
    if (find(conditions, SCHEDULE_SUCCEEDED) or {}).get("status") == "False":
        return "False", "Misplaced", "Misplaced"
    if written == "True":
        return "True", "WorkloadsWrittenToTargetDestination", "Ready"
    if written == "False":
        return "False", "WorkloadsFailedWrite", "Failing"
    return "False", "ScheduledToDestination", "Pending"


def _set(conditions: list[dict[str, Any]], verdict: Verdict, of_type: str, *words: str | None) -> None:
    """Set one condition; the words are status, reason and message."""
    status, reason, message = words
    wanted: dict[str, Any] = {
        "type": of_type,
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": verdict.reference.generation,
    }
    current = find(conditions, of_type)
    if current is None:
        conditions.append({**wanted, "lastTransitionTime": rfc3339(verdict.decided_at)})
        return
    if current.get("status") != status or not current.get("lastTransitionTime"):
        wanted["lastTransitionTime"] = rfc3339(verdict.decided_at)
    current.update(wanted)


# What is said by an Event alone, and the Event's type.
_ONCE: Final[Mapping[str, Literal["Normal", "Warning"]]] = {CLEANUP_SKIPPED: "Warning", LEFT_BEHIND: "Normal"}


def event_of(verdict: Verdict, obj: Mapping[str, Any]) -> EventFact | None:
    """Return the Event that a verdict records on the object, or None where it says nothing new.

    A Ready that stays True is no news; a failure is, each time, and the same one only raises its Event's count.

    Args:
        verdict: that is not stale.
        obj: as it was before the verdict was merged into it.
    """
    if verdict.reason in _ONCE:
        return EventFact(_ONCE[verdict.reason], verdict.reason, verdict.message)
    if verdict.first_seen or verdict.status is None or verdict.type == RECONCILED:
        return None
    if verdict.reference.kind == "WorkPlacement":
        return _placement_event(verdict, obj)
    if verdict.status == "True" and (find(_conditions(obj), verdict.type) or {}).get("status") == "True":
        return None
    if verdict.reason == PAUSED:
        leaving = bool((obj.get("metadata") or {}).get("deletionTimestamp"))
        return EventFact("Warning" if leaving else "Normal", PAUSED, verdict.message)
    of_kind = {"Work": _work_event, **dict.fromkeys(STORE_KINDS, _store_event)}
    return of_kind.get(verdict.reference.kind, _destination_event)(verdict)


def _placement_event(verdict: Verdict, obj: Mapping[str, Any]) -> EventFact | None:
    destination = (obj.get("spec") or {}).get("targetDestinationName")
    before = find(_conditions(obj), verdict.type) or {}
    if verdict.type == SCHEDULE_SUCCEEDED:
        if verdict.status == "True" or before.get("status") == "False":
            return None
        words = f"labels for destination: {destination} no longer match the expected labels, marking this workplacement"
        return EventFact("Warning", MISMATCH, f"{words} as misplaced")
    if verdict.status == "False":
        words = "error writing to destination; check kubectl get destination for more info"
        return EventFact("Warning", "FailedWriteToDestination", f"{words}: {verdict.message}"[:MAX_MESSAGE])
    known = (obj.get("status") or {}).get("versionID")
    version = verdict.fields.get("versionID") or known  # a verdict without one leaves it as it is
    if before.get("status") == "True" and known == version:
        return None
    words = f"successfully written to Destination: {destination} with versionID: {version}"
    return EventFact("Normal", "WorkloadsWrittenToStateStore", words)


def _work_event(verdict: Verdict) -> EventFact:
    if verdict.status == "True":
        return EventFact("Normal", verdict.reason, verdict.message)
    if verdict.reason == "UnscheduledWorkloads":  # nothing is wrong yet, in Kratix's words and kind
        groups = verdict.message.rpartition("[")[2].rstrip("]")
        words = f"waiting for a destination with labels for workloadGroup: {groups}"
        return EventFact("Normal", "NoMatchingDestination", words[:MAX_MESSAGE])
    return EventFact("Warning", verdict.reason, verdict.message[:MAX_MESSAGE])


def _store_event(verdict: Verdict) -> EventFact:
    if verdict.status == "True":
        return EventFact("Normal", "Ready", f'{verdict.reference.kind} "{verdict.reference.name}" is ready')
    return EventFact("Warning", "NotReady", verdict.message)


def _destination_event(verdict: Verdict) -> EventFact:
    if verdict.status == "True":
        return EventFact("Normal", "DestinationReady", "Destination is Ready")
    what = {
        "InvalidDestination": "Destination is invalid: ",
        "PathClash": "Path clash: ",
        "DestinationFinalizerUpdateFailed": "Failed to update finalizers: ",
    }
    return EventFact("Warning", "DestinationNotReady", f"{what.get(verdict.reason, '')}{verdict.message}"[:MAX_MESSAGE])


def latest(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Return, for each condition, the one verdict of several that counts: the newest generation, then the newest."""
    found: dict[str, Verdict] = {}
    for verdict in verdicts:
        if verdict.status is None:
            continue
        known = found.get(verdict.type)
        if known is None or _weight(verdict) > _weight(known):
            found[verdict.type] = verdict
    return list(found.values())


def _weight(verdict: Verdict) -> tuple[int, bool, datetime]:
    return verdict.reference.generation, not verdict.first_seen, verdict.decided_at


def write_failed(placement: Mapping[str, Any]) -> bool:
    """Whether a WorkPlacement says of itself that its documents could not be written."""
    return (find(_conditions(placement), WRITE_SUCCEEDED) or {}).get("status") == "False"


def is_written(placement: Mapping[str, Any]) -> bool:
    """Whether a WorkPlacement says that its documents, as they are now, are written, and in which version."""
    status = placement.get("status") or {}
    condition = find(_conditions(placement), WRITE_SUCCEEDED) or {}
    current = condition.get("observedGeneration") == (placement.get("metadata") or {}).get("generation")
    return condition.get("status") == "True" and current and bool(status.get("versionID"))


def find(conditions: Sequence[dict[str, Any]], of_type: str) -> dict[str, Any] | None:
    """Return the condition of that type, if there is one."""
    return next((condition for condition in conditions if condition.get("type") == of_type), None)


def rfc3339(moment: datetime) -> str:
    """Return a moment as Kubernetes writes it: UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _verdict(
    reference: Reference, status: Literal["True", "False", "Unknown"] | None, reason: str, message: str
) -> Verdict:
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
