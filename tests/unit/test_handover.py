"""A State Store's way from Kratix to Landfall and back: every step, from wherever a person turns round."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shared import handover
from shared.errors import InvalidObject
from shared.handover import Step
from shared.reconcile.managed import is_ours, only_ours
from shared.reconcile.view import View, secret_key
from shared.resources import parse_state_store
from shared.settings import Settings

NOW = datetime(2026, 1, 1, tzinfo=UTC)
GIT = {"url": "https://git.example.com/fleet.git", "secretRef": {"name": "fleet-git", "namespace": "platform"}}
KEY = {"endpoint": "s3.example.com", "bucketName": "b", "authMethod": "accessKey", "secretRef": {"name": "keys"}}
IAM = {"endpoint": "s3.amazonaws.com", "bucketName": "b", "authMethod": "IAM"}
SPECS = pytest.mark.parametrize(
    ("kind", "spec"),
    [("GitStateStore", GIT), ("BucketStateStore", KEY), ("BucketStateStore", IAM)],
    ids=["git", "access-key", "iam"],
)


def store(kind: str, spec: dict[str, Any], *, managed: bool = False) -> dict[str, Any]:
    annotations = {handover.MANAGED_ANNOTATION: "true"} if managed else {}
    metadata = {"name": "fleet", "labels": {}, "annotations": annotations, "generation": 1}
    return {"kind": kind, "metadata": metadata, "spec": dict(spec)}


def merged(obj: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    """Apply a JSON merge patch (RFC 7396)."""
    found = _merged(obj, patch)
    assert isinstance(found, dict)
    return found


def _merged(obj: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    base = obj if isinstance(obj, dict) else {}
    changed = {name: _merged(base.get(name), value) for name, value in patch.items() if value is not None}
    return {**{name: value for name, value in base.items() if name not in patch}, **changed}


def asked(obj: dict[str, Any], *, managed: bool) -> dict[str, Any]:
    return merged(obj, {"metadata": {"annotations": {handover.MANAGED_ANNOTATION: "true" if managed else None}}})


def stepped(obj: dict[str, Any]) -> dict[str, Any]:
    step = handover.next_step(obj)
    patch = {
        Step.HOLD: lambda: handover.hold_patch(obj, NOW),
        Step.PARK: lambda: handover.park_patch(obj, NOW),
        Step.RESTORE: lambda: handover.restore_patch(obj, NOW),
        Step.RELEASE: handover.release_patch,
    }[step]()
    return merged(obj, patch)


def until_it_rests(obj: dict[str, Any]) -> tuple[dict[str, Any], list[Step]]:
    steps: list[Step] = []
    while (step := handover.next_step(obj)) not in {Step.KRATIX, Step.SERVE}:
        assert len(steps) < 5, steps
        steps.append(step)
        obj = stepped(obj)
    return obj, steps


@SPECS
def test_over_and_back_leaves_the_state_store_as_it_was(kind: str, spec: dict[str, Any]) -> None:
    before = store(kind, spec)
    over, steps = until_it_rests(asked(before, managed=True))
    assert steps == [Step.HOLD, Step.PARK]
    assert handover.is_held(over)
    assert handover.is_parked(over)
    assert over["spec"].get("authMethod") != "IAM", "Kratix would write with its own role"
    back, steps = until_it_rests(asked(over, managed=False))
    assert steps == [Step.RESTORE, Step.RELEASE]
    assert back == before


@SPECS
def test_parked_credentials_are_still_ours(kind: str, spec: dict[str, Any]) -> None:
    over, _ = until_it_rests(store(kind, spec, managed=True))
    before, now = parse_state_store(store(kind, spec)), parse_state_store(over)
    assert now.spec == before.spec
    assert now.identity == before.identity
    assert secret_key(now) == secret_key(before)


@SPECS
@pytest.mark.parametrize("turns", range(1, 5))
@pytest.mark.parametrize("steps", range(3))
def test_who_turns_round_at_any_step_ends_where_it_was_asked_for(
    kind: str, spec: dict[str, Any], turns: int, steps: int
) -> None:
    before = store(kind, spec)
    obj = before
    for turn in range(turns):
        obj = asked(obj, managed=turn % 2 == 0)
        for _ in range(steps):
            if handover.next_step(obj) not in {Step.KRATIX, Step.SERVE}:
                obj = stepped(obj)
    over, _ = until_it_rests(asked(obj, managed=True))
    assert handover.next_step(over) is Step.SERVE
    assert parse_state_store(over).spec == parse_state_store(before).spec
    back, _ = until_it_rests(asked(obj, managed=False))
    assert back == before


def test_a_label_that_someone_takes_away_is_set_again_and_the_credentials_are_kept() -> None:
    over, _ = until_it_rests(store("GitStateStore", GIT, managed=True))
    bare = merged(over, {"metadata": {"labels": {handover.HELD_LABEL: None}}})
    again, steps = until_it_rests(bare)
    assert steps == [Step.HOLD]
    assert secret_key(parse_state_store(again)) == ("platform", "fleet-git")


@pytest.mark.parametrize(
    "noted", [None, "", "no JSON", "[]", '{"secretRef": "fleet-git"}'], ids=["none", "empty", "text", "list", "string"]
)
def test_parked_credentials_that_cannot_be_found_are_a_sentence_for_a_person(noted: str | None) -> None:
    over, _ = until_it_rests(store("GitStateStore", GIT, managed=True))
    over = merged(over, {"metadata": {"annotations": {handover.HANDOVER_ANNOTATION: noted}}})
    with pytest.raises(
        InvalidObject, match=r"annotation landfall\.kratix\.io/handover must name the Secret: set it to"
    ):
        parse_state_store(over)


def test_a_state_store_is_served_only_when_a_write_of_kratix_has_ended() -> None:
    settings = Settings(state_stores="managed", handover_seconds=30)
    over, _ = until_it_rests(store("GitStateStore", GIT, managed=True))
    assert [is_ours(over, settings, NOW + timedelta(seconds=seconds)) for seconds in (0, 29, 30, 60)] == [
        False,
        False,
        True,
        True,
    ]
    for obj in (None, store("GitStateStore", GIT), asked(over, managed=False)):
        assert not is_ours(obj, settings, NOW + timedelta(hours=1))
        assert is_ours(obj, Settings(), NOW), "where a deployment serves all, annotations take nothing away"


def test_what_one_wrote_oneself_needs_no_time() -> None:
    noted = json.dumps({"secretRef": GIT["secretRef"]})
    obj = store("GitStateStore", {**GIT, "secretRef": {"name": handover.PARKED_SECRET}}, managed=True)
    obj["metadata"]["annotations"][handover.HANDOVER_ANNOTATION] = noted
    obj["metadata"]["labels"][handover.HELD_LABEL] = "true"
    assert is_ours(obj, Settings(state_stores="managed"), NOW)


def test_kratix_has_reported_when_it_is_ready_in_this_generation() -> None:
    obj = store("GitStateStore", GIT)
    for status, wanted in (
        ({}, False),
        ({"observedGeneration": 1}, False),
        ({"observedGeneration": 0, "conditions": [{"type": "Ready", "status": "True"}]}, False),
        ({"observedGeneration": 1, "conditions": [{"type": "Ready", "status": "False"}]}, False),
        ({"observedGeneration": 1, "conditions": [{"type": "Ready", "status": "True"}]}, True),
    ):
        assert handover.has_kratix_reported({**obj, "status": status}) is wanted


def destination(name: str, of: str, path: str) -> dict[str, Any]:
    ref = {"kind": "GitStateStore", "name": of}
    return {"metadata": {"name": name, "uid": name}, "spec": {"path": path, "stateStoreRef": ref}}


def test_of_kratix_destinations_only_the_directories_count() -> None:
    ours, _ = until_it_rests(store("GitStateStore", GIT, managed=True))
    theirs = store("GitStateStore", GIT)
    theirs["metadata"]["name"] = "theirs"
    objects = [destination("a", "fleet", "a"), destination("b", "theirs", "a"), destination("c", "gone", "c")]
    view = View(
        "test",
        {("", obj["metadata"]["name"]): obj for obj in objects},
        {("GitStateStore", "", "fleet"): ours, ("GitStateStore", "", "theirs"): theirs},
    )
    seen = only_ours(view, Settings(state_stores="managed"))
    assert set(seen.destinations) == {("", "a")}
    assert set(seen.theirs) == {("", "b"), ("", "c")}
    assert seen.stores_kept == {("GitStateStore", "", "theirs")}
    assert seen.partial
    # The same repository: the older of two Destinations with one directory has it, whoever serves it.
    owner = seen.owner(parse_state_store(ours), "a")
    assert owner is not None
    assert set(seen.roots(parse_state_store(ours))) == {("", "a"), ("", "b")}
    assert only_ours(view, Settings()) is view
