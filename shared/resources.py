"""The objects of `platform.kratix.io/v1alpha1`, read from what the Kubernetes API returns (docs/contract.md#objects).

Reading is lenient where the cluster's schema is not ours (unknown fields are ignored) and strict in what we act on:
an object that cannot be carried out raises `InvalidObject` with a sentence that says which field to change.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Literal, NoReturn, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretBytes, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel

from shared.endpoints import bucket_identity, repository_identity
from shared.errors import InvalidObject, StateStoreNotReady

GROUP = "platform.kratix.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

CLEANUP_FINALIZER = "kratix.io/destination-cleanup"

MAX_NAME: Final = 253  # characters of an object's name (Kubernetes, "Object Names and IDs")
MAX_LABEL: Final = 63  # characters of a label's value (Kubernetes, "Syntax and character set")

STORE_KINDS: Final = ("BucketStateStore", "GitStateStore")
_LABEL: Final = re.compile(r"(?:[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?)?", re.ASCII)
_SUBDOMAIN: Final = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*", re.ASCII)

StoreKind = Literal["BucketStateStore", "GitStateStore"]


class Model(BaseModel):
    """A frozen part of an object; field names are camelCase in Kubernetes, and unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)


def _without_nulls(value: object) -> object:
    """Drop nulls, which Kubernetes treats as "not set", so that defaults apply."""
    return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value


def _branch_name(value: object) -> object:
    """Return a branch's name for its full ref, which tools print and people copy."""
    return value.strip().removeprefix("refs/heads/") if isinstance(value, str) else value


# What editors and copying leave around a value that cannot have spaces around it.
_Text = Annotated[str, StringConstraints(strip_whitespace=True)]


class ObjectMeta(Model):
    """The part of `metadata` that decisions use."""

    name: str = Field(min_length=1)
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    labels: dict[str, str] = Field(default_factory=dict)
    finalizers: tuple[str, ...] = ()
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None

    @property
    def being_deleted(self) -> bool:
        """Whether the API server has a deletion on record that waits for finalizers."""
        return self.deletion_timestamp is not None


class Condition(Model):
    """One entry of `status.conditions`."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition_time: datetime | None = None
    observed_generation: int | None = None


class StateStoreRef(Model):
    """Which State Store a Destination writes to."""

    kind: StoreKind
    name: str = Field(min_length=1)


class Filepath(Model):
    """How documents are laid out under the Destination's path."""

    mode: Literal["nestedByMetadata", "none", "aggregatedYAML"] = "nestedByMetadata"
    filename: str = "aggregated.yaml"


class InitWorkloads(Model):
    """Whether canary documents are written."""

    enabled: bool = True


class DestinationSpec(Model):
    """`spec` of a Destination, with the reference page's defaults."""

    path: str = ""
    strict_match_labels: bool = False
    filepath: Annotated[Filepath, BeforeValidator(_without_nulls)] = Filepath()
    cleanup: Literal["none", "all"] = "none"
    state_store_ref: StateStoreRef
    init_workloads: Annotated[InitWorkloads, BeforeValidator(_without_nulls)] = InitWorkloads()


class SecretRef(Model):
    """Where a State Store's credentials are."""

    name: str = ""
    namespace: str = "default"


class _StateStoreSpec(Model):
    path: str = ""
    secret_ref: Annotated[SecretRef, BeforeValidator(_without_nulls)] | None = None


class BucketSpec(_StateStoreSpec):
    """`spec` of a BucketStateStore."""

    endpoint: _Text = Field(min_length=1)
    bucket_name: _Text = Field(min_length=1)
    insecure: bool = False
    use_dual_stack: bool = False
    auth_method: _Text = "accessKey"


class GitAuthor(Model):
    """Who commits."""

    name: str = "kratix"
    email: str = ""


class GitSpec(_StateStoreSpec):
    """`spec` of a GitStateStore."""

    url: _Text = Field(min_length=1)
    branch: Annotated[str, BeforeValidator(_branch_name)] = "main"
    auth_method: _Text = "basicAuth"
    git_author: Annotated[GitAuthor, BeforeValidator(_without_nulls)] = GitAuthor()


class Resource(Model):
    """An object of the API group; each kind adds its `spec`."""

    kind: str
    metadata: ObjectMeta
    conditions: tuple[Condition, ...] = ()

    @property
    def name(self) -> str:
        """`metadata.name`."""
        return self.metadata.name

    def condition(self, of_type: str) -> Condition | None:
        """Return the condition of that type, if it is set."""
        return next((c for c in self.conditions if c.type == of_type), None)

    @classmethod
    def parse(cls, obj: Mapping[str, Any]) -> Self:
        """Read an object as the Kubernetes API returned it.

        Raises:
            InvalidObject: a field holds what cannot be carried out; the sentence says which and what to write.
        """
        try:
            return cls.model_validate(
                {
                    "kind": obj.get("kind", cls.__name__),
                    "metadata": _without_nulls(obj.get("metadata") or {}),
                    "spec": _without_nulls(obj.get("spec") or {}),
                    "conditions": ((obj.get("status") or {}).get("conditions")) or (),
                }
            )
        except ValidationError as error:
            raise InvalidObject(
                "; ".join(sentence_of(problem) for problem in error.errors(include_url=False))
            ) from None


class Destination(Resource):
    """A `Destination` (cluster-scoped, or namespaced in older clusters)."""

    spec: DestinationSpec


class BucketStateStore(Resource):
    """A `BucketStateStore`."""

    kind: Literal["BucketStateStore"] = "BucketStateStore"
    spec: BucketSpec

    @property
    def identity(self) -> str:
        """What is the same for two spellings of one bucket, and for nothing else."""
        return bucket_identity(self.spec.endpoint, self.spec.bucket_name, insecure=self.spec.insecure)


class GitStateStore(Resource):
    """A `GitStateStore`."""

    kind: Literal["GitStateStore"] = "GitStateStore"
    spec: GitSpec

    @property
    def identity(self) -> str:
        """What is the same for two spellings of one branch of one repository, and for nothing else."""
        return f"{repository_identity(self.spec.url)}#{self.spec.branch}"


StateStore = BucketStateStore | GitStateStore


def parse_state_store(obj: Mapping[str, Any]) -> StateStore:
    """Read a State Store of either kind.

    Raises:
        InvalidObject: as `parse` of the kind.
    """
    return GitStateStore.parse(obj) if obj.get("kind") == "GitStateStore" else BucketStateStore.parse(obj)


def is_label_value(value: str) -> bool:
    """Whether a text can be a label's value (Kubernetes, "Labels and Selectors", syntax and character set)."""
    return len(value) <= MAX_LABEL and _LABEL.fullmatch(value) is not None


def is_object_name(name: str) -> bool:
    """Whether a text can be the name of an object: an RFC 1123 DNS subdomain (Kubernetes, "Object Names and IDs")."""
    return len(name) <= MAX_NAME and _SUBDOMAIN.fullmatch(name) is not None


class Secret(Model):
    """Credentials, hidden in every repr. Never queued, never logged; read only where they are used.

    Attributes:
        uid: with `resource_version`, what a cached client is keyed by.
        data: decoded values by key.
    """

    name: str
    namespace: str
    uid: str = ""
    resource_version: str = ""
    data: dict[str, SecretBytes] = Field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, obj: Mapping[str, Any]) -> Self:
        """Read a `v1/Secret` as the Kubernetes API returned it.

        Raises:
            StateStoreNotReady: a value is not base64.
        """
        metadata = obj.get("metadata") or {}
        try:
            data = {key: SecretBytes(base64.b64decode(value)) for key, value in (obj.get("data") or {}).items()}
        except (binascii.Error, ValueError):
            raise StateStoreNotReady(f"Secret {metadata.get('name')} holds a value that is not base64") from None
        return cls(
            name=metadata.get("name", ""),
            namespace=metadata.get("namespace", ""),
            uid=metadata.get("uid", ""),
            resource_version=metadata.get("resourceVersion", ""),
            data=data,
        )

    def get(self, key: str) -> bytes | None:
        """Return a value, or None where the key is missing."""
        value = self.data.get(key)
        return None if value is None else value.get_secret_value()

    def require(self, key: str) -> bytes:
        """Return a value that must be there.

        Raises:
            StateStoreNotReady: the key is missing or empty; the sentence names it.
        """
        return self.get(key) or self._missing(key)

    def require_text(self, key: str) -> str:
        """Return a value as text without surrounding white space, which editors and `echo` leave behind.

        Raises:
            StateStoreNotReady: the key is missing or empty, or the value is not UTF-8.
        """
        try:
            text = self.require(key).decode().strip()
        except UnicodeDecodeError:
            raise StateStoreNotReady(f"secret key {key} of Secret {self.name} is not UTF-8 text") from None
        return text or self._missing(key)

    def require_line(self, key: str) -> str:
        """Return a value of one line, such as a password; white space around it is dropped.

        Raises:
            StateStoreNotReady: as `require_text`, or there is a line break or another character inside that cannot be
                seen; servers answer those with anything but that reason (RFC 7617 forbids control characters).
        """
        line = self.require_text(key)
        if not line.isprintable():
            raise StateStoreNotReady(
                f"secret key {key} of Secret {self.name} holds a line break or another invisible character: write it"
                " anew, as one line"
            )
        return line

    def _missing(self, key: str) -> NoReturn:
        raise StateStoreNotReady(
            f"secret is missing key: {key} (add it to Secret {self.name} in namespace {self.namespace})"
        )


def sentence_of(problem: Any) -> str:
    """Return what is wrong with a field, and what to write instead, for one of pydantic's errors."""
    field = ".".join(str(part) for part in problem["loc"])
    kind, context, given = problem["type"], problem.get("ctx") or {}, problem.get("input")
    if kind == "missing":
        return f"{field} is required: add it"
    if kind == "literal_error":
        return f"{field}: {given!r} is unknown; write {context.get('expected')}"
    if kind == "string_too_short":
        return f"{field} is empty: fill it in"
    return f"{field}: {problem['msg']}"
