"""Every forwarder's envelope to one `Change`. An event is only a hint: what is true is read again.

See docs/decisions/0010-level-triggered.md.

Understood, in any nesting: a raw watch event `{type, object}`; our forwarder's heartbeat `{type: HEARTBEAT}`;
EventBridge (in `detail`); SNS and SQS, as records or as an SNS notification's body; Argo Events' resource payload;
CloudEvents of Knative's ApiServerSource, in structured or binary mode, by resource or by reference; and base64 of gzip
of any of these.
"""

import base64
import binascii
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from shared import steering
from shared.errors import UnknownEvent
from shared.messages import Reference
from shared.resources import CLEANUP_FINALIZER, GROUP, STORE_KINDS
from shared.works import DESTINATION_LABEL

MAX_BYTES: Final = 8 * 1024 * 1024  # of a decoded event; etcd holds objects of 1.5 MiB at most
MAX_DEPTH: Final = 8  # of envelopes in envelopes

_WATCH_TYPES: Final = {"ADDED": "added", "MODIFIED": "modified", "DELETED": "deleted"}
_ARGO_TYPES: Final = {"ADD": "added", "UPDATE": "modified", "DELETE": "deleted"}
_KNATIVE_PREFIX: Final = "dev.knative.apiserver."
_KNATIVE_TYPES: Final = {"add": "added", "update": "modified", "delete": "deleted"}

_EXPECTED: Final = (
    "unsupported event format: send a watch event {type, object}, EventBridge, SNS, SQS, Argo Events' resource payload,"
    " or a CloudEvent of Knative's ApiServerSource"
)

_GROUPS: Final = {
    **dict.fromkeys(("Destination", "BucketStateStore", "GitStateStore", "Work", "WorkPlacement"), GROUP),
    "Secret": "",
}

# Names of objects are DNS subdomains, names of namespaces DNS labels. A name becomes part of a URL, so anything else,
# such as `..`, is refused.
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_NAMESPACE: Final = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_MAX_NAME: Final = 253
_MAX_NAMESPACE: Final = 63

# The condition whose observedGeneration says which generation a kind's status is about.
_OBSERVING: Final = {"WorkPlacement": "WriteSucceeded", "Work": "ScheduleSucceeded"}


_STEERED: Final = ("Destination", *STORE_KINDS)  # kinds whose annotations pause them and ask for a look


@dataclass(frozen=True, slots=True)
class Change:
    """A hint that an object may have changed.

    Attributes:
        reference: the object as the event names it; nothing in it is trusted.
        deleted: whether the event says that the object was deleted.
        destination: of a WorkPlacement, the Destination that its label names; empty where the event has no label.
        echo: whether the event only shows a status of this generation, most likely set by us.
        heartbeat: whether this is a forwarder's heartbeat, and not about an object.
    """

    reference: Reference
    deleted: bool = False
    destination: str = ""
    echo: bool = False
    heartbeat: bool = False


def decode(payload: object, cluster: str = "") -> list[Change]:
    """Return the changes in an event; bookmarks and SNS's own messages hold none.

    Args:
        payload: a string or an object, as it reached the function.
        cluster: the cluster that it is from, if the event does not name one.

    Raises:
        UnknownEvent: it is not supported; the message says what was expected, and quotes nothing of the event.
    """
    return list(_decode(payload, cluster, 0))


def _decode(payload: object, cluster: str, depth: int) -> Iterator[Change]:
    if depth > MAX_DEPTH:
        raise UnknownEvent(f"the event has more than {MAX_DEPTH} envelopes: send it with fewer")
    if isinstance(payload, str | bytes):
        yield from _decode(_parse(payload), cluster, depth + 1)
    elif isinstance(payload, list):
        for item in payload:
            yield from _decode(item, cluster, depth + 1)
    elif isinstance(payload, Mapping):
        cluster = _cluster_of(payload) or cluster
        envelope = _open_aws(payload, cluster, depth + 1)
        if envelope is None:
            envelope = _open_kubernetes(payload, cluster, depth + 1)
        yield from envelope
    else:
        raise UnknownEvent(_EXPECTED)


def _open_aws(envelope: Mapping[str, Any], cluster: str, depth: int) -> Iterator[Change] | None:
    """Open AWS's envelope around events; return None for any other event."""
    match envelope:
        case {"Records": list(records)}:
            return _records(records, cluster, depth)
        case {"Type": "Notification", "Message": str(message)}:
            return _decode(message, _attribute(envelope, "MessageAttributes") or cluster, depth)
        case {"Type": "SubscriptionConfirmation" | "UnsubscribeConfirmation"}:
            return iter(())
        case {"detail-type": str(), "detail": detail}:
            return _decode(detail, cluster, depth)
        case {"headers": Mapping() as headers, "body": body}:
            return _http(headers, body, encoded=bool(envelope.get("isBase64Encoded")), cluster=cluster, depth=depth)
        case _:
            return None


def _open_kubernetes(event: Mapping[str, Any], cluster: str, depth: int) -> Iterator[Change]:
    match event:
        case {"specversion": str(), "type": str()}:
            return _cloud_event(event, event, cluster, depth)
        case {"type": "BOOKMARK"}:
            return iter(())
        case {"type": "HEARTBEAT"}:
            return iter((Change(Reference(cluster=cluster, kind="Forwarder", name="forwarder"), heartbeat=True),))
        case {"type": str(event_type), "object": obj} if event_type in _WATCH_TYPES:
            return iter((_change(obj, _WATCH_TYPES[event_type], cluster),))
        case {"type": "ERROR"}:
            raise UnknownEvent("the watch ended with an error: the forwarder must list and watch again, not send it")
        case {"type": str(event_type), "body": body} if event_type in _ARGO_TYPES:
            obj = _parse(body) if isinstance(body, str) else body
            return iter((_change(obj, _ARGO_TYPES[event_type], cluster),))
        case {"context": Mapping(), "data": data}:  # an Argo Events event as a Sensor passes it on
            return _decode(data, cluster, depth)
        case _:
            raise UnknownEvent(_EXPECTED)


def _records(records: list[Any], cluster: str, depth: int) -> Iterator[Change]:
    for record in records:
        match record:
            case {"Sns": {"Message": message} as notification}:
                own = _attribute(notification, "MessageAttributes")
            case {"body": message}:
                own = _attribute(record, "messageAttributes")
            case _:
                raise UnknownEvent("a record is neither of SQS nor of SNS")
        yield from _decode(message, own or cluster, depth)


def _cloud_event(attributes: Mapping[str, Any], event: Mapping[str, Any], cluster: str, depth: int) -> Iterator[Change]:
    event_type = str(attributes["type"])
    data = event.get("data")
    if data is None and isinstance(event.get("data_base64"), str):
        data = _parse(event["data_base64"])
    if isinstance(data, str):
        data = _parse(data)
    if not event_type.startswith(_KNATIVE_PREFIX):
        yield from _decode(data, cluster, depth)  # some broker's envelope around one of the others
        return
    # dev.knative.apiserver.resource.add carries the object, dev.knative.apiserver.ref.add a reference to it
    type_ = _KNATIVE_TYPES.get(event_type.rpartition(".")[2])
    if type_ is None:
        raise UnknownEvent("unsupported CloudEvent type: send dev.knative.apiserver.resource.add, .update or .delete")
    yield _change(data, type_, _cluster_of(attributes) or cluster)


def _http(headers: Mapping[str, Any], body: object, *, encoded: bool, cluster: str, depth: int) -> Iterator[Change]:
    if encoded and isinstance(body, str):
        body = _unbase64(body)
    attributes = {str(name).lower()[3:]: value for name, value in headers.items() if str(name).lower()[:3] == "ce-"}
    if "specversion" in attributes and "type" in attributes:
        yield from _cloud_event(attributes, {"data": body}, cluster, depth)
    else:
        yield from _decode(body, cluster, depth)


def _change(obj: object, type_: str, cluster: str) -> Change:
    if not isinstance(obj, Mapping):
        raise UnknownEvent("the event holds no object: send the object, or a reference with kind and name")
    metadata = obj.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else obj  # an ObjectReference has its names at the top
    kind, name = obj.get("kind"), metadata.get("name")
    if not isinstance(kind, str) or not isinstance(name, str) or not name:
        raise UnknownEvent("the event's object has no kind or no name")
    group = str(obj.get("apiVersion") or "").rpartition("/")[0]
    if kind not in _GROUPS or group != _GROUPS[kind]:
        raise UnknownEvent(
            f"objects of kind {kind[:63]!r} in group {group[:253]!r} are not watched here:"
            f" let the forwarder send only {', '.join(_GROUPS)}"
        )
    namespace = str(metadata.get("namespace") or "")
    if len(name) > _MAX_NAME or not _NAME.fullmatch(name):
        raise UnknownEvent(
            "the event's object has an invalid name: it must be an RFC 1123 DNS subdomain of at most 253 characters"
        )
    if namespace and (len(namespace) > _MAX_NAMESPACE or not _NAMESPACE.fullmatch(namespace)):
        raise UnknownEvent("the event's object has an invalid namespace: it must be an RFC 1123 DNS label")
    generation, uid = metadata.get("generation"), str(metadata.get("uid") or "")
    if len(uid) > _MAX_NAME or not uid.isascii():
        raise UnknownEvent("the event's object has an invalid uid: it must be ASCII, of at most 253 characters")
    return Change(
        Reference(
            cluster=cluster,
            kind=kind,
            namespace=namespace,
            name=name,
            uid=uid,
            generation=generation if isinstance(generation, int) else 0,
        ),
        deleted=type_ == "deleted",
        destination=_destination(metadata) if kind == "WorkPlacement" else "",
        echo=type_ == "modified" and kind != "Secret" and _only_status(obj, metadata),
    )


def _destination(metadata: Mapping[str, Any]) -> str:
    labels = metadata.get("labels")
    named = labels.get(DESTINATION_LABEL) if isinstance(labels, Mapping) else None
    return named if isinstance(named, str) and _NAME.fullmatch(named) else ""


def _only_status(obj: Mapping[str, Any], metadata: Mapping[str, Any]) -> bool:
    """Whether its status is about the very generation that the event shows, and nothing waits for a finalizer."""
    if not metadata.get("generation"):
        return False
    # A deletion raises the generation, so it is not an echo. The verdict about a failed cleanup is one.
    wants_cleanup = (obj.get("spec") or {}).get("cleanup") == "all"
    if wants_cleanup != (CLEANUP_FINALIZER in (metadata.get("finalizers") or ())):
        return False
    if obj.get("kind") in _STEERED and steering.asks_for_a_look(obj):
        return False
    conditions = (obj.get("status") or {}).get("conditions") or ()
    of_type = _OBSERVING.get(str(obj.get("kind")), "Ready")
    current: Mapping[str, Any] = next((condition for condition in conditions if condition.get("type") == of_type), {})
    if current.get("reason") == "DestinationFinalizerUpdateFailed" and not metadata.get("deletionTimestamp"):
        return False  # the finalizers are right now, so what waited for them can begin
    return bool(current.get("observedGeneration") == metadata["generation"])


def _attribute(holder: Mapping[str, Any], key: str) -> str:
    attribute = (holder.get(key) or {}).get("cluster") or {}
    return str(attribute.get("stringValue") or attribute.get("Value") or "")


def _cluster_of(envelope: Mapping[str, Any]) -> str:
    cluster = envelope.get("cluster")
    return cluster if isinstance(cluster, str) else ""


def _parse(text: str | bytes) -> object:
    """Read JSON, or base64 of JSON, or base64 of gzip of JSON."""
    if len(text) > MAX_BYTES:
        raise UnknownEvent(f"the event is over {MAX_BYTES} bytes")
    raw = text.encode() if isinstance(text, str) else text
    if raw.lstrip()[:1] not in {b"{", b"[", b'"'}:
        raw = _inflate(_unbase64(raw))
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        raise UnknownEvent("the event is neither JSON nor base64 of gzip of JSON") from None


def _unbase64(text: str | bytes) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise UnknownEvent("the event is neither JSON nor base64 of gzip of JSON") from None


def _inflate(raw: bytes) -> bytes:
    if not raw.startswith(b"\x1f\x8b"):
        return raw
    inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    try:
        inflated = inflater.decompress(raw, MAX_BYTES)
    except zlib.error:
        raise UnknownEvent("the event's gzip is broken") from None
    if inflater.unconsumed_tail:
        raise UnknownEvent(f"the event inflates to over {MAX_BYTES} bytes")
    return inflated
