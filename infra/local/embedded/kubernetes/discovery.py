"""What the API tells about itself, so that clients find kinds by their names."""

from collections.abc import Collection
from typing import Any, Final

from infra.local.embedded.kubernetes.schema import Kind

_VERBS: Final = ["create", "delete", "get", "list", "patch", "update", "watch"]
_VERSION: Final = {"major": "1", "minor": "36", "gitVersion": "v1.36.0-landfall", "platform": "in-memory"}


def discover(parts: list[str], kinds: Collection[Kind]) -> dict[str, Any] | None:
    """Return the document at a path of discovery, or None where the path is none.

    Args:
        parts: of the path.
        kinds: that the API serves.
    """
    groups = sorted({(kind.group, kind.version) for kind in kinds if kind.group})
    documents: dict[tuple[str, ...], dict[str, Any]] = {
        ("version",): dict(_VERSION),
        ("api",): {"kind": "APIVersions", "versions": ["v1"]},
        ("apis",): {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(*group) for group in groups]},
        ("api", "v1"): _resources("", "v1", kinds),
    }
    for group, version in groups:
        documents["apis", group] = {"kind": "APIGroup", "apiVersion": "v1", **_group(group, version)}
        documents["apis", group, version] = _resources(group, version, kinds)
    return documents.get(tuple(parts))


def _group(group: str, version: str) -> dict[str, Any]:
    known = {"groupVersion": f"{group}/{version}", "version": version}
    return {"name": group, "versions": [known], "preferredVersion": known}


def _resources(group: str, version: str, kinds: Collection[Kind]) -> dict[str, Any]:
    resources: list[dict[str, Any]] = []
    for kind in kinds:
        if (kind.group, kind.version) != (group, version):
            continue
        shared = {"namespaced": kind.namespaced, "kind": kind.kind}
        resources.append(
            {
                "name": kind.plural,
                "singularName": kind.kind.lower(),
                "shortNames": list(kind.short_names),
                "categories": list(kind.categories),
                "verbs": _VERBS,
                **shared,
            }
        )
        if kind.has_status:
            resources.append(
                {"name": f"{kind.plural}/status", "singularName": "", "verbs": ["get", "patch", "update"], **shared}
            )
    name = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": resources}
