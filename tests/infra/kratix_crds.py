"""Kratix's own CustomResourceDefinitions, as ours differ from them (read at ae170e22).

KRATIX_CRDS may name a folder with the real ones (`config/crd/bases` of a checkout), which are taken instead.
"""

import os
from pathlib import Path
from typing import Any

import yaml

OURS = Path("infra/kubernetes/crds")
# What Kratix's definitions do not have.
_OURS_ALONE = ("maxLength", "minLength", "x-kubernetes-list-type", "x-kubernetes-list-map-keys")
_REQUIRED = {
    "destinations": ["path"],
    "bucketstatestores": ["bucketName", "endpoint"],
    "gitstatestores": [],
    "works": [],
    "workplacements": [],
}


def folder(scratch: Path) -> Path:
    """Return a folder with Kratix's definitions of our five kinds."""
    real = os.environ.get("KRATIX_CRDS")
    target = scratch / "kratix-crds"
    target.mkdir()
    for ours in sorted(OURS.glob("*.yaml")):
        if real:
            text = (Path(real) / f"platform.kratix.io_{ours.name}").read_text()
        else:
            text = yaml.safe_dump(_as_kratix_has_it(yaml.safe_load(ours.read_text())))
        (target / ours.name).write_text(text)
    return target


def _as_kratix_has_it(crd: dict[str, Any]) -> dict[str, Any]:
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    _strip(schema["properties"]["spec"])
    for part in ("x-kubernetes-list-type", "x-kubernetes-list-map-keys"):
        schema["properties"]["status"]["properties"]["conditions"].pop(part)
    schema["properties"]["spec"]["required"] = _REQUIRED[crd["spec"]["names"]["plural"]]
    if "filepath" in schema["properties"]["spec"]["properties"]:
        schema["properties"]["spec"]["properties"]["filepath"]["properties"]["mode"].pop("default")
    return crd


def _strip(schema: Any) -> None:
    if isinstance(schema, dict):
        for name in _OURS_ALONE:
            if not isinstance(schema.get(name), dict):
                schema.pop(name, None)
        rules = [rule for rule in schema.pop("x-kubernetes-validations", ()) if rule["rule"] == "self == oldSelf"]
        if rules:
            schema["x-kubernetes-validations"] = rules
        for child in schema.values():
            _strip(child)
    elif isinstance(schema, list):
        for child in schema:
            _strip(child)
