"""What a State Store says about who serves it: Kratix or Landfall (docs/decisions/0005-takeover.md).

A person asks for it by the annotation `managed`. What follows is ours to do, step by step, so that never both write:

1. the label `held` is set. While a State Store has it, the API server refuses Kratix's reports on its Destinations;
2. the credentials are parked: `spec.secretRef` names a Secret that does not exist, and an annotation says which one is
   meant. Kratix drops its client, and Landfall reads the annotation;
3. a while later, when a write that Kratix had begun has ended, Landfall serves the State Store.

Back it goes the other way round, and the label goes last, when Kratix has said that it can write again.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from typing import Any, Final

from shared.errors import InvalidObject

MANAGED_ANNOTATION: Final = "landfall.kratix.io/managed"
HANDOVER_ANNOTATION: Final = "landfall.kratix.io/handover"
HELD_LABEL: Final = "landfall.kratix.io/held"
PARKED_SECRET: Final = "handed-over-to-landfall"  # noqa: S105 -- no password: the name of a Secret that must not exist
PARKED_NAMESPACE: Final = "landfall"

# API servers learn of a label within a moment; until then Kratix must find its client, or its report would get through.
HOLD_SECONDS: Final = 3
# How long a State Store that goes back waits for Kratix to say that it can write to it.
RETURN_SECONDS: Final = 60

_FIELDS: Final = ("authMethod", "secretRef")


class Step(Enum):
    """What is next for a State Store between two writers."""

    KRATIX = "nothing: Kratix serves it"
    HOLD = "hold Kratix's reports back"
    PARK = "park the credentials"
    SERVE = "nothing: Landfall serves it"
    RESTORE = "restore the credentials"
    RELEASE = "let Kratix report again"


def next_step(obj: Mapping[str, Any]) -> Step:
    """Return what is next for a State Store, as it is now; when is another matter (`waits_until`)."""
    wanted, held = is_asked_for(obj), is_held(obj)
    if wanted:
        return Step.HOLD if not held else Step.SERVE if is_parked(obj) else Step.PARK
    if is_parked(obj) and HANDOVER_ANNOTATION in _annotations(obj):
        return Step.RESTORE
    return Step.RELEASE if held or HANDOVER_ANNOTATION in _annotations(obj) else Step.KRATIX


def is_asked_for(obj: Mapping[str, Any]) -> bool:
    """Whether a person wants a State Store to be Landfall's."""
    return _annotations(obj).get(MANAGED_ANNOTATION) == "true"


def is_held(obj: Mapping[str, Any]) -> bool:
    """Whether Kratix's reports on a State Store's Destinations are refused."""
    return HELD_LABEL in (obj["metadata"].get("labels") or {})


def is_parked(obj: Mapping[str, Any]) -> bool:
    """Whether a State Store's own fields lead to no credentials."""
    spec = obj.get("spec") or {}
    return bool((spec.get("secretRef") or {}).get("name") == PARKED_SECRET)


def since(obj: Mapping[str, Any]) -> datetime | None:
    """Return when the last step was taken; None where none was, or a person took it."""
    try:
        return datetime.fromisoformat(_handover(obj)["since"])
    except (InvalidObject, KeyError, TypeError, ValueError):
        return None


def has_kratix_reported(obj: Mapping[str, Any]) -> bool:
    """Whether a State Store that has gone back is Ready as it is now: only Kratix reports on it by then."""
    status = obj.get("status") or {}
    ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in status.get("conditions") or ())
    return ready and status.get("observedGeneration") == obj["metadata"].get("generation")


def hold_patch(obj: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Return the patch by which Kratix's reports are refused from now on.

    Raises:
        InvalidObject: the credentials are parked already, and the annotation that names them cannot be read.
    """
    noted = _handover(obj) if is_parked(obj) else {}
    return {"metadata": {"labels": {HELD_LABEL: "true"}, **_noted({**noted, "since": now.isoformat()})}}


def park_patch(obj: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Return the patch that parks a State Store's credentials."""
    spec = obj.get("spec") or {}
    noted = {"since": now.isoformat(), **{name: spec[name] for name in _FIELDS if spec.get(name)}}
    parked: dict[str, Any] = {"secretRef": {"name": PARKED_SECRET, "namespace": PARKED_NAMESPACE}}
    if spec.get("authMethod") == "IAM":  # or Kratix would go on with the role of its own pod
        parked["authMethod"] = "accessKey"
    return {"metadata": _noted(noted), "spec": parked}


def restore_patch(obj: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Return the patch that gives a State Store its own credentials back.

    Raises:
        InvalidObject: the annotation that names them cannot be read.
    """
    noted = _handover(obj)
    secret = noted.get("secretRef")
    ref = None if secret is None else {"name": None, "namespace": None, **secret}
    spec = {"secretRef": ref} | ({"authMethod": noted["authMethod"]} if "authMethod" in noted else {})
    return {"metadata": _noted({"since": now.isoformat()}), "spec": spec}


def release_patch() -> dict[str, Any]:
    """Return the patch that leaves nothing of ours on a State Store."""
    return {"metadata": {"labels": {HELD_LABEL: None}, "annotations": {HANDOVER_ANNOTATION: None}}}


def with_credentials(obj: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a State Store as it is meant: with its own credentials where they are parked.

    Raises:
        InvalidObject: they are parked, and the annotation that names them is not there or cannot be read.
    """
    if not is_parked(obj):
        return obj
    noted = _handover(obj)
    named = {name: noted[name] for name in _FIELDS if name in noted}
    spec = {name: value for name, value in (obj.get("spec") or {}).items() if name != "secretRef"}
    return {**obj, "spec": {**spec, **named}}


def _handover(obj: Mapping[str, Any]) -> dict[str, Any]:
    text = _annotations(obj).get(HANDOVER_ANNOTATION)
    try:
        found = json.loads(text) if text else None
    except ValueError:
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("secretRef") or {}, dict):
        example = '{"secretRef": {"name": "<Secret>", "namespace": "<namespace>"}}'
        words = f"spec.secretRef is {PARKED_SECRET!r}, so the annotation {HANDOVER_ANNOTATION} must name the Secret"
        raise InvalidObject(f"{words}: set it to {example}")
    return found


def _annotations(obj: Mapping[str, Any]) -> Mapping[str, Any]:
    return obj["metadata"].get("annotations") or {}


def _noted(noted: Mapping[str, Any]) -> dict[str, Any]:
    return {"annotations": {HANDOVER_ANNOTATION: json.dumps(noted, separators=(",", ":"))}}
