"""Everything that can go wrong, as one tree; library errors are translated into it once, at the adapter.

LandfallError                 a sentence for the person who must act
├── InvalidObject             an object of the cluster says something that cannot be done
│   └── InvalidPath           a path that is refused (docs/contract.md#refusals)
├── PathConflict              what is in the State Store is in the way: a file, a directory, a link
├── UnknownEvent              an event or a message that this system does not read
├── StateStoreError           the State Store did not do what was asked
│   ├── StateStoreNotReady    no writer can be made: the Secret, a key of it, the URL, the authMethod
│   ├── AccessDenied          the store knows us not, or allows us not
│   ├── StoreNotFound         no such bucket, no such repository
│   ├── WriteRejected         a rule of the store says no: a hook, a protected branch
│   ├── QuotaExceeded         the store takes no more until a person makes room
│   ├── TooLarge              over one of the limits in settings
│   └── StoreUnavailable      the network, a time-out, a 5xx, a lost race: the same call may succeed later
├── KubernetesError           the Kubernetes API did not do what was asked
│   ├── KubernetesConflict    the object has changed since it was read (409)
│   └── KubernetesUnavailable unreachable, overloaded or out of reach for now
│       └── KubernetesForbidden  our identity may not make the call (401, or 403 of RBAC)
└── OutOfTime                 the function's own time is nearly over; the item goes back to its queue
"""

from typing import ClassVar


def first(error: Exception) -> Exception:
    """Return the first error of a task group's, which is what the group failed for."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


class LandfallError(Exception):
    """The base of every error of ours.

    Its text is shown in conditions, Events and logs, so it names what failed, why and what to change, and never
    holds a secret.

    Attributes:
        transient: whether the same work may succeed later with nothing changed by a person.
    """

    transient: ClassVar[bool] = False


class InvalidObject(LandfallError):
    """A field of an object holds what cannot be carried out; a person must change the object."""


class InvalidPath(InvalidObject):
    """A path that would leave its place or that a State Store cannot hold (docs/contract.md#refusals)."""


class PathConflict(LandfallError):
    """A document needs a path that something else in the State Store occupies (docs/contract.md#refusals)."""


class UnknownEvent(LandfallError):
    """An event or queue message that no decoder understands; it belongs in the dead-letter queue."""


class StateStoreError(LandfallError):
    """The base of what a State Store or its settings can answer."""


class StateStoreNotReady(StateStoreError):
    """No writer can be made for the State Store as it is declared.

    Attributes:
        reason: the reason of the State Store's own Ready condition (docs/contract.md#state-store-conditions).
    """

    def __init__(self, message: str, *, reason: str = "ErrorInitialisingWriter") -> None:
        super().__init__(message)
        self.reason = reason


class AccessDenied(StateStoreError):
    """The State Store refused our credentials, or does not let them write."""

    transient = True  # permissions and clocks are mended outside the cluster, where no event tells us


class StoreNotFound(StateStoreError):
    """The bucket or the repository does not exist (or hides its existence)."""

    transient = True  # it may be created any minute, and no event tells us


class WriteRejected(StateStoreError):
    """A rule of the State Store refused the write, and will again: a hook, a protected branch."""


class QuotaExceeded(StateStoreError):
    """The State Store has no room left for these credentials: a quota, a limit of the plan, a full disk."""


class TooLarge(StateStoreError):
    """Something is over a limit of the settings; the message names the limit."""


class StoreUnavailable(StateStoreError):
    """The State Store could not be reached or did not answer in time, or others kept winning the race."""

    transient = True


class KubernetesError(LandfallError):
    """The Kubernetes API refused a call for good: it is invalid, or a webhook, a policy or a quota says no."""


class KubernetesConflict(KubernetesError):
    """The object has changed since it was read (409); read it again and decide again."""

    transient = True


class KubernetesUnavailable(KubernetesError):
    """The Kubernetes API could not be reached, or asks us to wait."""

    transient = True


class KubernetesForbidden(KubernetesUnavailable):
    """Our identity is not accepted, or RBAC does not allow it the call; both are mended without an event for us."""


def is_out_of_reach(error: BaseException) -> bool:
    """Whether the Kubernetes API could not be reached or was overloaded; being forbidden something is an answer."""
    return isinstance(error, KubernetesUnavailable) and not isinstance(error, KubernetesForbidden)


class QueueUnavailable(LandfallError):
    """A queue did not take some messages; what they came from goes back to its own queue."""

    transient = True


class OutOfTime(LandfallError):
    """The function's time is nearly over, so the item was left for the next invocation."""

    transient = True
