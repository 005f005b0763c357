"""Pausing and requests, as far as they are decided without I/O (docs/kinds/destination.md, "Pausing")."""

from typing import Any

import pytest

from infra.forwarder.changes import KINDS, Changes
from shared import conditions
from shared.events import decode
from shared.messages import Reference
from shared.reconcile.decisions import decide
from shared.reconcile.view import View
from shared.steering import PAUSED_ANNOTATION, REQUEST_ANNOTATION

DESTINATION = next(kind for kind in KINDS if kind.kind == "Destination")
READY = {"type": "Ready", "status": "True", "reason": "TestDocumentsWritten", "observedGeneration": 1}
PAUSED = {"type": "Ready", "status": "Unknown", "reason": "Paused", "observedGeneration": 1}
ANSWERED = {"type": "Reconciled", "status": "True", "reason": "ReconcileRequested", "message": "now"}


def destination(annotations: dict[str, str], *told: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    named = {"name": "d", "uid": "1", "generation": 1, "annotations": annotations, **metadata}
    spec = {"stateStoreRef": {"kind": "BucketStateStore", "name": "s"}}
    of = {"apiVersion": "platform.kratix.io/v1alpha1", "kind": "Destination"}
    return {**of, "metadata": named, "spec": spec, "status": {"conditions": list(told)}}


def store(annotations: dict[str, str]) -> dict[str, Any]:
    spec = {"endpoint": "s3.example.com", "bucketName": "b"}
    return {"kind": "BucketStateStore", "metadata": {"name": "s", "annotations": annotations}, "spec": spec}


@pytest.mark.parametrize("form", ["whole", "by our forwarder"])
@pytest.mark.parametrize(
    ("annotations", "told", "echo"),
    [
        pytest.param({}, [READY], True, id="nothing-asked"),
        pytest.param({PAUSED_ANNOTATION: "true"}, [READY], False, id="paused-just-now"),
        pytest.param({PAUSED_ANNOTATION: "true"}, [PAUSED], True, id="paused-and-said"),
        pytest.param({}, [PAUSED], False, id="resumed-just-now"),
        pytest.param({PAUSED_ANNOTATION: "false"}, [READY], True, id="another-value"),
        pytest.param({REQUEST_ANNOTATION: "now"}, [READY], False, id="requested"),
        pytest.param({REQUEST_ANNOTATION: "now"}, [READY, ANSWERED], True, id="answered"),
        pytest.param({REQUEST_ANNOTATION: "later"}, [READY, ANSWERED], False, id="requested-again"),
        pytest.param({REQUEST_ANNOTATION: "x" * 101}, [READY], True, id="too-long"),
    ],
)
def test_an_event_is_worth_a_look_until_the_status_answers_what_annotations_ask(
    form: str, annotations: dict[str, str], told: list[dict[str, Any]], echo: bool
) -> None:
    obj = destination(annotations, *told)
    event: Any = {"type": "MODIFIED", "object": obj}
    if form != "whole":
        found = Changes().see(DESTINATION, "MODIFIED", obj)
        assert found is not None
        event = found.text()
    (change,) = decode(event)
    assert change.echo is echo


@pytest.mark.parametrize("at", ["destination", "store"])
@pytest.mark.parametrize("leaving", [False, True])
def test_a_paused_destination_is_neither_written_nor_cleaned_and_says_so(at: str, leaving: bool) -> None:
    mark = {PAUSED_ANNOTATION: "true"}
    metadata: dict[str, Any] = {"finalizers": ["kratix.io/destination-cleanup"]}
    metadata |= {"deletionTimestamp": "2026-01-01T00:00:00Z"} if leaving else {}
    obj = destination(mark if at == "destination" else {}, READY, **metadata)
    obj["spec"]["cleanup"] = "all"
    stores = {("BucketStateStore", "", "s"): store(mark if at == "store" else {})}
    decision = decide(("", "d"), View("", {("", "d"): obj}, stores))
    assert decision is not None
    assert (decision.write, decision.cleanup) == (None, False)
    assert decision.verdict is not None
    assert (decision.verdict.status, decision.verdict.reason) == ("Unknown", "Paused")
    assert ("deletion waits" in decision.verdict.message) is leaving
    event = conditions.event_of(decision.verdict, obj)
    assert event is not None
    assert (event.type, event.reason) == ("Warning" if leaving else "Normal", "Paused")


def test_the_answer_to_a_request_changes_no_ready_and_records_no_event() -> None:
    reference = Reference(kind="BucketStateStore", name="s", generation=1)
    obj: dict[str, Any] = {**store({}), "status": {"conditions": [{**READY, "status": "False"}], "status": "NotReady"}}
    verdict = conditions.reconciled(reference, "now")
    merged = conditions.merged(verdict, obj)
    assert merged is not None
    assert "status" not in merged
    assert conditions.event_of(verdict, obj) is None
