"""Objects, Events and files as text: what `kubectl describe` and `ls -R` would show."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Object = Mapping[str, Any]


def describe(obj: Object, events: Sequence[Object]) -> str:
    """Return an object as `kubectl describe` prints it, as far as it matters here."""
    metadata = obj["metadata"]
    labels = [f"{name}={value}" for name, value in sorted((metadata.get("labels") or {}).items())] or ["<none>"]
    lines = [f"Name:         {metadata['name']}", f"Labels:       {labels[0]}"]
    lines += [f"              {label}" for label in labels[1:]]
    lines += [f"API Version:  {obj['apiVersion']}", f"Kind:         {obj['kind']}"]
    lines += ["Spec:", *_fields(obj.get("spec") or {}, 1)]
    lines += ["Status:", *_fields(obj.get("status") or {}, 1)]
    return "\n".join([*lines, *_events(events)])


def condition_line(obj: Object) -> str:
    """Return the condition Ready as one line: type, status, reason, message."""
    for condition in (obj.get("status") or {}).get("conditions") or ():
        if condition["type"] == "Ready":
            return f"Ready {condition['status']} {condition['reason']} {condition['message']}"
    return "Ready Unknown (no such condition yet)"


def named(obj: Object) -> str:
    """Return kind and name."""
    return f"{obj['kind']}/{obj['metadata']['name']}"


def file_list(files: Iterable[str]) -> str:
    """Return paths, one a line."""
    return "\n".join(f"  {path}" for path in sorted(files)) or "  (no files)"


def _fields(value: Any, depth: int) -> Iterable[str]:
    indent = "  " * depth
    if isinstance(value, list):
        for item in value:
            yield from _fields(item, depth)
        return
    width = max((len(_title(name)) for name, child in value.items() if not isinstance(child, dict | list)), default=0)
    for name, child in sorted(value.items()):
        if isinstance(child, dict | list):
            yield f"{indent}{_title(name)}:"
            yield from _fields(child, depth + 1)
        else:
            yield f"{indent}{_title(name) + ':':<{width + 1}}  {child}"


def _title(name: str) -> str:
    spaced = "".join(f" {char}" if char.isupper() else char for char in name)
    return spaced[:1].upper() + spaced[1:]


def _events(events: Sequence[Object]) -> list[str]:
    if not events:
        return ["Events:  <none>"]
    rows = [("Type", "Reason", "From", "Message")]
    for event in events:
        source = (event.get("source") or {}).get("component") or event.get("reportingComponent") or ""
        rows.append((event["type"], event["reason"], source, event["message"]))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    rows.insert(1, ("----", "------", "----", "-------"))
    return [
        "Events:",
        *("  " + "  ".join([*(f"{c:<{w}}" for c, w in zip(r, widths, strict=False)), r[3]]) for r in rows),
    ]
