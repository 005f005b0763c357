"""What the forwarder tells of an event, what waits while AWS is away, and what is wrong with its settings."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from infra.forwarder import outbox as outbox_module
from infra.forwarder.changes import KINDS, Changes, Event, Kind
from infra.forwarder.outbox import Outbox
from infra.forwarder.settings import Settings, WrongSetting
from infra.forwarder.targets import NotSent, Target, open_target
from shared.events import decode

EVENTS = Path(__file__).parents[2] / "events" / "on-destination-change"
KIND: dict[str, Kind] = {kind.kind: kind for kind in KINDS}
BUS = "arn:aws:events:eu-west-1:123456789012:event-bus/landfall"
TOPIC = "arn:aws:sns:eu-west-1:123456789012:landfall"
QUEUE = "arn:aws:sqs:eu-west-1:123456789012:landfall-changes"


def obj(name: str = "x", **more: Any) -> dict[str, Any]:
    metadata = {"name": name, "uid": f"uid-{name}", "resourceVersion": "1", "generation": 1, **more.pop("metadata", {})}
    return {"metadata": metadata, **more}


def event(name: str, type_: str = "ADDED", **metadata: Any) -> Event:
    told = {"apiVersion": "v1", "kind": "Destination", "metadata": {"name": name, **metadata}}
    return Event(("Destination", "", name), type_, told)


# ---------------------------------------------------------------- changes

AGAIN = [
    pytest.param("Destination", {"status": {"conditions": []}}, False, id="a Destination's status"),
    pytest.param("Destination", {"metadata": {"resourceVersion": "2"}}, False, id="a Destination's managed fields"),
    pytest.param("Destination", {"spec": {"path": "a"}}, True, id="a Destination's spec"),
    pytest.param("Destination", {"metadata": {"labels": {"a": "b"}}}, True, id="a Destination's label"),
    pytest.param("Destination", {"metadata": {"annotations": {"a": "b"}}}, True, id="a Destination's annotation"),
    pytest.param("Destination", {"metadata": {"deletionTimestamp": "now"}}, True, id="a Destination's deletion"),
    pytest.param("Destination", {"metadata": {"uid": "another"}}, True, id="another Destination of that name"),
    pytest.param("GitStateStore", {"status": {"conditions": []}}, True, id="a State Store's status"),
    pytest.param("GitStateStore", {"metadata": {"resourceVersion": "2"}}, False, id="a State Store's managed fields"),
    pytest.param("Work", {"metadata": {"generation": 2}}, True, id="a Work's generation"),
    pytest.param("Work", {"metadata": {"labels": {"a": "b"}}}, True, id="a Work's label"),
    pytest.param("Work", {"metadata": {"resourceVersion": "2"}}, False, id="a Work's status"),
    pytest.param("WorkPlacement", {"metadata": {"annotations": {"a": "b"}}}, False, id="the functions' annotation"),
]


@pytest.mark.parametrize("listed", [False, True], ids=["watched", "listed again"])
@pytest.mark.parametrize(("kind", "then", "told"), AGAIN)
def test_only_what_may_concern_the_functions_is_told_again(
    kind: str, then: dict[str, Any], told: bool, listed: bool
) -> None:
    changes = Changes()
    first = changes.see(KIND[kind], None if listed else "ADDED", obj())
    assert first is not None
    assert first.type == "ADDED"
    again = changes.see(KIND[kind], None if listed else "MODIFIED", obj(**then))
    assert (again is not None) == told
    assert again is None or again.type == "MODIFIED"


def test_what_comes_back_after_its_deletion_is_told_as_added() -> None:
    changes = Changes()
    for type_, told in ((None, "ADDED"), ("DELETED", "DELETED"), (None, "ADDED")):
        seen = changes.see(KIND["Destination"], type_, obj())
        assert seen is not None
        assert seen.type == told


def test_a_secret_is_told_only_while_a_state_store_names_it_and_only_when_it_has_changed() -> None:
    changes = Changes()
    store = obj("store", spec={"secretRef": {"name": "creds"}})

    def see(version: str) -> bool:
        secret = obj("creds", metadata={"namespace": "default", "resourceVersion": version})
        return changes.see(KIND["Secret"], "MODIFIED", secret) is not None

    assert not see("1")
    changes.see(KIND["BucketStateStore"], "ADDED", store)
    assert see("2")
    assert not see("2")
    changes.see(KIND["BucketStateStore"], "MODIFIED", obj("store", spec={}))
    assert not see("3")
    changes.see(KIND["BucketStateStore"], "MODIFIED", store)
    assert see("4")
    changes.see(KIND["BucketStateStore"], "DELETED", store)
    assert not see("5")


def test_what_is_told_is_a_reference_and_what_an_echo_is_known_by() -> None:
    metadata = {
        "labels": {"a": "b"},
        "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{}"},
        "managedFields": [{}],
        "finalizers": ["kratix.io/destination-cleanup"],
    }
    kept = {"type": "Ready", "status": "False", "reason": "StateStoreNotReady", "observedGeneration": 1}
    spec = {"cleanup": "all", "path": "a"}
    whole = obj(metadata=metadata, spec=spec, status={"conditions": [kept | {"message": "the server's words"}]})
    told = Changes().see(KIND["Destination"], "ADDED", whole)
    assert told is not None
    assert json.loads(told.text("production")) == {
        "cluster": "production",
        "type": "ADDED",
        "object": {
            "apiVersion": "platform.kratix.io/v1alpha1",
            "kind": "Destination",
            "metadata": {
                "name": "x",
                "uid": "uid-x",
                "resourceVersion": "1",
                "generation": 1,
                "finalizers": ["kratix.io/destination-cleanup"],
            },
            "spec": {"cleanup": "all"},
            "status": {"conditions": [kept]},
        },
    }
    (change,) = decode(told.text("production"))
    reference = change.reference
    assert (reference.cluster, reference.kind, reference.uid, reference.generation) == (
        "production", "Destination", "uid-x", 1,
    )  # fmt: skip
    (echo,) = decode(Event(told.key, "MODIFIED", told.object).text())
    assert echo.echo
    assert not change.echo


def test_of_labels_only_a_workplacements_destination_is_told() -> None:
    labels = {"kratix.io/targetDestinationName": "worker-1", "kratix.io/work": "w"}
    told = {}
    for kind in ("WorkPlacement", "Work", "Destination"):
        event = Changes().see(KIND[kind], "DELETED", obj(metadata={"labels": labels}))
        assert event is not None
        told[kind] = (event.object["metadata"].get("labels"), decode(event.text())[0].destination)
    of_it = {"kratix.io/targetDestinationName": "worker-1"}
    assert told == {"WorkPlacement": (of_it, "worker-1"), "Work": (None, ""), "Destination": (None, "")}


def test_a_huge_event_is_cut_down_to_a_reference_that_still_decodes() -> None:
    text = event("x", finalizers=["f" * 60] * 1000, uid="u").text("production")
    assert len(text) < 500
    (change,) = decode(text.replace('"v1"', '"platform.kratix.io/v1alpha1"'))
    assert (change.reference.name, change.reference.uid) == ("x", "u")


@pytest.mark.parametrize("name", ["argo-events-sensor", "knative-event-transform.in-sqs"])
def test_what_argo_events_and_knative_really_send_is_the_same_reference(name: str) -> None:
    """Captured from argo-events v1.9.10 and knative.dev/eventing v0.49.2 with our manifests, on a real API server."""
    changes = decode(json.loads((EVENTS / f"{name}.json").read_text()))
    for change in changes:
        reference = change.reference
        assert (reference.cluster, reference.kind, reference.name) == ("default", "Destination", "worker-1")
        assert (reference.generation, change.echo) == (2, False)
        assert len(reference.uid) == 36
    assert changes


# ---------------------------------------------------------------- outbox


class Aws:
    """Takes what it is told to take."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, str, int]] = []
        self.answers: list[Callable[[list[str]], dict[int, str]]] = []
        self.calls = 0

    async def send(self, bodies: list[str]) -> dict[int, str]:
        self.calls += 1
        await asyncio.sleep(0)
        failed = self.answers.pop(0)(bodies) if self.answers else {}
        for place, body in enumerate(bodies):
            if place not in failed:
                told = json.loads(body)
                metadata = told["object"]["metadata"]
                self.taken.append((told["type"], metadata["name"], metadata.get("generation", 0)))
        return failed


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Aws:
    monkeypatch.setattr(outbox_module, "_FIRST_BACKOFF_SECONDS", 0.01)
    return Aws()


@pytest_asyncio.fixture
async def outbox(aws: Aws) -> AsyncIterator[Outbox]:
    box = Outbox(aws, "")
    yield box
    await box.close(0)


def away(_: list[str]) -> dict[int, str]:
    raise NotSent("AWS is away")


async def test_of_an_object_that_changes_while_it_waits_only_the_newest_is_sent(aws: Aws, outbox: Outbox) -> None:
    for generation in (1, 2, 3):
        outbox.put(event("a", "ADDED" if generation == 1 else "MODIFIED", generation=generation))
    outbox.put(event("b"))
    outbox.put(event("b", "DELETED"))
    await outbox.close(10)
    # Nobody heard of the addition: told as a modification, it might pass for an echo.
    assert aws.taken == [("ADDED", "a", 3), ("DELETED", "b", 0)]


async def test_what_was_not_taken_is_sent_again_unless_something_newer_waits(
    aws: Aws, outbox: Outbox, caplog: pytest.LogCaptureFixture
) -> None:
    def half(_: list[str]) -> dict[int, str]:
        outbox.put(event("1", "MODIFIED", generation=2))
        return {1: "InternalFailure: try again", 2: "InternalFailure: try again"}

    aws.answers = [half, away]
    for name in ("0", "1", "2"):
        outbox.put(event(name))
    await outbox.close(10)
    assert sorted(aws.taken) == [("ADDED", "0", 0), ("ADDED", "1", 2), ("ADDED", "2", 0)]
    assert "InternalFailure: try again" in caplog.text
    assert "2 events wait, again in 0.0 s: AWS is away" in caplog.text
    assert outbox.state() == {"sent": 3, "waiting": 0, "stuckSeconds": 0}


async def test_an_error_that_nobody_foresaw_loses_nothing(aws: Aws, outbox: Outbox) -> None:
    def broken(_: list[str]) -> dict[int, str]:
        raise RuntimeError("never thought of")

    aws.answers = [broken]
    outbox.put(event("a"))
    await outbox.close(10)
    assert aws.taken == [("ADDED", "a", 0)]


async def test_a_burst_goes_out_ten_at_a_time(aws: Aws, outbox: Outbox) -> None:
    for number in range(95):
        outbox.put(event(str(number)))
    await outbox.close(10)
    assert (len(aws.taken), aws.calls) == (95, 10)


# ---------------------------------------------------------------- targets

THROTTLED: dict[str, Any] = {"Id": "1", "Code": "Throttled", "Message": "!", "SenderFault": False}
UNTOUCHED: dict[str, Any] = {"ErrorCode": "Throttled", "ErrorMessage": "!"}
FAILURES: dict[str, tuple[str, dict[str, Any]]] = {
    "bus": (BUS, {"FailedEntryCount": 1, "Entries": [{"EventId": "1"}, UNTOUCHED]}),
    "queue": (QUEUE, {"Successful": [], "Failed": [THROTTLED]}),
}
TOPIC_ANSWER = (
    "<PublishBatchResponse><PublishBatchResult><Failed><member><Id>1</Id><Code>Throttled</Code><Message>!</Message>"
    "<SenderFault>false</SenderFault></member></Failed><Successful/></PublishBatchResult></PublishBatchResponse>"
)


async def send_to(target: str, answer: web.Response, monkeypatch: pytest.MonkeyPatch) -> dict[int, str]:
    """Send two bodies to a server that says this one thing."""

    async def answering(_: web.Request) -> web.Response:
        return answer

    app = web.Application()
    app.router.add_post("/{path:.*}", answering)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    environment = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{runner.addresses[0][1]}", "LANDFALL_TARGET": target}
    for name, value in {**environment, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(name, value)
    try:
        async with open_target(Settings.from_environment(environment)) as opened:
            assert isinstance(opened, Target)
            return await opened.send(["{}", "{}"])
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("service", FAILURES)
async def test_an_entry_that_was_not_taken_is_named(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target, answer = FAILURES[service]
    response = web.json_response(answer, content_type="application/x-amz-json-1.1")
    assert await send_to(target, response, monkeypatch) == {1: "Throttled: !"}


async def test_an_entry_that_a_topic_did_not_take_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    response = web.Response(text=TOPIC_ANSWER, content_type="text/xml")
    assert await send_to(TOPIC, response, monkeypatch) == {1: "Throttled: !"}


async def test_a_refusal_is_told_in_the_services_words_but_never_what_was_signed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for code, words in (
        ("AccessDeniedException", "may not"),
        ("InvalidSignatureException", "x-amz-security-token:abc"),
    ):
        body = {"__type": code, "message": words}
        response = web.json_response(body, status=400, content_type="application/x-amz-json-1.1")
        with pytest.raises(NotSent) as refused:
            await send_to(BUS, response, monkeypatch)
        said = "PutEvents answered AccessDeniedException may not"
        assert str(refused.value) == (said if code.startswith("Access") else f"PutEvents answered {code}")


# ---------------------------------------------------------------- settings

WRONG = [
    pytest.param({}, "LANDFALL_TARGET is ''.*ARN of an EventBridge bus", id="no target"),
    pytest.param({"LANDFALL_TARGET": "landfall"}, "LANDFALL_TARGET is 'landfall'", id="a name"),
    pytest.param({"LANDFALL_TARGET": BUS.replace("event-bus", "rule")}, "name a bus", id="no bus"),
    pytest.param({"LANDFALL_TARGET": f"{QUEUE}.fifo"}, "FIFO", id="a FIFO queue"),
    pytest.param({"LANDFALL_TARGET": "https://sqs.example/123456789012/q"}, "AWS_REGION is not set", id="no region"),
    pytest.param({"LANDFALL_TARGET": QUEUE, "LANDFALL_CLUSTER": "a b"}, "LANDFALL_CLUSTER is 'a b'", id="a cluster"),
    pytest.param({"LANDFALL_TARGET": QUEUE, "LANDFALL_WATCH_SECRETS": "no"}, "write true or false", id="no boolean"),
    pytest.param({"LANDFALL_TARGET": QUEUE, "LANDFALL_HEARTBEAT_SECONDS": "61"}, "up to 60, or 0", id="too seldom"),
    pytest.param({"LANDFALL_TARGET": QUEUE, "LANDFALL_HEARTBEAT_SECONDS": "-1"}, "up to 60, or 0", id="no number"),
    pytest.param({"LANDFALL_TARGET": QUEUE, "LANDFALL_METRICS_ADDRESS": "9090"}, "write host:port", id="a port alone"),
]


@pytest.mark.parametrize(("environment", "sentence"), WRONG)
def test_a_wrong_setting_is_refused_with_what_to_write(environment: dict[str, str], sentence: str) -> None:
    with pytest.raises(WrongSetting, match=sentence):
        Settings.from_environment(environment)


@pytest.mark.parametrize(
    ("target", "service"), [(BUS, "events"), (TOPIC, "sns"), (QUEUE, "sqs"), (QUEUE.replace("aws:", "aws-cn:"), "sqs")]
)
def test_an_arn_tells_service_and_region(target: str, service: str) -> None:
    settings = Settings.from_environment({"LANDFALL_TARGET": target, "AWS_REGION": "us-east-1"})
    assert (settings.service, settings.region) == (service, "eu-west-1")
