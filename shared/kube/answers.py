"""Responses of the Kubernetes API: checked, translated into our errors, and told apart from a proxy's responses."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from shared.errors import KubernetesConflict, KubernetesError, KubernetesForbidden, KubernetesUnavailable

Object = dict[str, Any]
Kind = tuple[str, str]  # apiVersion and kind

STATUS: Final[Kind] = ("v1", "Status")

# The message of every authorizer (k8s.io/apiserver, responsewriters.ForbiddenMessage). Admission webhooks, policies and
# quotas have the same reason, Forbidden, with messages of their own.
_NOT_ALLOWED: Final = re.compile(r'\bUser "[^"]*" cannot \S+ (?:resource|path)\b')


class Gone(KubernetesUnavailable):
    """410: the snapshot that a continued list began with has expired."""


class NotFound(KubernetesError):
    """404, and the API server itself says that an object, or its namespace, does not exist."""


class NotKubernetes(KubernetesUnavailable):
    """A proxy or another server answered instead of the API server; the answer says nothing about any object.

    Attributes:
        status: of HTTP.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Answer:
    """One response.

    Attributes:
        status: of HTTP.
        reason: the phrase beside it.
        headers: of HTTP; names in any case.
        body: as it came.
    """

    status: int
    reason: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)

    def read(self) -> Object:
        """Return the JSON object in the body; empty where there is none."""
        try:
            found = json.loads(self.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


def checked(answer: Answer, kinds: Collection[Kind], what: str, host: str) -> Object:
    """Return the object of a successful answer.

    Args:
        answer: whose status is 2xx.
        kinds: what it may be.
        what: the call, for the message.
        host: that it was sent to.

    Raises:
        NotKubernetes: it is nothing of that kind, so something else has answered.
    """
    found = answer.read()
    if kind_of(found) in kinds:
        return found
    raise not_kubernetes(answer, what, host)


def kind_of(obj: Mapping[str, Any]) -> Kind:
    """Return an object's apiVersion and kind; empty where they are missing."""
    return str(obj.get("apiVersion") or ""), str(obj.get("kind") or "")


def is_status_object(obj: Mapping[str, Any]) -> bool:
    """Whether an object is a `Status`, the API server's own word; proxies of clusters leave out its apiVersion."""
    return kind_of(obj) in {STATUS, ("", STATUS[1])}


def not_kubernetes(answer: Answer, what: str, host: str) -> NotKubernetes:
    """Return the error for an answer that no API server gives.

    The body is not quoted: some servers echo the request's headers, which hold our token.
    """
    parts = [f"HTTP {answer.status}"]
    parts += [f"{name} {value[:60]!r}" for name in ("Content-Type", "Server") if (value := answer.headers.get(name))]
    named = ", ".join(parts)
    words = f"{what} at {host} was answered by something that is not the Kubernetes API ({named})"
    return NotKubernetes(f"{words}: check proxies, load balancers and DNS on the way to the cluster", answer.status)


def translated(answer: Answer, what: str, host: str, advice: str) -> KubernetesError:
    """Return the error for an answer that is not 2xx.

    Args:
        answer: to translate.
        what: the call, for the message.
        host: that it was sent to.
        advice: what to check where our identity is refused.
    """
    found, status = answer.read(), answer.status
    is_status = is_status_object(found)
    message = str(found.get("message") or answer.reason)[:500] if is_status else answer.reason
    words = f"Kubernetes answered {status} to {what}: {message}"
    if is_overload(status):  # also without a Status: load balancers say 502 and 503, and mean the same
        return KubernetesUnavailable(words)
    if status == HTTPStatus.UNAUTHORIZED:
        return KubernetesForbidden(f"{words} ({advice})")
    if not is_status:
        return not_kubernetes(answer, what, host)
    if status == HTTPStatus.FORBIDDEN and _NOT_ALLOWED.search(message):
        return KubernetesForbidden(f"{words} ({advice})")
    if status == HTTPStatus.NOT_FOUND and found.get("reason") != "NotFound":
        return KubernetesError(words)
    return _OF_STATUS.get(status, KubernetesError)(words)


_OF_STATUS: Final[Mapping[int, type[KubernetesError]]] = {
    HTTPStatus.NOT_FOUND: NotFound,
    HTTPStatus.CONFLICT: KubernetesConflict,
    HTTPStatus.GONE: Gone,
}


def is_overload(status: int) -> bool:
    """Whether an answer asks for patience, so that the very same call is worth sending again soon."""
    return status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR


def retry_after(answer: Answer, otherwise: float) -> float:
    """Return the seconds that the answer asks us to wait."""
    try:
        return float(answer.headers["Retry-After"])
    except (KeyError, ValueError):
        return otherwise
