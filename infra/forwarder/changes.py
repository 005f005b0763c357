"""Which events of a watch are forwarded, and what they hold. The local runtime's forwarder uses it too.

An event holds a reference: no spec, of annotations only those that steer the functions, and of labels only that by
which a WorkPlacement names its Destination. Of Secrets, Works and WorkPlacements only metadata is read.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

GROUP: Final = "platform.kratix.io"
VERSION: Final = "v1alpha1"

Object = dict[str, Any]
Key = tuple[str, str, str]  # kind, namespace, name

_KEPT: Final = (
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "finalizers",
)
# By these fields an event is recognised as an echo of the functions' own reports (shared.events).
_KEPT_OF_CONDITION: Final = ("type", "status", "reason", "observedGeneration")
# Of a WorkPlacement that is gone it is all that says which Destination may have waited for that.
_DESTINATION_LABEL: Final = "kratix.io/targetDestinationName"
# Where Destinations were written (shared/reconcile/locations); the functions set it themselves.
_MEMORY: Final = "landfall.kratix.io/locations"
# By what people steer Destinations and State Stores, and the condition that answers (shared/steering).
_STEERING: Final = ("landfall.kratix.io/paused", "landfall.kratix.io/reconcile-requested-at")
_ANSWER: Final = "Reconciled"
_WORDS: Final = 200  # characters of each: more than the functions take for a request
_LARGE: Final = 16 * 1024  # bytes of an event's JSON; a usual one has under 1,000


@dataclass(frozen=True)
class Kind:
    """A kind that is watched.

    Attributes:
        metadata_only: whether only metadata is requested from the API server: values of Secrets stay there, and the
            documents of Works and WorkPlacements may be larger than any message.
    """

    kind: str
    plural: str
    group: str = GROUP
    version: str = VERSION
    metadata_only: bool = False

    @property
    def api_version(self) -> str:
        """As objects carry it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def path(self) -> str:
        """Of all objects of this kind, in the Kubernetes API."""
        return f"/apis/{self.api_version}/{self.plural}" if self.group else f"/api/{self.version}/{self.plural}"

    def accept(self, *, watch: bool) -> str:
        """Return the media type to request; a server that cannot send metadata alone must refuse, not send more."""
        if not self.metadata_only:
            return "application/json"
        form = "PartialObjectMetadata" if watch else "PartialObjectMetadataList"
        return f"application/json;as={form};g=meta.k8s.io;v=v1"


KINDS: Final = (
    Kind("BucketStateStore", "bucketstatestores"),
    Kind("GitStateStore", "gitstatestores"),
    Kind("Destination", "destinations"),
    Kind("Work", "works", metadata_only=True),
    Kind("WorkPlacement", "workplacements", metadata_only=True),
    Kind("Secret", "secrets", group="", version="v1", metadata_only=True),
)


@dataclass(frozen=True)
class Event:
    """What is sent about one object.

    Attributes:
        type: ADDED, MODIFIED or DELETED, as in a Kubernetes watch; or HEARTBEAT.
        object: its reference, and by which generation its conditions are; nothing in a heartbeat.
    """

    key: Key
    type: str
    object: Object = field(repr=False)

    def merged_into(self, newer: "Event") -> "Event":
        """Coalesce this event and a newer one of the same object into one.

        If the addition has not been sent yet, it stays an addition: a modification may be taken for an echo of the
        functions' own reports.
        """
        return replace(newer, type="ADDED") if (self.type, newer.type) == ("ADDED", "MODIFIED") else newer

    def text(self, cluster: str = "") -> str:
        """Return it as ASCII JSON, in the form that `shared.events` reads.

        Args:
            cluster: the cluster's name in the deployment; empty for its default cluster.
        """
        sent: Object = {"cluster": cluster} if cluster else {}
        sent |= {"type": self.type, "object": self.object} if self.object else {"type": self.type}
        text = json.dumps(sent, separators=(",", ":"))
        if len(text) > _LARGE:
            # An object with a thousand finalizers must not make its batch too large to send.
            metadata = {name: value for name, value in self.object["metadata"].items() if name != "finalizers"}
            sent["object"] = {name: self.object[name] for name in ("apiVersion", "kind")} | {"metadata": metadata}
            text = json.dumps(sent, separators=(",", ":"))
        return text


# Shows that the forwarder watches the cluster and that its events arrive; it names no object.
HEARTBEAT: Final = Event(("", "", "heartbeat"), "HEARTBEAT", {})


@dataclass
class Changes:
    """Remembers a digest of each object, and drops events that show nothing new.

    A status is nothing new, except a State Store's, which its Destinations wait for. A Secret is forwarded only while a
    State Store names it.
    """

    _looks: dict[Key, str] = field(default_factory=dict)
    _secrets: dict[Key, Key] = field(default_factory=dict)  # by State Store

    def see(self, kind: Kind, type_: str | None, obj: Mapping[str, Any], *, quiet: bool = False) -> Event | None:
        """Return the event to forward, or None.

        Args:
            kind: of the object.
            type_: ADDED, MODIFIED or DELETED; None for an object from a list, which may be known already.
            obj: as the API server gave it, whole or its metadata.
            quiet: remember it only.
        """
        key = (kind.kind, obj["metadata"].get("namespace") or "", obj["metadata"]["name"])
        look = _look(kind, obj)
        before = self._looks.pop(key, None)
        if type_ is None:
            type_ = "ADDED" if before is None else "MODIFIED"
        if type_ != "DELETED":
            self._looks[key] = look
        if kind.kind.endswith("StateStore"):
            self._remember_secret(key, None if type_ == "DELETED" else obj)
        if quiet or (kind.kind == "Secret" and key not in self._secrets.values()):
            return None
        if type_ == "MODIFIED" and before == look:
            return None
        return Event(key, type_, _reference(kind, obj))

    def _remember_secret(self, store: Key, obj: Mapping[str, Any] | None) -> None:
        reference = ((obj or {}).get("spec") or {}).get("secretRef") or {}
        if reference.get("name"):
            self._secrets[store] = ("Secret", reference.get("namespace") or "default", reference["name"])
        else:
            self._secrets.pop(store, None)


def _reference(kind: Kind, obj: Mapping[str, Any]) -> Object:
    metadata = {name: obj["metadata"][name] for name in _KEPT if name in obj["metadata"]}
    reference: Object = {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata}
    if kind.metadata_only:
        if kind.kind == "Secret":
            metadata.pop("finalizers", None)
        if kind.kind == "WorkPlacement" and (named := (obj["metadata"].get("labels") or {}).get(_DESTINATION_LABEL)):
            metadata["labels"] = {_DESTINATION_LABEL: named}
        return reference
    annotations = obj["metadata"].get("annotations") or {}
    if steering := {name: str(annotations[name])[:_WORDS] for name in _STEERING if name in annotations}:
        metadata["annotations"] = steering
    if cleanup := (obj.get("spec") or {}).get("cleanup"):
        reference["spec"] = {"cleanup": cleanup}
    if conditions := (obj.get("status") or {}).get("conditions"):
        kept = [{name: each[name] for name in _KEPT_OF_CONDITION if name in each} for each in conditions]
        for condition, each in zip(kept, conditions, strict=True):
            if each.get("type") == _ANSWER:
                condition["message"] = str(each.get("message"))[:_WORDS]
        reference["status"] = {"conditions": kept}
    return reference


def _look(kind: Kind, obj: Mapping[str, Any]) -> str:
    """Return a digest of what the functions read of an object."""
    ignored = {"managedFields", "resourceVersion"}
    parts = [obj.get("spec")]
    if kind.kind == "Secret":
        ignored.remove("resourceVersion")  # nothing else shows that a value has changed
    elif kind.metadata_only:
        ignored.add("annotations")  # the functions' own among them
    elif kind.kind.endswith("StateStore"):
        parts.append(obj.get("status"))
    metadata = {name: value for name, value in obj["metadata"].items() if name not in ignored}
    if annotations := metadata.get("annotations"):
        metadata["annotations"] = {name: value for name, value in annotations.items() if name != _MEMORY}
    if not metadata.get("annotations"):
        metadata.pop("annotations", None)
    look = json.dumps([metadata, *parts], sort_keys=True)
    return hashlib.sha256(look.encode()).hexdigest()
