"""What travels between the functions: references and verdicts. Never a document, never a secret."""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import UnknownEvent

OBJECTS_OF_A_MESSAGE: Final = 250  # with names of 253 characters each, that is 64 KB of the 256 KB that SQS takes


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    @classmethod
    def decode(cls, body: str) -> Self:
        """Read a queue message's body.

        Raises:
            UnknownEvent: it is no message of this kind; the sentence names the fields that are wrong.
        """
        try:
            return cls.model_validate_json(body)
        except ValidationError as error:
            fields = ", ".join(".".join(map(str, p["loc"])) or p["msg"] for p in error.errors(include_url=False)[:5])
            raise UnknownEvent(f"the message is no {cls.__name__}: {fields}") from None

    def encode(self) -> str:
        """Return the body of the queue message."""
        return self.model_dump_json(exclude_defaults=True)


class Reference(_Message):
    """An object of a cluster that is to be looked at.

    Attributes:
        cluster: which Kubernetes API; empty means the deployment's default cluster.
        uid: of the object that was meant; empty where the sender does not know it.
        generation: that the sender saw; 0 where it does not know it.
        attempt: how many times this very reference has failed and been sent again.
        hops: how many times it has been sent again to wait for its State Store's Lease; unlike `attempt`, no failure.
        place: the Lease of the State Store that it was about when it was sent, where the sender knows: a hint.
        alone: of a State Store: its Destinations are not meant; they come by messages of their own.
        names: of further objects of the same kind and namespace: one message for many. They have no uid.
    """

    cluster: str = ""
    kind: str
    namespace: str = ""
    name: str = Field(min_length=1)
    uid: str = ""
    generation: int = 0
    attempt: int = 0
    hops: int = 0
    place: str = ""
    alone: bool = False
    names: tuple[str, ...] = ()

    def each(self) -> "Iterator[Reference]":
        """Yield a reference to each of the objects that this one is about."""
        if not self.names:
            yield self
            return
        for name in (self.name, *self.names):
            yield self.model_copy(update={"name": name, "names": ()})

    @classmethod
    def to(cls, obj: Mapping[str, Any], kind: str, cluster: str, attempt: int = 0) -> Self:
        """Return the reference to an object as the Kubernetes API has just returned it."""
        metadata = obj["metadata"]
        return cls(
            cluster=cluster,
            kind=kind,
            namespace=metadata.get("namespace") or "",
            name=metadata["name"],
            uid=metadata.get("uid") or "",
            generation=metadata.get("generation") or 0,
            attempt=attempt,
        )

    def __str__(self) -> str:
        more = f" and {len(self.names)} more" if self.names else ""
        return f"{self.kind}/{self.namespace + '/' if self.namespace else ''}{self.name}{more}"


def packed(references: Iterable[Reference]) -> Iterator[Reference]:
    """Yield references that mean the same objects in fewer messages: those without a uid, some hundred in one."""
    alike: dict[Reference, list[str]] = {}
    for reference in references:
        if reference.uid:
            yield reference
        else:
            alike.setdefault(reference.model_copy(update={"name": "*", "generation": 0}), []).append(reference.name)
    for like, names in alike.items():
        for at in range(0, len(names), OBJECTS_OF_A_MESSAGE):
            name, *more = names[at : at + OBJECTS_OF_A_MESSAGE]
            yield like.model_copy(update={"name": name, "names": tuple(more)})


class Verdict(_Message):
    """What one function found about an object, to be reported on it.

    Attributes:
        reference: the object, with the uid and generation that the verdict is about.
        type: of the condition.
        status: of the condition; None where only a finalizer is concerned.
        decided_at: when it was found; an older verdict never overwrites a newer one.
        first_seen: it is set only where the object has no such condition yet, and records no Event.
        fields: of the status, besides the condition: `versionID` and the like.
        add_finalizers, remove_finalizers: to be added or removed besides.
        annotations: to be set besides, after all that is waited for: what the object is to remember.
        seen: what the reporting needs of the object as it was when this was decided, so that nobody has to read it
            again; its resourceVersion tells the API server whether it is still the same. None: it has to be read.
    """

    reference: Reference
    type: str = "Ready"
    status: Literal["True", "False", "Unknown"] | None = None
    reason: str = ""
    message: str = ""
    decided_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    first_seen: bool = False
    fields: dict[str, str | int] = Field(default_factory=dict)
    add_finalizers: tuple[str, ...] = ()
    remove_finalizers: tuple[str, ...] = ()
    annotations: dict[str, str] = Field(default_factory=dict)
    seen: dict[str, Any] | None = None

    def seeing(self, obj: Mapping[str, Any]) -> Self:
        """Return the verdict with what has to be known of the object that it was decided on.

        Of an object with much to tell only the metadata: it is read again, and messages stay small.
        """
        metadata, spec = obj["metadata"], obj.get("spec") or {}
        seen: dict[str, Any] = {
            "metadata": {name: metadata[name] for name in _SEEN_METADATA if name in metadata},
            "spec": {name: spec[name] for name in _SEEN_SPEC if name in spec},
            "status": obj.get("status") or {},
        }
        if len(json.dumps(seen)) > _SEEN_BYTES:
            del seen["status"]
        return self.model_copy(update={"seen": seen})


_SEEN_BYTES: Final = 4096
_SEEN_METADATA: Final = (
    "namespace", "name", "uid", "generation", "resourceVersion", "finalizers", "deletionTimestamp"
)  # fmt: skip
_SEEN_SPEC: Final = ("targetDestinationName", "cleanup")  # which Events name, and finalizers hang on
