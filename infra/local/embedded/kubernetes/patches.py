"""How a PATCH changes an object: JSON merge patch (RFC 7386) and JSON patch (RFC 6902)."""

from typing import Any


def merge_patch(value: Any, patch: Any) -> Any:
    """Return a value with a JSON merge patch applied; neither is changed."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(value) if isinstance(value, dict) else {}
    for name, change in patch.items():
        if change is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), change)
    return merged


def json_patch(value: dict[str, Any], operations: list[dict[str, Any]]) -> dict[str, Any]:
    """Apply a JSON patch's add, remove, replace and test to a value in place, and return it.

    Raises:
        ValueError, KeyError: an operation cannot be carried out.
    """
    for operation in operations:
        steps = [step.replace("~1", "/").replace("~0", "~") for step in operation["path"].split("/")[1:]]
        parent: Any = value
        for step in steps[:-1]:
            parent = parent[int(step) if isinstance(parent, list) else step]
        _apply(parent, steps[-1], operation)
    return value


def _apply(parent: Any, last: str, operation: dict[str, Any]) -> None:
    kind, given = operation["op"], operation.get("value")
    if isinstance(parent, list):
        at = len(parent) if last == "-" else int(last)
        if kind == "add":
            parent.insert(at, given)
            return
        known = parent[at]
    else:
        at = last  # type: ignore[assignment]
        known = parent.get(last) if kind in {"add", "test"} else parent[last]
    if kind in {"add", "replace"}:
        parent[at] = given
    elif kind == "remove":
        del parent[at]
    elif kind == "test":
        if known != given:
            raise ValueError(f"the test of {operation['path']} failed")
    else:
        raise ValueError(f"the operation {kind!r} is not served here")
