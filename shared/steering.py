"""How people steer what the functions do with an object: two annotations (docs/kinds/destination.md, "Pausing").

They are read of Destinations and State Stores. What became of a request is a condition of its own, so that a request
that has been carried out is no news any more.
"""

from collections.abc import Mapping
from typing import Any, Final

PAUSED_ANNOTATION: Final = "landfall.kratix.io/paused"
REQUEST_ANNOTATION: Final = "landfall.kratix.io/reconcile-requested-at"

PAUSED: Final = "Paused"  # reason of Ready
RECONCILED: Final = "Reconciled"  # type of the condition whose message is the request that was carried out last
REQUESTED: Final = "ReconcileRequested"  # its reason

_READY: Final = "Ready"
_MAX_REQUEST: Final = 100  # characters; a time has 20


def is_paused(obj: Mapping[str, Any]) -> bool:
    """Whether an object is marked as paused: by the value `true`, and nothing else."""
    return bool(_annotation(obj, PAUSED_ANNOTATION) == "true")


def request_of(obj: Mapping[str, Any]) -> str:
    """Return the request to look at an object that has not been carried out yet; empty where there is none.

    It is whatever the annotation holds, as long as that is no longer than a time.
    """
    request = _annotation(obj, REQUEST_ANNOTATION)
    if not request or len(request) > _MAX_REQUEST or request == _condition(obj, RECONCILED).get("message"):
        return ""
    return request


def asks_for_a_look(obj: Mapping[str, Any]) -> bool:
    """Whether an object's annotations ask for something that its conditions do not say yet."""
    return bool(request_of(obj)) or is_paused(obj) != (_condition(obj, _READY).get("reason") == PAUSED)


def _annotation(obj: Mapping[str, Any], name: str) -> str:
    annotations = (obj.get("metadata") or {}).get("annotations")
    found = annotations.get(name) if isinstance(annotations, Mapping) else None
    return found if isinstance(found, str) else ""


def _condition(obj: Mapping[str, Any], of_type: str) -> Mapping[str, Any]:
    conditions = (obj.get("status") or {}).get("conditions") or ()
    found: Mapping[str, Any] = next((one for one in conditions if one.get("type") == of_type), {})
    return found
