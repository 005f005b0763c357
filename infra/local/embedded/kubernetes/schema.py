"""Kinds and their schemas: what a CustomResourceDefinition says, carried out as far as ours need it."""

from collections.abc import Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

_TYPES: Final[Mapping[str, type | tuple[type, ...]]] = {
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "object": dict,
    "array": list,
}


@dataclass(frozen=True, eq=False)  # each is one of its kind
class Kind:
    """One kind that the API serves.

    Attributes:
        schema: structural schema of custom objects; None for what is built in.
        columns: of `kubectl get`: name and JSON path.
        has_status: whether `status` is a subresource.
    """

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    schema: Mapping[str, Any] | None = field(default=None, repr=False)
    columns: tuple[tuple[str, str], ...] = ()
    has_status: bool = False

    @property
    def api_version(self) -> str:
        """As objects carry it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """As messages name it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


BUILT_IN: Final = (
    Kind("", "v1", "Namespace", "namespaces", namespaced=False, short_names=("ns",)),
    Kind("", "v1", "Secret", "secrets", namespaced=True),
    Kind("", "v1", "ConfigMap", "configmaps", namespaced=True, short_names=("cm",)),
    Kind(
        "",
        "v1",
        "Event",
        "events",
        namespaced=True,
        short_names=("ev",),
        columns=(
            ("Last Seen", ".lastTimestamp"),
            ("Type", ".type"),
            ("Reason", ".reason"),
            ("Object", ".involvedObject.name"),
            ("Message", ".message"),
        ),
    ),
    Kind(
        "coordination.k8s.io",
        "v1",
        "Lease",
        "leases",
        namespaced=True,
        columns=(("Holder", ".spec.holderIdentity"),),
    ),
    Kind(
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        namespaced=False,
        short_names=("crd", "crds"),
    ),
)


def read_kinds(crds: Iterable[Mapping[str, Any]]) -> list[Kind]:
    """Return the kinds that CustomResourceDefinitions define."""
    kinds = []
    for crd in crds:
        spec, names = crd["spec"], crd["spec"]["names"]
        for version in spec["versions"]:
            columns = version.get("additionalPrinterColumns") or ()
            kinds.append(
                Kind(
                    group=spec["group"],
                    version=version["name"],
                    kind=names["kind"],
                    plural=names["plural"],
                    namespaced=spec["scope"] == "Namespaced",
                    short_names=tuple(names.get("shortNames") or ()),
                    categories=tuple(names.get("categories") or ()),
                    schema=version["schema"]["openAPIV3Schema"],
                    columns=tuple((column["name"], column["jsonPath"]) for column in columns),
                    has_status="status" in (version.get("subresources") or {}),
                )
            )
    return kinds


def read_crds(folder: Path) -> list[dict[str, Any]]:
    """Return the CustomResourceDefinitions in a folder's YAML files."""
    return [
        document
        for file in sorted(folder.glob("*.yaml"))
        for document in yaml.safe_load_all(file.read_text())
        if document and document["kind"] == "CustomResourceDefinition"
    ]


def shape(obj: dict[str, Any], kind: Kind) -> dict[str, Any]:
    """Return a custom object without fields that its schema does not know, and with its defaults."""
    if kind.schema is None:
        return obj
    properties = kind.schema["properties"]
    shaped: dict[str, Any] = {name: obj[name] for name in ("apiVersion", "kind", "metadata") if name in obj}
    for name in ("spec", "status"):
        if name in obj and name in properties:
            shaped[name] = _shape(obj[name], properties[name])
    return shaped


def problems(obj: Mapping[str, Any], old: Mapping[str, Any] | None, kind: Kind) -> list[str]:
    """Return what is wrong with a custom object, as the API server words it.

    Args:
        obj: after `shape`.
        old: the object before, for fields that cannot be changed.
        kind: of the object.
    """
    return [] if kind.schema is None else list(_problems(obj, old, kind.schema, ""))


def _shape(value: Any, schema: Mapping[str, Any]) -> Any:
    if isinstance(value, list) and "items" in schema:
        return [_shape(item, schema["items"]) for item in value]
    if not isinstance(value, dict) or "properties" not in schema:
        return value
    shaped = {}
    for name, child in schema["properties"].items():
        if value.get(name) is not None:
            shaped[name] = _shape(value[name], child)
        elif "default" in child:
            shaped[name] = _shape(deepcopy(child["default"]), child)
    return shaped


def _problems(value: Any, old: Any, schema: Mapping[str, Any], path: str) -> Iterator[str]:
    expected = _TYPES.get(schema.get("type", ""))
    wrong_bool = isinstance(value, bool) and schema.get("type") in {"integer", "number"}
    if expected is not None and (not isinstance(value, expected) or wrong_bool):
        yield f'{path}: Invalid value: must be of type {schema["type"]}: "{type(value).__name__}"'
        return
    if "enum" in schema and value not in schema["enum"]:
        supported = ", ".join(f'"{choice}"' for choice in schema["enum"])
        yield f'{path}: Unsupported value: "{value}": supported values: {supported}'
    if old is not None and old != value:
        # Of CEL, the one rule that is about change; what the others refuse, a condition tells here.
        rules = schema.get("x-kubernetes-validations") or ()
        yield from (f"{path}: Invalid value: {rule['message']}" for rule in rules if rule["rule"] == "self == oldSelf")
    if isinstance(value, dict):
        yield from (f"{_at(path, name)}: Required value" for name in schema.get("required", ()) if name not in value)
        for name, child in (schema.get("properties") or {}).items():
            if name in value:
                before = old.get(name) if isinstance(old, dict) else None
                yield from _problems(value[name], before, child, _at(path, name))
    elif isinstance(value, list) and "items" in schema:
        for number, item in enumerate(value):
            yield from _problems(item, None, schema["items"], f"{path}[{number}]")


def _at(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
