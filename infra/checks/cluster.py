"""What must be in the cluster: the CRDs, and the rights of each function."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import yaml

from infra.checks.forwarder import deployed_settings
from infra.checks.lines import Line, NotChecked, failed, not_checked, ok
from infra.checks.look import Look
from shared.kube.kinds import PLURALS
from shared.resources import GROUP, VERSION

_MANIFESTS: Final = Path(__file__).parents[1] / "kubernetes"
_FUNCTIONS: Final = _MANIFESTS / "rbac.yaml"
_FORWARDER: Final = _MANIFESTS / "forwarder" / "rbac.yaml"
_REVIEWS: Final = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
_AT_ONCE: Final = 16
_KINDS: Final = ("Destination", "BucketStateStore", "GitStateStore", "Work", "WorkPlacement")


@dataclass(frozen=True, slots=True)
class Right:
    """One thing that a rule of RBAC grants, in one namespace or (where that is empty) in all."""

    group: str
    resource: str
    subresource: str
    verb: str
    namespace: str = ""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}" + (f"/{self.subresource}" if self.subresource else "")


async def crds(look: Look) -> list[Line]:
    """Check that the API server serves the five kinds in our version, with a status of its own each."""
    todo = "`kubectl apply -f infra/kubernetes/crds/` (or update Kratix, where its CRDs are installed)"
    found = await look.kubernetes.read(f"/apis/{GROUP}/{VERSION}")
    if found is None:
        return [failed("CRDs", f"{GROUP}/{VERSION} is not served", todo)]
    served = {(resource["name"], resource["kind"]) for resource in found["resources"]}
    lines: list[Line] = []
    for kind in _KINDS:
        plural = PLURALS[kind][1]
        if (plural, kind) not in served:
            lines.append(failed(f"CRD {plural}", f"{kind} is not served in {VERSION}", todo))
        elif (f"{plural}/status", kind) not in served:
            lines.append(failed(f"CRD {plural}", "it has no subresource status, so no condition can be set", todo))
    return lines or [ok("CRDs", f"{', '.join(_KINDS)} are served in {GROUP}/{VERSION}")]


async def rbac(look: Look) -> list[Line]:
    """Check that each function's group, and the forwarder, may do what the manifests grant."""
    lines: list[Line] = []
    for group, rights in granted(_FUNCTIONS).items():
        short = group.removeprefix("landfall:")
        subject = {"user": f"landfall-check-{short}", "groups": [group, "system:authenticated"]}
        refused = await _refused(look, subject, rights)
        secrets = [right for right in refused if right.resource == "secrets"]
        if secrets:  # the manifest lets an operator bind them namespace by namespace
            spaces = await _secret_namespaces(look)
            missing = [space for space in spaces if await _refused(look, subject, secrets, space)]
            if spaces and not missing:
                refused = [right for right in refused if right not in secrets]
        lines.append(_rights(f"rights of {short}", rights, refused, "kubectl apply -f infra/kubernetes/rbac.yaml"))
    return [*lines, *await _forwarder(look)]


def granted(manifest: Path) -> dict[str, list[Right]]:
    """Return what a manifest's roles grant, by the name of each Group and each ServiceAccount bound to them."""
    objects = list(yaml.safe_load_all(manifest.read_text()))
    rules = {
        (obj["kind"], obj["metadata"]["name"]): obj["rules"]
        for obj in objects
        if obj["kind"] in {"ClusterRole", "Role"}
    }
    found: dict[str, list[Right]] = {}
    for obj in objects:
        if obj["kind"] in {"ClusterRoleBinding", "RoleBinding"}:
            namespace = obj["metadata"].get("namespace", "")
            rights = list(_expanded(rules[obj["roleRef"]["kind"], obj["roleRef"]["name"]], namespace))
            for subject in obj["subjects"]:
                found.setdefault(subject["name"], []).extend(rights)
    return found


def _expanded(rules: list[Mapping[str, Any]], namespace: str) -> Iterator[Right]:
    for rule in rules:
        for group in rule["apiGroups"]:
            for full in rule["resources"]:
                resource, _, subresource = full.partition("/")
                for verb in rule["verbs"]:
                    yield Right(group, resource, subresource, verb, namespace)


async def _forwarder(look: Look) -> list[Line]:
    if look.forwarder is None:
        return []
    namespace, name = look.forwarder
    what = "rights of the forwarder"
    try:
        settings = await deployed_settings(look)
    except NotChecked as error:
        return [not_checked(what, str(error))]
    if settings is None:
        return [not_checked(what, f"there is no Deployment {namespace}/{name}")]
    user = f"system:serviceaccount:{namespace}:{settings.service_account}"
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"]
    rights = granted(_FORWARDER)["landfall-forwarder"]
    if settings.variables.get("LANDFALL_WATCH_SECRETS", "").lower() == "false":
        rights = [right for right in rights if right.resource != "secrets"]
    refused = await _refused(look, {"user": user, "groups": groups}, rights)
    return [_rights(what, rights, refused, "kubectl apply -k infra/kubernetes/forwarder")]


def _rights(what: str, rights: list[Right], refused: list[Right], command: str) -> Line:
    if not refused:
        return ok(what, f"all {len(rights)} that the manifest grants")
    missing = ", ".join(str(right) for right in refused[:6])
    more = f" and {len(refused) - 6} more" if len(refused) > 6 else ""  # noqa: PLR2004
    return failed(what, f"refused: {missing}{more}", f"`{command}`")


async def _refused(look: Look, subject: Mapping[str, Any], rights: list[Right], namespace: str = "") -> list[Right]:
    """Return what a subject may not do, in all namespaces or in one."""
    slots = asyncio.Semaphore(_AT_ONCE)

    async def allowed(right: Right) -> bool:
        attributes = {
            "group": right.group,
            "resource": right.resource,
            "subresource": right.subresource,
            "verb": right.verb,
            "namespace": right.namespace or namespace,
        }
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {**subject, "resourceAttributes": attributes},
        }
        async with slots:
            answer = await look.kubernetes.call("POST", _REVIEWS, review)
        if answer.status == HTTPStatus.FORBIDDEN:
            raise NotChecked(
                "the kubeconfig's identity may not ask what others may: it needs create on subjectaccessreviews"
            )
        look.kubernetes.require(answer, "a SubjectAccessReview")
        return bool(answer.body["status"]["allowed"])

    answers = await asyncio.gather(*(allowed(right) for right in rights))
    return [right for right, may in zip(rights, answers, strict=True) if not may]


async def _secret_namespaces(look: Look) -> list[str]:
    """Return the namespaces that State Stores keep their Secrets in."""
    found: set[str] = set()
    for kind in ("BucketStateStore", "GitStateStore"):
        prefix, plural = PLURALS[kind]
        listed = await look.kubernetes.read(f"{prefix}/{plural}")
        for store in (listed or {}).get("items", ()):
            reference = (store.get("spec") or {}).get("secretRef") or {}
            if reference.get("name"):
                found.add(reference.get("namespace") or "default")
    return sorted(found)
