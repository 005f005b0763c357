"""A fact as an Event of Kubernetes."""

from hashlib import sha256
from typing import Any

from shared.conditions import EventFact
from shared.kube.answers import Object
from shared.resources import API_VERSION


def event_object(obj: Object, fact: EventFact, now: str) -> dict[str, Any]:
    """Return the Event for a fact about an object.

    Its name is made from the object's uid and the fact, so that repeats find it whichever function or container they
    come from.

    Args:
        obj: that it is about.
        fact: that it states.
        now: in RFC 3339.
    """
    metadata = obj["metadata"]
    namespace = metadata.get("namespace") or "default"  # where Kubernetes keeps Events of cluster-scoped objects
    digest = sha256("\0".join((metadata["uid"], fact.type, fact.reason, fact.message)).encode()).hexdigest()
    name = f"{metadata['name'][:200]}.{digest[:16]}"
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": obj["kind"],
            "name": metadata["name"],
            "namespace": metadata.get("namespace", ""),
            "uid": metadata["uid"],
            "resourceVersion": metadata.get("resourceVersion", ""),
        },
        "type": fact.type,
        "reason": fact.reason,
        "message": fact.message,
        "source": {"component": "landfall"},
        "reportingComponent": "landfall",
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
