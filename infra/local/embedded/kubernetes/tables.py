"""What `kubectl get` prints: tables, made by the server from a kind's columns; and metadata without objects."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from infra.local.embedded.kubernetes.schema import Kind

_STEP: Final = re.compile(r'\.([A-Za-z0-9_]+)|\[\?\(@\.([A-Za-z]+)=="([^"]*)"\)\]')
_LABEL_TERM: Final = re.compile(r"[^,()]+(?:\([^)]*\))?")  # commas in parentheses are between values
_AMONG: Final = re.compile(r"(\S+)\s+(not)?in\s*\(([^)]*)\)")
_META: Final = "meta.k8s.io/v1"


def table(kind: Kind, objects: Sequence[Mapping[str, Any]], revision: int) -> dict[str, Any]:
    """Return objects of a kind as a `Table`, with the revision of their list."""
    columns = [("Name", "string"), *((name, "string") for name, _ in kind.columns), ("Age", "string")]
    return {
        "kind": "Table",
        "apiVersion": _META,
        "metadata": {"resourceVersion": str(revision)},
        "columnDefinitions": [
            {"name": name, "type": type_, "format": "name" if name == "Name" else "", "description": "", "priority": 0}
            for name, type_ in columns
        ],
        "rows": [
            {
                "cells": [
                    obj["metadata"]["name"],
                    *(look_up(obj, path) for _, path in kind.columns),
                    _age(obj["metadata"].get("creationTimestamp")),
                ],
                "object": metadata_only(obj),
            }
            for obj in objects
        ],
    }


def metadata_only(obj: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object as `PartialObjectMetadata`."""
    return {"kind": "PartialObjectMetadata", "apiVersion": _META, "metadata": obj["metadata"]}


def metadata_list(objects: Sequence[Mapping[str, Any]], revision: int) -> dict[str, Any]:
    """Return objects as `PartialObjectMetadataList`."""
    return {
        "kind": "PartialObjectMetadataList",
        "apiVersion": _META,
        "metadata": {"resourceVersion": str(revision)},
        "items": [metadata_only(obj) for obj in objects],
    }


def look_up(value: Any, path: str) -> str:
    """Return what a JSON path leads to: names, and picking from a list by a field, is what our columns use."""
    for match in _STEP.finditer(path):
        name, field, wanted = match.groups()
        if name and isinstance(value, Mapping):
            value = value.get(name)
        elif field and isinstance(value, list):
            value = next((item for item in value if item.get(field) == wanted), None)
        else:
            return ""
    return "" if value is None else str(value)


def matches(obj: Mapping[str, Any], label_selector: str, field_selector: str) -> bool:
    """Whether an object is selected: labels by equality, existence, `in` and `notin`; fields by equality."""
    labels = obj["metadata"].get("labels") or {}
    return all(_label_fits(labels, term.strip()) for term in _LABEL_TERM.findall(label_selector)) and all(
        _fits(look_up(obj, f".{path}"), wanted, negated=negated)
        for path, wanted, negated in map(_term, filter(None, field_selector.split(",")))
    )


def _label_fits(labels: Mapping[str, str], term: str) -> bool:
    if among := _AMONG.fullmatch(term):
        name, negated, values = among.groups()
        return (labels.get(name) in {value.strip() for value in values.split(",")}) != bool(negated)
    if "=" in term:
        name, wanted, negated = _term(term)
        return _fits(labels.get(name), wanted, negated=negated)
    return term[1:] not in labels if term.startswith("!") else term in labels


def _term(term: str) -> tuple[str, str, bool]:
    name, _, wanted = term.partition("=")
    return name.rstrip("!").strip(), wanted.lstrip("=").strip(), name.endswith("!")


def _fits(value: str | None, wanted: str, *, negated: bool) -> bool:
    return (value == wanted) != negated


def _age(timestamp: str | None) -> str:
    if not timestamp:
        return "<unknown>"
    seconds = int((datetime.now(UTC) - datetime.fromisoformat(timestamp)).total_seconds())
    for size, letter in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size:
            return f"{seconds // size}{letter}"
    return f"{max(seconds, 0)}s"
