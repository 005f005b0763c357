"""Every envelope is understood, and what is not is refused with a sentence.

See docs/failure-modes.md#15-untrusted-events.
"""

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from infra.forwarder.changes import HEARTBEAT
from shared.errors import UnknownEvent
from shared.events import MAX_BYTES, MAX_DEPTH, decode

EVENTS = Path(__file__).parents[2] / "events" / "on-destination-change"
DESTINATION: dict[str, Any] = {
    "apiVersion": "platform.kratix.io/v1alpha1",
    "kind": "Destination",
    "metadata": {"name": "worker-1", "uid": "u1", "generation": 3},
    "spec": {"stateStoreRef": {"kind": "BucketStateStore", "name": "default"}},
}


CLEANED = {**DESTINATION["spec"], "cleanup": "all"}
DELETED = "2026-01-01T00:00:00Z"
UNSET = "DestinationFinalizerUpdateFailed"


def event(name: str) -> Any:
    return json.loads((EVENTS / f"{name}.json").read_text())


@pytest.mark.parametrize(
    ("name", "deleted"),
    [
        ("watch-event", False),
        ("watch-event.in-sqs", False),
        ("eventbridge", False),
        ("eventbridge.in-sqs", False),
        ("sns", False),
        ("sns.in-sqs", False),
        ("argo-events", False),
        ("argo-events.in-sqs", False),
        ("knative-resource.in-sqs", False),
        ("knative-reference.in-sqs", False),
        ("knative-binary-mode", False),
        ("knative-delete", True),
        ("gzip-forwarder.sns", False),
        ("gzip-forwarder.in-sqs", False),
        ("deleted.in-sqs", True),
    ],
)
def test_an_envelope_leads_to_the_destination_in_it(name: str, deleted: bool) -> None:
    (change,) = decode(event(name))
    assert (change.reference.kind, change.reference.name, change.deleted) == ("Destination", "worker-1", deleted)
    assert not change.echo


def test_a_reference_mode_event_knows_no_uid_and_claims_none() -> None:
    (change,) = decode(event("knative-reference.in-sqs"))
    assert (change.reference.uid, change.reference.generation) == ("", 0)


BEAT = {"cluster": "edge", "type": "HEARTBEAT"}
BEATS = [
    pytest.param(BEAT, id="alone"),
    pytest.param({"Records": [{"messageId": "1", "body": json.dumps(BEAT)}]}, id="a queue"),
    pytest.param(
        {"detail-type": "Kubernetes object changed", "source": "landfall.forwarder", "detail": BEAT}, id="a bus"
    ),
    pytest.param({"Type": "Notification", "Message": json.dumps(BEAT)}, id="a topic"),
]


@pytest.mark.parametrize("payload", BEATS)
def test_a_heartbeat_is_about_its_cluster_and_no_object(payload: dict[str, Any]) -> None:
    (change,) = decode(payload)
    assert (change.heartbeat, change.reference.cluster) == (True, "edge")


def test_what_is_about_an_object_is_no_heartbeat() -> None:
    (change,) = decode({"type": "ADDED", "object": DESTINATION})
    assert not change.heartbeat


def test_what_the_forwarder_sends_is_read_as_a_heartbeat() -> None:
    (change,) = decode(HEARTBEAT.text("edge"))
    assert change.heartbeat


def test_uid_and_generation_come_from_the_object() -> None:
    (change,) = decode({"type": "MODIFIED", "object": DESTINATION})
    assert (change.reference.uid, change.reference.generation) == ("u1", 3)


def test_a_state_store_and_a_secret_are_followed_too() -> None:
    (store,) = decode(event("state-store.in-sqs"))
    (secret,) = decode(event("secret.in-sqs"))
    assert (store.reference.kind, store.reference.name) == ("BucketStateStore", "default")
    assert (secret.reference.kind, secret.reference.namespace) == ("Secret", "default")


def with_ready(generation: int, reason: str = "", **metadata: Any) -> dict[str, Any]:
    ready = {"type": "Ready", "status": "False" if reason else "True", "observedGeneration": generation}
    ready |= {"reason": reason} if reason else {}
    return {
        **DESTINATION,
        "metadata": {**DESTINATION["metadata"], **metadata},
        "status": {"conditions": [ready]},
    }


@pytest.mark.parametrize(
    ("watch_type", "obj", "echo"),
    [
        pytest.param("MODIFIED", with_ready(3), True, id="status about this generation"),
        pytest.param("MODIFIED", with_ready(2), False, id="status about an older generation"),
        pytest.param("MODIFIED", DESTINATION, False, id="no status yet"),
        pytest.param("ADDED", with_ready(3), False, id="a forwarder that starts anew asks for a look"),
        pytest.param("MODIFIED", with_ready(2, deletionTimestamp=DELETED), False, id="being deleted"),
        pytest.param("MODIFIED", with_ready(3, deletionTimestamp=DELETED), True, id="a failed clean-up"),
        pytest.param(
            "MODIFIED", with_ready(3, finalizers=["kratix.io/destination-cleanup"]), False, id="a finalizer to remove"
        ),
        pytest.param(
            "MODIFIED",
            {**with_ready(3), "spec": CLEANED},
            False,
            id="a finalizer to add",
        ),
        pytest.param(
            "MODIFIED",
            {**with_ready(3, UNSET, finalizers=["kratix.io/destination-cleanup"]), "spec": CLEANED},
            False,
            id="a finalizer that is there after all",
        ),
        pytest.param("MODIFIED", with_ready(3, UNSET), False, id="a finalizer that is gone after all"),
        pytest.param(
            "MODIFIED",
            {
                **with_ready(3, UNSET, finalizers=["kratix.io/destination-cleanup"], deletionTimestamp=DELETED),
                "spec": CLEANED,
            },
            True,
            id="a finalizer that holds what is cleaned up",
        ),
    ],
)
def test_only_an_event_that_shows_nothing_but_our_status_is_an_echo(
    watch_type: str, obj: dict[str, Any], echo: bool
) -> None:
    (change,) = decode({"type": watch_type, "object": obj})
    assert change.echo is echo


def named(name: str, namespace: str = "", kind: str = "WorkPlacement") -> dict[str, Any]:
    api = "v1" if kind == "Secret" else "platform.kratix.io/v1alpha1"
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"type": "ADDED", "object": {"apiVersion": api, "kind": kind, "metadata": metadata}}


@pytest.mark.parametrize(
    ("kind", "name", "namespace"),
    [
        pytest.param("WorkPlacement", "redis-deps.worker-1-5058f", "default", id="as Kratix names placements"),
        pytest.param("WorkPlacement", f"{'w' * 64}.{'d' * 188}", "default", id="as long as a name can be"),
        pytest.param("Work", "redis-deps-x7k2p", "kratix-platform-system", id="from a generateName"),
        pytest.param("Work", "0.1--2.3", "0", id="digits, dots and dashes"),
        pytest.param("Secret", "sh.helm.release.v1.redis.v1", "n" * 63, id="a Secret with dots, a long namespace"),
        pytest.param("Destination", "a", "", id="one letter"),
    ],
)
def test_every_name_that_kubernetes_gives_is_taken(kind: str, name: str, namespace: str) -> None:
    (change,) = decode(named(name, namespace, kind))
    assert (change.reference.namespace, change.reference.name) == (namespace, name)


NO_NAMES = ["..", ".", "a/b", "a..b", ".a", "a.", "-a", "a-", "A", "a_b", "ä", "*", "%2e", "a b", "a\n", "\ud800"]


@pytest.mark.parametrize("name", [*NO_NAMES, "n" * 254])
def test_a_name_that_kubernetes_gives_to_nothing_is_refused(name: str) -> None:
    with pytest.raises(UnknownEvent, match="DNS subdomain"):
        decode(named(name, "default"))


@pytest.mark.parametrize("uid", ["\ud800", "ü", "u" * 254])
def test_a_uid_that_no_api_server_gives_is_refused(uid: str) -> None:
    with pytest.raises(UnknownEvent, match="uid"):
        decode({"type": "ADDED", "object": {**DESTINATION, "metadata": {"name": "worker-1", "uid": uid}}})


@pytest.mark.parametrize("namespace", ["..", "a.b", "a/b", "A", "-a", "a-", "n" * 64, "a\n", "\ud800"])
def test_a_namespace_that_kubernetes_cannot_have_is_refused(namespace: str) -> None:
    with pytest.raises(UnknownEvent, match="DNS label"):
        decode(named("w", namespace))


@pytest.mark.parametrize(
    ("envelope", "cluster"),
    [
        pytest.param({"type": "ADDED", "object": DESTINATION, "cluster": "blue"}, "blue", id="in the watch event"),
        pytest.param({"detail-type": "x", "detail": {"type": "ADDED", "object": DESTINATION}}, "", id="nowhere"),
        pytest.param(
            {
                "Records": [
                    {
                        "messageId": "1",
                        "body": json.dumps({"type": "ADDED", "object": DESTINATION}),
                        "messageAttributes": {"cluster": {"stringValue": "green", "dataType": "String"}},
                    }
                ]
            },
            "green",
            id="in SQS's message attributes",
        ),
        pytest.param(
            {
                "Records": [
                    {
                        "Sns": {
                            "Message": json.dumps({"type": "ADDED", "object": DESTINATION}),
                            "MessageAttributes": {"cluster": {"Type": "String", "Value": "red"}},
                        }
                    }
                ]
            },
            "red",
            id="in SNS's message attributes",
        ),
    ],
)
def test_the_cluster_is_named_by_the_envelope(envelope: dict[str, Any], cluster: str) -> None:
    (change,) = decode(envelope)
    assert change.reference.cluster == cluster


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param({"type": "BOOKMARK", "object": {"kind": "Destination"}}, id="bookmark"),
        pytest.param({"Type": "SubscriptionConfirmation", "Message": "x", "Token": "t"}, id="SNS confirmation"),
        pytest.param([], id="nothing"),
    ],
)
def test_what_tells_of_no_change_is_no_error(payload: object) -> None:
    assert decode(payload) == []


def nested(depth: int) -> object:
    event: object = {"type": "ADDED", "object": DESTINATION}
    for _ in range(depth):
        event = {"detail-type": "x", "detail": event}
    return event


def zipped(raw: bytes) -> str:
    return base64.b64encode(gzip.compress(raw)).decode()


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        pytest.param({"hello": "world"}, "unsupported event format", id="some other JSON"),
        pytest.param(7, "unsupported event format", id="a number"),
        pytest.param("not even JSON", "neither JSON nor base64", id="no JSON"),
        pytest.param("{broken", "neither JSON nor base64", id="broken JSON"),
        pytest.param({"type": "ERROR", "object": {"kind": "Status"}}, "list and watch again", id="watch error"),
        pytest.param({"type": "ADDED", "object": None}, "no object", id="no object"),
        pytest.param({"type": "ADDED", "object": {"kind": "Destination"}}, "no name", id="no name"),
        pytest.param({"Records": [{"kinesis": {}}]}, "neither of SQS nor of SNS", id="records of something else"),
        pytest.param(
            {"type": "ADDED", "object": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}},
            "kind 'Pod'",
            id="another kind",
        ),
        pytest.param(
            {"type": "ADDED", "object": {**DESTINATION, "apiVersion": "example.com/v1"}},
            "example.com",
            id="another group",
        ),
        pytest.param(
            {"specversion": "1.0", "type": "dev.knative.apiserver.resource.bogus", "data": DESTINATION},
            "unsupported CloudEvent type",
            id="an unknown Knative type",
        ),
        pytest.param(nested(MAX_DEPTH + 1), "envelopes", id="too many envelopes"),
        pytest.param(zipped(b"x" * (MAX_BYTES + 1)), "inflates to over", id="an inflation bomb"),
        pytest.param(base64.b64encode(b"\x1f\x8bbroken").decode(), "gzip is broken", id="broken gzip"),
        pytest.param("[" * 100_000, "neither JSON nor base64", id="JSON nested to death"),
    ],
)
def test_what_is_not_understood_is_refused_with_a_sentence(payload: object, words: str) -> None:
    with pytest.raises(UnknownEvent, match=words):
        decode(payload)


def test_a_refusal_quotes_no_secret_of_the_event() -> None:
    payload = {"type": "ADDED", "object": {"apiVersion": "v1", "kind": "Sekret", "data": {"password": "aHVudGVyMg=="}}}
    with pytest.raises(UnknownEvent) as refusal:
        decode(payload)
    assert "aHVudGVyMg" not in str(refusal.value)


def test_a_secret_event_with_data_leaves_the_data_behind() -> None:
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"password": "aHVudGVyMg=="}}
    (change,) = decode({"type": "ADDED", "object": secret})
    assert "aHVudGVyMg" not in repr(change)


@pytest.mark.parametrize(
    ("labels", "destination"),
    [
        ({"kratix.io/targetDestinationName": "worker-1"}, "worker-1"),
        ({"kratix.io/targetDestinationName": "../secrets"}, ""),
        ({"kratix.io/targetDestinationName": ["worker-1"]}, ""),
        ({"kratix.io/work": "w"}, ""),
        ("worker-1", ""),
        (None, ""),
    ],
)
def test_a_workplacements_event_says_its_destination_only_by_a_name_that_one_can_have(
    labels: object, destination: str
) -> None:
    metadata = {"name": "w", "namespace": "default", "labels": labels}
    obj = {"apiVersion": DESTINATION["apiVersion"], "kind": "WorkPlacement", "metadata": metadata}
    (change,) = decode({"type": "DELETED", "object": obj})
    assert change.destination == destination
