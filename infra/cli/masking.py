"""Values of Secrets in documents, hidden as `kubectl diff` hides them: `***`, and whether they differ."""

import re
from collections.abc import Iterator
from typing import Any, Final

import yaml

_MAY_HOLD_ONE: Final = re.compile(r"\bSecret(List)?\b")
_UNREADABLE: Final = "(not shown: it may hold a Secret, and cannot be read as YAML)\n"
_HIDDEN: Final = ("data", "stringData")
_LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"


def masked(before: str, after: str) -> tuple[str, str]:
    """Return two versions of a file without the values of Secrets; a text without Secrets stays as it is."""
    if not _MAY_HOLD_ONE.search(before) and not _MAY_HOLD_ONE.search(after):
        return before, after
    old, new = _read(before), _read(after)
    if old is None or new is None:
        return (_UNREADABLE if before else ""), (_UNREADABLE if after else "")
    olds, news = _secrets(old), _secrets(new)
    if not olds and not news:
        return before, after
    known = {_name(secret): {part: dict(secret.get(part) or {}) for part in _HIDDEN} for secret in olds}
    wanted = {_name(secret): {part: dict(secret.get(part) or {}) for part in _HIDDEN} for secret in news}
    for secret in olds:
        _hide(secret, wanted.get(_name(secret)), "before")
    for secret in news:
        _hide(secret, known.get(_name(secret)), "after")
    return _written(old, before), _written(new, after)


def _read(text: str) -> list[Any] | None:
    try:
        return list(yaml.safe_load_all(text)) if text else []
    except (yaml.YAMLError, ValueError):
        return None


def _written(documents: list[Any], text: str) -> str:
    return str(yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True)) if text else ""


def _secrets(found: object) -> list[dict[str, Any]]:
    return list(_walk(found))


def _walk(found: object) -> Iterator[dict[str, Any]]:
    if isinstance(found, list):
        for item in found:
            yield from _walk(item)
    elif isinstance(found, dict):
        if found.get("kind") == "Secret":
            yield found
        else:
            for item in found.values():
                yield from _walk(item)


def _name(secret: dict[str, Any]) -> tuple[str, str]:
    metadata = secret.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    return str(metadata.get("namespace")), str(metadata.get("name"))


def _hide(secret: dict[str, Any], other: dict[str, dict[str, Any]] | None, when: str) -> None:
    for part in _HIDDEN:
        values = secret.get(part)
        if isinstance(values, dict):
            theirs = (other or {}).get(part, {})
            differs = {key for key in values if key in theirs and theirs[key] != values[key]}
            secret[part] = {key: f"*** ({when})" if key in differs else "***" for key in values}
        elif values is not None:
            secret[part] = "***"
    annotations = (secret.get("metadata") or {}).get("annotations")
    if isinstance(annotations, dict) and _LAST_APPLIED in annotations:
        annotations[_LAST_APPLIED] = "***"
