"""The chaos run's model sees what it is there to see: each difference that it could meet is told, and nothing else."""

import base64
from typing import Any

import pytest

from tests.chaos.journal import Deletion, Incarnation, Journal, Place, Put, Spec, Version
from tests.chaos.model import CONFIG_MAP, NAMESPACE, Contents, canaries
from tests.chaos.verdicts import FINALIZER, Verdicts

STORE = ("BucketStateStore", "alpha")
BUCKET = "bucket-1"
CANARIES = canaries("env/worker-1", "nestedByMetadata")
FIRST = next(iter(CANARIES))
THEIRS = "env/worker-1/theirs.yaml"


def incarnation(
    name: str = "worker-1", cleanup: str = "all", path: str = "", created: str = "2026-01-01T00:00:00Z"
) -> Incarnation:
    return Incarnation(f"uid-{name}", name, created, [Version(Spec(STORE, path, cleanup=cleanup), since=10)])


def journal(*destinations: Incarnation) -> Journal:
    made = Journal(list(destinations), {STORE: [Version(Place(BUCKET, "env"), since=0)]})
    made.watched = made.begun = [float(second) for second in range(1, 200)]
    return made


def deleted(who: Incarnation, *, finalizer: bool = True, skipped: bool = False, at: float = 50) -> Incarnation:
    who.deletion = Deletion(at, finalizer, gone=at + 5, skipped=skipped)
    return who


def differences(facts: Journal, found: dict[str, bytes], **more: Any) -> list[str]:
    return list(Contents(facts, more.get("required", {}), more.get("refused", {})).differences(BUCKET, found))


@pytest.mark.parametrize(
    ("found", "word"),
    [
        pytest.param({}, "is not there", id="canaries that are missing"),
        pytest.param({**CANARIES, FIRST: b"edited"}, "6 bytes", id="a canary that stays edited"),
        pytest.param({**CANARIES, "env/x": b""}, "nothing explains it", id="a file that nobody put there"),
    ],
)
def test_a_store_that_is_not_as_a_live_destination_says_is_told(found: dict[str, bytes], word: str) -> None:
    required = {BUCKET: CANARIES}
    assert not differences(journal(incarnation()), CANARIES, required=required)
    assert word in differences(journal(incarnation()), found, required=required)[0]


def test_canaries_of_a_destination_with_init_workloads_disabled_are_told() -> None:
    refused = {BUCKET: frozenset(CANARIES)}
    assert "initWorkloads disabled" in differences(journal(incarnation()), CANARIES, refused=refused)[0]


@pytest.mark.parametrize(
    ("who", "wrong"),
    [
        pytest.param(deleted(incarnation()), 2, id="cleaned up"),
        pytest.param(deleted(incarnation(), finalizer=False), 2, id="gone before anything could be written"),
        pytest.param(deleted(incarnation(cleanup="none"), finalizer=False), 0, id="cleanup none"),
        pytest.param(deleted(incarnation(), skipped=True), 0, id="skipped and told"),
        pytest.param(incarnation(path="elsewhere"), 2, id="never been there"),
    ],
)
def test_canaries_that_stay_are_told_where_the_contract_says_that_they_go(who: Incarnation, wrong: int) -> None:
    assert len(differences(journal(who), CANARIES)) == wrong


def moved(cleanup: str = "all") -> Incarnation:
    who = incarnation(cleanup=cleanup)
    who.versions[0].until = 20
    who.versions.append(Version(Spec(STORE, "elsewhere", cleanup=cleanup), since=20))
    return who


def test_canaries_at_an_old_path_may_stay_until_a_clean_up_above_them() -> None:
    assert not differences(journal(moved()), CANARIES)
    assert len(differences(journal(moved(), deleted(incarnation("outer", path="/"))), CANARIES)) == 2


@pytest.mark.parametrize(
    ("others", "must_stay", "must_go"),
    [
        pytest.param([], True, False, id="nobody is deleted"),
        pytest.param([deleted(incarnation())], False, True, id="its Destination is cleaned up"),
        pytest.param([deleted(incarnation("worker-10"))], True, False, id="a sibling is"),
        pytest.param([deleted(incarnation(cleanup="none"))], True, False, id="cleanup is none at last"),
        pytest.param([deleted(incarnation("outer", path="/"))], False, True, id="an outer one is"),
        pytest.param(
            [deleted(incarnation("outer", path="/")), incarnation()], True, False, id="an outer one is, this one lives"
        ),
        pytest.param(
            [
                incarnation(),
                deleted(incarnation("younger", path="worker-1", created="2026-01-02T00:00:00Z")),
            ],
            True,
            False,
            id="one that was refused for the older one is",
        ),
        pytest.param([moved()], False, False, id="its Destination moves away, and its old directory is cleaned up"),
        pytest.param([moved("none")], True, False, id="its Destination moves away and leaves everything"),
        pytest.param([deleted(incarnation(), at=4)], False, False, id="it was put while its Destination was cleaned"),
    ],
)
def test_files_of_others_stay_or_go_as_the_contract_says(
    others: list[Incarnation], must_stay: bool, must_go: bool
) -> None:
    facts = journal(*others)
    facts.puts[BUCKET, THEIRS] = [Put(5, 6, b"theirs")]
    assert bool(differences(facts, {})) == must_stay
    assert bool(differences(facts, {THEIRS: b"theirs"})) == must_go
    assert differences(facts, {THEIRS: b"other bytes"})


def destination(name: str = "worker-1", *, ready: tuple[str, str, str], **spec: Any) -> dict[str, Any]:
    status, reason, message = ready
    condition = {"type": "Ready", "status": status, "reason": reason, "message": message, "observedGeneration": 2}
    condition["lastTransitionTime"] = "2026-01-01T00:00:00Z"
    full = {"cleanup": "none", "filepath": {"mode": "none"}, "stateStoreRef": {"kind": STORE[0], "name": STORE[1]}}
    metadata = {"name": name, "generation": 2, "creationTimestamp": f"2026-01-01T00:00:0{name[-1]}Z"}
    return {"metadata": metadata, "spec": {**full, **spec}, "status": {"conditions": [condition]}}


WRITTEN = ("True", "TestDocumentsWritten", "Test documents written to State Store")
NOT_FOUND = ("False", "StateStoreNotFound", "BucketStateStore/alpha: not found")
DENIED = ("False", "StateStoreNotReady", "BucketStateStore/alpha: Error validating state store permissions: no")


def verdicts(*destinations: dict[str, Any], secret: str | None = "right", store: bool = True) -> Verdicts:
    ready = {
        "right": ("True", "StateStoreReady", "State store is ready"),
        "wrong": ("False", "ErrorValidatingPermissions", "Error validating state store permissions: no"),
        None: ("False", "SecretNotFound", "Secret s not found in namespace default"),
    }[secret]
    obj = destination("alpha1", ready=ready)
    obj["spec"] = {"secretRef": {"name": "s"}}
    obj["status"] |= {"status": "Ready" if secret == "right" else "NotReady", "observedGeneration": 2}
    secrets = {} if secret is None else {"s": {"data": {"key": base64.b64encode(secret.encode()).decode()}}}
    places = {STORE: Place(BUCKET, "env")}
    return Verdicts(destinations, {STORE: obj} if store else {}, secrets, {STORE: {"key": "right"}}, places)


def test_a_world_in_which_every_status_is_true_has_no_differences() -> None:
    clash = "Destination worker-1 has the same path in the same State Store: change spec.path of one of them"
    world = verdicts(
        destination(ready=WRITTEN), destination("worker-2", path="worker-1", ready=("False", "PathClash", clash))
    )
    assert world.differences() == []
    assert set(world.required[BUCKET].values()) == {NAMESPACE, CONFIG_MAP}
    assert len(world.required[BUCKET]) == 2


@pytest.mark.parametrize(
    ("world", "word"),
    [
        pytest.param(verdicts(destination(ready=WRITTEN), store=False), "StateStoreNotFound", id="no State Store"),
        pytest.param(verdicts(destination(ready=NOT_FOUND)), "TestDocumentsWritten", id="it is there after all"),
        pytest.param(verdicts(destination(ready=WRITTEN), secret="wrong"), "StateStoreNotReady", id="wrong Secret"),
        pytest.param(verdicts(destination(ready=DENIED)), "TestDocumentsWritten", id="a right Secret"),
        pytest.param(
            verdicts(destination(ready=WRITTEN), destination("worker-2", path="worker-1", ready=WRITTEN)),
            "PathClash",
            id="two of one path",
        ),
        pytest.param(
            verdicts(destination(ready=WRITTEN, initWorkloads={"enabled": False})), "DestinationReady", id="disabled"
        ),
        pytest.param(verdicts(destination(ready=WRITTEN, path=".git/x")), "InvalidDestination", id="a refused path"),
        pytest.param(verdicts(destination(ready=WRITTEN, path="a" * 256)), "InvalidDestination", id="a long name"),
        pytest.param(verdicts(destination(ready=WRITTEN, cleanup="all")), "finalizer", id="no finalizer"),
    ],
)
def test_a_status_that_is_not_true_is_told(world: Verdicts, word: str) -> None:
    (sentence,) = world.differences()
    assert word in sentence


def test_a_destination_that_is_stuck_in_its_deletion_is_told() -> None:
    obj = destination(ready=WRITTEN, cleanup="all")
    obj["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [FINALIZER]}
    (sentence,) = verdicts(obj).differences()
    assert "still being deleted" in sentence


def test_a_status_of_an_older_generation_is_told() -> None:
    obj = destination(ready=WRITTEN)
    obj["metadata"]["generation"] = 3
    (sentence,) = verdicts(obj).differences()
    assert "generation 2, the object has 3" in sentence
