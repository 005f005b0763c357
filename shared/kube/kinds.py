"""Where each kind lives in the API, and what names an object."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

from shared.kube.answers import Kind
from shared.resources import GROUP, VERSION

# Where each kind lives: the API's prefix and the plural name.
PLURALS: Final[Mapping[str, tuple[str, str]]] = {
    "Destination": (f"/apis/{GROUP}/{VERSION}", "destinations"),
    "BucketStateStore": (f"/apis/{GROUP}/{VERSION}", "bucketstatestores"),
    "GitStateStore": (f"/apis/{GROUP}/{VERSION}", "gitstatestores"),
    "Work": (f"/apis/{GROUP}/{VERSION}", "works"),
    "WorkPlacement": (f"/apis/{GROUP}/{VERSION}", "workplacements"),
    "ConfigMap": ("/api/v1", "configmaps"),
    "Secret": ("/api/v1", "secrets"),
    "Event": ("/api/v1", "events"),
    "Lease": ("/apis/coordination.k8s.io/v1", "leases"),
}

_OF_A_SELECTOR: Final = 100  # values: 6 KiB of a URL

Key = tuple[str, str]  # namespace ("" for cluster-scoped) and name


def key_of(obj: Mapping[str, Any]) -> Key:
    """Return an object's namespace (empty for a cluster-scoped one) and name."""
    metadata = obj["metadata"]
    return metadata.get("namespace") or "", metadata["name"]


def uid_of(obj: Mapping[str, Any] | None) -> str:
    """Return an object's uid; empty for one that is gone."""
    return "" if obj is None else str(obj["metadata"].get("uid", ""))


def version_of(kind: str) -> Kind:
    """Return a kind's apiVersion and name."""
    return PLURALS[kind][0].removeprefix("/apis/").removeprefix("/api/"), kind


def path_of(kind: str, namespace: str, name: str) -> str:
    """Return the path of an object."""
    prefix, plural = PLURALS[kind]
    return f"{prefix}{scope(namespace)}/{plural}/{quote(name, safe='')}"


def scope(namespace: str) -> str:
    """Return the part of a path that names a namespace; empty for a cluster-scoped kind, or all namespaces."""
    return f"/namespaces/{quote(namespace, safe='')}" if namespace else ""


def selectors(label: str, values: Sequence[str]) -> Iterator[tuple[Sequence[str], str]]:
    """Yield label selectors that together choose the objects with one of some values, each with its part of them."""
    for at in range(0, len(values), _OF_A_SELECTOR):
        part = values[at : at + _OF_A_SELECTOR]
        yield part, f"{label} in ({','.join(part)})"
