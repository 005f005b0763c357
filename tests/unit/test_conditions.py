"""Outcomes become Kratix's own conditions and Events, and stale ones are dropped.

See docs/contract.md#destination-conditions, docs/failure-modes.md#15-untrusted-events, #16-recreated-objects.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared import conditions
from shared.errors import (
    AccessDenied,
    InvalidPath,
    KubernetesError,
    LandfallError,
    PathConflict,
    StateStoreNotReady,
    StoreNotFound,
    StoreUnavailable,
    WriteRejected,
)
from shared.messages import Reference, Verdict
from shared.resources import Destination, StateStoreRef

REFERENCE = Reference(kind="Destination", name="worker-1", uid="u1", generation=2)
STORE = StateStoreRef(kind="BucketStateStore", name="default")
NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


def destination(**spec: Any) -> Destination:
    ref = {"kind": "BucketStateStore", "name": "default"}
    return Destination.parse(
        {"metadata": {"name": "worker-1", "uid": "u1", "generation": 2}, "spec": {"stateStoreRef": ref, **spec}}
    )


def stored(*conditions_: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {
        "kind": "Destination",
        "metadata": {"name": "worker-1", "uid": "u1", "generation": 2, "resourceVersion": "7", **metadata},
        "status": {"conditions": list(conditions_)},
    }


def condition(status: str, reason: str, message: str = "m", **more: Any) -> dict[str, Any]:
    return {
        "type": "Ready",
        "status": status,
        "reason": reason,
        "message": message,
        "observedGeneration": 2,
        "lastTransitionTime": "2026-11-22T11:00:00Z",
        **more,
    }


def test_written_canaries_are_ready_in_kratix_words() -> None:
    verdict = conditions.destination_ready(REFERENCE, destination())
    assert (verdict.status, verdict.reason, verdict.message) == (
        "True",
        "TestDocumentsWritten",
        "Test documents written to State Store",
    )


def test_without_init_workloads_it_is_ready_in_other_words() -> None:
    verdict = conditions.destination_ready(REFERENCE, destination(initWorkloads={"enabled": False}))
    assert (verdict.status, verdict.reason, verdict.message) == ("True", "DestinationReady", "Destination is ready")


@pytest.mark.parametrize(
    ("error", "reason", "message"),
    [
        pytest.param(InvalidPath("path is bad"), "InvalidDestination", "path is bad", id="invalid"),
        pytest.param(
            StateStoreNotReady("Secret s not found in namespace default", reason="SecretNotFound"),
            "StateStoreNotReady",
            "BucketStateStore/default: Secret s not found in namespace default",
            id="store not ready",
        ),
        *(
            pytest.param(
                kind("why"),
                "StateStoreWriteFailed",
                "Failed to write test documents to State Store: why",
                id=kind.__name__,
            )
            for kind in (AccessDenied, StoreNotFound, WriteRejected, StoreUnavailable, PathConflict)
        ),
    ],
)
def test_an_error_becomes_its_reason(error: LandfallError, reason: str, message: str) -> None:
    verdict = conditions.destination_failed(REFERENCE, STORE, error)
    assert (verdict.status, verdict.reason, verdict.message) == ("False", reason, message)


def test_an_error_that_nobody_translated_shows_only_its_type() -> None:
    verdict = conditions.destination_failed(REFERENCE, STORE, RuntimeError("password=hunter2"))
    assert "hunter2" not in verdict.message
    assert "RuntimeError" in verdict.message


def test_other_refusals_have_kratix_words() -> None:
    assert conditions.store_not_found(REFERENCE, STORE).message == "BucketStateStore/default: not found"
    assert conditions.store_not_found(REFERENCE, STORE).reason == "StateStoreNotFound"
    for leaving in (False, True):
        clash = conditions.path_clash(REFERENCE, "worker-1", leaving=leaving)
        assert (clash.reason, "worker-1" in clash.message, "is leaving" in clash.message) == (
            "PathClash",
            True,
            leaving,
        )
    failed = conditions.finalizer_failed(REFERENCE, KubernetesError("the server's words"))
    assert (failed.reason, failed.message) == ("DestinationFinalizerUpdateFailed", "the server's words")
    seen = conditions.destination_first_seen(REFERENCE)
    assert (seen.status, seen.reason, seen.message) == ("False", "DestinationNotReady", "Destination is not ready")


def test_an_endless_message_is_cut_to_what_the_api_takes() -> None:
    verdict = conditions.destination_failed(REFERENCE, STORE, StoreUnavailable("x" * 100_000))
    assert len(verdict.message) == conditions.MAX_MESSAGE


def ready(status: str = "True", at: datetime = NOW, **more: Any) -> Verdict:
    fields: dict[str, Any] = {"reason": "TestDocumentsWritten", "message": "m", "decided_at": at, **more}
    return Verdict(reference=REFERENCE, status=status, **fields)


def test_the_first_condition_is_added_and_others_stay() -> None:
    other = {"type": "Other", "status": "True"}
    merged = conditions.merged(ready(), stored(other))
    assert merged is not None
    assert merged["conditions"][0] == other
    assert merged["conditions"][1] == {
        "type": "Ready",
        "status": "True",
        "reason": "TestDocumentsWritten",
        "message": "m",
        "observedGeneration": 2,
        "lastTransitionTime": "2026-11-22T12:00:00Z",
    }


@pytest.mark.parametrize(
    ("before", "transition"),
    [
        pytest.param(condition("False", "StateStoreWriteFailed"), "2026-11-22T12:00:00Z", id="status changes"),
        pytest.param(condition("True", "DestinationReady"), "2026-11-22T11:00:00Z", id="only the reason changes"),
        pytest.param(
            condition("True", "TestDocumentsWritten", observedGeneration=1),
            "2026-11-22T11:00:00Z",
            id="only the generation changes",
        ),
    ],
)
def test_the_transition_time_moves_only_with_the_status(before: dict[str, Any], transition: str) -> None:
    merged = conditions.merged(ready(), stored(before))
    assert merged is not None
    assert merged["conditions"][0]["lastTransitionTime"] == transition
    assert merged["conditions"][0]["observedGeneration"] == 2


def test_a_verdict_that_says_the_same_changes_nothing() -> None:
    assert conditions.merged(ready(), stored(condition("True", "TestDocumentsWritten"))) is None


@pytest.mark.parametrize(
    ("verdict", "obj", "stale"),
    [
        pytest.param(ready(), stored(), False, id="about this very object"),
        pytest.param(ready(), stored(uid="u2"), True, id="created again under its name"),
        pytest.param(ready(), stored(generation=3), True, id="an older generation"),
        pytest.param(
            ready("False", NOW - timedelta(hours=2)),
            stored(condition("True", "x")),
            False,
            id="clocks of different machines say nothing",
        ),
        pytest.param(ready("False", first_seen=True), stored(), False, id="first seen, nothing there"),
        pytest.param(
            ready("False", first_seen=True), stored(condition("True", "x")), True, id="first seen, but overtaken"
        ),
    ],
)
def test_a_stale_verdict_is_told_from_a_good_one(verdict: Verdict, obj: dict[str, Any], stale: bool) -> None:
    assert conditions.is_stale(verdict, obj) is stale


def at(version: str, *conditions_: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    """Return an object at a resource version."""
    obj = stored(*conditions_)
    return {**obj, "metadata": {**obj["metadata"], "resourceVersion": version, **metadata}}


OLD, NEW = condition("True", "x"), condition("False", "y")


@pytest.mark.parametrize(
    ("then", "now", "holds"),
    [
        pytest.param(at("1", OLD), at("1", OLD), True, id="nothing has changed"),
        pytest.param(at("1", OLD), at("2", OLD, labels={"a": "b"}), True, id="a label has changed"),
        pytest.param(at("1", OLD), at("2", OLD, {**NEW, "type": "Other"}), True, id="another condition has changed"),
        pytest.param(at("1", OLD), at("2", NEW), False, id="its condition has turned"),
        pytest.param(at("1"), at("2", NEW), False, id="its condition was set"),
        pytest.param(at("1", OLD), at("2", {**OLD, "message": "z"}), False, id="its condition has another message"),
        pytest.param(at("1", OLD), at("2", OLD, deletionTimestamp="2026-11-25T00:00:00Z"), False, id="it is deleted"),
    ],
)
def test_a_verdict_holds_while_what_it_was_decided_on_is_the_same(
    then: dict[str, Any], now: dict[str, Any], holds: bool
) -> None:
    assert conditions.was_decided_on(ready().seeing(then), now) is holds


def test_a_verdict_that_has_not_said_what_it_was_decided_on_counts_where_it_turns_nothing() -> None:
    assert conditions.was_decided_on(ready(), stored())
    assert conditions.was_decided_on(ready(), stored(condition("True", "TestDocumentsWritten", "old words")))
    assert not conditions.was_decided_on(ready(), stored(condition("False", "StateStoreWriteFailed")))


def test_a_verdict_about_an_object_with_much_to_tell_holds_only_at_the_same_resource_version() -> None:
    long = {**OLD, "message": "z" * 5000}
    verdict = ready().seeing(at("1", long))
    assert conditions.was_decided_on(verdict, at("1", long))
    assert not conditions.was_decided_on(verdict, at("2", long))


@pytest.mark.parametrize(
    ("before", "turns"),
    [
        pytest.param([], False, id="the first of its kind"),
        pytest.param([condition("True", "TestDocumentsWritten")], False, id="the same"),
        pytest.param([condition("False", "StateStoreWriteFailed")], True, id="another status"),
        pytest.param([condition("True", "DestinationReady")], True, id="another reason"),
    ],
)
def test_a_verdict_turns_a_condition_that_says_something_else(before: list[dict[str, Any]], turns: bool) -> None:
    assert conditions.turns(ready(), stored(*before)) is turns


@pytest.mark.parametrize(
    ("verdict", "before", "event"),
    [
        pytest.param(ready(), [], ("Normal", "DestinationReady", "Destination is Ready"), id="ready at last"),
        pytest.param(ready(), [condition("True", "DestinationReady")], None, id="ready stays ready"),
        pytest.param(
            ready("False", reason="StateStoreWriteFailed", message="Failed to write: why"),
            [condition("True", "x")],
            ("Warning", "DestinationNotReady", "Failed to write: why"),
            id="fails",
        ),
        pytest.param(
            ready("False", reason="StateStoreWriteFailed", message="Failed to write: why"),
            [condition("False", "StateStoreWriteFailed", "Failed to write: why")],
            ("Warning", "DestinationNotReady", "Failed to write: why"),
            id="fails again: the same Event, whose count rises",
        ),
        pytest.param(
            ready("False", reason="InvalidDestination", message="path is bad"),
            [],
            ("Warning", "DestinationNotReady", "Destination is invalid: path is bad"),
            id="invalid",
        ),
        pytest.param(ready("False", first_seen=True), [], None, id="first seen is no event"),
    ],
)
def test_a_change_records_an_event_and_a_repeat_of_ready_none(
    verdict: Verdict, before: list[dict[str, Any]], event: tuple[str, str, str] | None
) -> None:
    fact = conditions.event_of(verdict, stored(*before))
    assert (fact and (fact.type, fact.reason, fact.message)) == event


def test_of_several_verdicts_the_newest_generation_counts_then_the_newest() -> None:
    older = ready("False", NOW)
    newer = ready("True", NOW + timedelta(seconds=1))
    next_generation = Verdict(
        reference=REFERENCE.model_copy(update={"generation": 3}), status="False", decided_at=NOW - timedelta(hours=1)
    )
    seen = ready("False", NOW + timedelta(seconds=5), first_seen=True)
    only_a_finalizer = Verdict(reference=REFERENCE, add_finalizers=("f",))
    other_type = ready().model_copy(update={"type": "WriteSucceeded"})
    assert conditions.latest([newer, older]) == [newer]
    assert conditions.latest([newer, next_generation, older]) == [next_generation]
    assert conditions.latest([seen, older]) == [older]
    assert conditions.latest([only_a_finalizer]) == []
    assert conditions.latest([older, other_type, newer]) == [newer, other_type]


WORK = Reference(kind="Work", name="w", namespace="n", uid="u1", generation=2)


@pytest.mark.parametrize(
    ("given", "schedule", "ready", "event"),
    [
        pytest.param(
            {},
            ("True", "AllWorkplacementsScheduled", "All workplacements scheduled successfully"),
            ("True", "AllWorkplacementsScheduled", "Ready"),
            ("Normal", "AllWorkplacementsScheduled", "All workplacements scheduled successfully"),
            id="all well",
        ),
        pytest.param(
            {"unscheduled": ["a", "b"], "failing": ["x"], "misplaced": ["c"]},
            ("False", "UnscheduledWorkloads", "No matching destination found for workloadGroups: [a,b]"),
            ("False", "UnscheduledWorkloads", "Pending"),
            ("Normal", "NoMatchingDestination", "waiting for a destination with labels for workloadGroup: a,b"),
            id="unscheduled",
        ),
        pytest.param(
            {"failing": ["x", "y"], "misplaced": ["c"]},
            ("False", "WorkplacementsFailing", "Workplacements failed to write: [x,y]"),
            ("False", "WorkplacementsFailing", "Failing"),
            ("Warning", "WorkplacementsFailing", "Workplacements failed to write: [x,y]"),
            id="failing",
        ),
        pytest.param(
            {"misplaced": ["c"]},
            (
                "False",
                "DestinationSelectorMismatch",
                "Target destination no longer matches destinationSelectors for workloadGroups: [c]",
            ),
            ("False", "Misplaced", "Misplaced"),
            (
                "Warning",
                "DestinationSelectorMismatch",
                "Target destination no longer matches destinationSelectors for workloadGroups: [c]",
            ),
            id="misplaced",
        ),
    ],
)
def test_a_work_speaks_as_in_kratix(
    given: dict[str, Any], schedule: tuple[str, str, str], ready: tuple[str, str, str], event: tuple[str, str, str]
) -> None:
    verdict = conditions.work_scheduled(WORK, 3, **given)
    status = conditions.merged(verdict, {"metadata": {}})
    assert status is not None
    words = {c["type"]: (c["status"], c["reason"], c["message"]) for c in status["conditions"]}
    assert words == {"ScheduleSucceeded": schedule, "Ready": ready}
    assert (status["workPlacements"], status["workPlacementsCreated"]) == (3, 3 - len(given.get("unscheduled", ())))
    fact = conditions.event_of(verdict, {"metadata": {}})
    assert fact is not None
    assert (fact.type, fact.reason, fact.message) == event


PLACEMENT = Reference(kind="WorkPlacement", name="w", namespace="n", uid="u1", generation=2)


def placed(*verdicts: Verdict) -> dict[str, Any]:
    """Return a WorkPlacement after some verdicts, in their order."""
    obj: dict[str, Any] = {"metadata": {"uid": "u1", "generation": 2}, "spec": {"targetDestinationName": "d"}}
    for verdict in verdicts:
        obj["status"] = {**obj.get("status", {}), **(conditions.merged(verdict, obj) or {})}
    return obj


@pytest.mark.parametrize(
    ("verdicts", "ready"),
    [
        pytest.param(
            [conditions.placement_scheduled(PLACEMENT, misplaced=False)],
            ("False", "ScheduledToDestination", "Pending"),
            id="scheduled",
        ),
        pytest.param(
            [conditions.placement_scheduled(PLACEMENT, misplaced=False), conditions.placement_written(PLACEMENT, "v")],
            ("True", "WorkloadsWrittenToTargetDestination", "Ready"),
            id="written",
        ),
        pytest.param(
            [conditions.placement_written(PLACEMENT, "v"), conditions.placement_scheduled(PLACEMENT, misplaced=False)],
            ("True", "WorkloadsWrittenToTargetDestination", "Ready"),
            id="written, and scheduled reported late",
        ),
        pytest.param(
            [conditions.placement_failed(PLACEMENT, "why")], ("False", "WorkloadsFailedWrite", "Failing"), id="failed"
        ),
        pytest.param(
            [conditions.placement_written(PLACEMENT, "v"), conditions.placement_scheduled(PLACEMENT, misplaced=True)],
            ("False", "Misplaced", "Misplaced"),
            id="misplaced",
        ),
        pytest.param(
            [
                conditions.placement_written(PLACEMENT, "v"),
                conditions.placement_scheduled(PLACEMENT, misplaced=True),
                conditions.placement_scheduled(PLACEMENT, misplaced=False),
            ],
            ("True", "WorkloadsWrittenToTargetDestination", "Ready"),
            id="back again",
        ),
    ],
)
def test_ready_of_a_placement_follows_from_its_other_conditions_in_any_order(
    verdicts: list[Verdict], ready: tuple[str, str, str]
) -> None:
    found = conditions.find(placed(*verdicts)["status"]["conditions"], "Ready")
    assert found is not None
    assert (found["status"], found["reason"], found["message"]) == ready


def test_a_placement_tells_of_each_version_once() -> None:
    written = conditions.placement_written(PLACEMENT, "v1")
    fact = conditions.event_of(written, placed())
    assert fact is not None
    assert fact.message == "successfully written to Destination: d with versionID: v1"
    assert conditions.event_of(written, placed(written)) is None
    assert conditions.event_of(conditions.placement_written(PLACEMENT, "v2"), placed(written)) is not None
    same = written.model_copy(update={"fields": {}})
    assert conditions.event_of(same, placed(written)) is None, "the version stays"
    again = conditions.event_of(same, placed(written, conditions.placement_failed(PLACEMENT, "why")))
    assert again is not None
    assert again.message == "successfully written to Destination: d with versionID: v1"
    failed = conditions.event_of(conditions.placement_failed(PLACEMENT, "why"), placed(written))
    assert failed is not None
    assert (failed.type, failed.reason) == ("Warning", "FailedWriteToDestination")
    assert failed.message.endswith(": why")
