"""Who may do what: every subject of our RBAC manifests, asked about on a real API server.

`python -m tests.infra.can_i` starts one, applies the manifests, and prints the matrix as Markdown.
"""

import asyncio
import ssl
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from tests.servers.kubernetes import KubernetesApi, kubernetes_api

MANIFESTS = Path("infra/kubernetes")
OURS = ("destinations", "bucketstatestores", "gitstatestores", "works", "workplacements")
# Of others, what could be used to become more than one is.
OTHERS = {
    "": ("secrets", "events", "configmaps", "namespaces", "pods", "pods/exec", "serviceaccounts/token"),
    "rbac.authorization.k8s.io": ("clusterroles", "clusterrolebindings"),
    "apiextensions.k8s.io": ("customresourcedefinitions",),
    "platform.kratix.io": ("promises",),
    "coordination.k8s.io": ("leases",),
}
NAMESPACES = {
    "leases": "landfall",
    "configmaps": "landfall",
}  # in which one is asked about, where that is not `default`
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
MORE_VERBS = {"clusterroles": ("bind", "escalate"), "serviceaccounts/token": ()}
IMPERSONATED = (("", "users"), ("", "groups"), ("", "serviceaccounts"))

Matrix = dict[str, dict[str, list[str]]]  # by subject, by resource: verbs


def apply(api: KubernetesApi) -> None:
    """Apply our CRDs and all our RBAC manifests."""
    api.apply_crds(MANIFESTS / "crds")
    for obj in _manifests():
        if obj["apiVersion"].startswith("rbac.authorization.k8s.io/"):
            namespace = obj["metadata"].get("namespace")
            scope = f"/namespaces/{namespace}" if namespace else ""
            answer = api.request("POST", f"/apis/rbac.authorization.k8s.io/v1{scope}/{obj['kind'].lower()}s", obj)
            assert answer.status in {201, 409}, answer
        elif obj["kind"] == "FlowSchema":
            answer = api.request("POST", f"/apis/{obj['apiVersion']}/flowschemas", obj)
            assert answer.status in {201, 409}, answer
        elif obj["kind"] == "Namespace":
            answer = api.request("POST", "/api/v1/namespaces", obj)
            assert answer.status in {201, 409}, answer


def subjects() -> dict[str, dict[str, Any]]:
    """Return whom our manifests allow anything: by a short name, how a SubjectAccessReview calls them."""
    found: dict[str, dict[str, Any]] = {}
    for obj in _manifests():
        for subject in obj.get("subjects", ()):
            if subject["kind"] == "Group":
                found[subject["name"].removeprefix("landfall:")] = {"user": "tried", "groups": [subject["name"]]}
            else:
                user = f"system:serviceaccount:{subject['namespace']}:{subject['name']}"
                found[f"{subject['namespace']}/{subject['name']}"] = {"user": user}
    return found


async def matrix(api: KubernetesApi) -> Matrix:
    """Ask about every subject, resource, subresource and verb."""
    asked = [
        (subject, resource, verb, attributes) for subject in subjects() for resource, verb, attributes in _questions()
    ]
    trust = ssl.create_default_context(cafile=str(api.ca))
    headers = {"Authorization": f"Bearer {api.token}"}
    whom = subjects()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=16, ssl=trust), headers=headers) as session:

        async def ask(subject: str, attributes: Mapping[str, str]) -> bool:
            review = {"spec": {**whom[subject], "resourceAttributes": attributes}}
            url = f"{api.url}/apis/authorization.k8s.io/v1/subjectaccessreviews"
            async with session.post(url, json=review) as answer:
                assert answer.status == 201, await answer.text()
                return bool((await answer.json())["status"]["allowed"])

        answers = await asyncio.gather(*(ask(subject, attributes) for subject, _, _, attributes in asked))
    found: Matrix = {subject: {} for subject in whom}
    for (subject, resource, verb, _), allowed in zip(asked, answers, strict=True):
        verbs = found[subject].setdefault(resource, [])
        if allowed:
            verbs.append(verb)
    return found


def table(found: Matrix) -> str:
    """Return a matrix as Markdown: a row a resource, a column a subject; a dash where nothing is allowed."""
    names = list(found)
    rows = [["", *names], ["---"] * (len(names) + 1)]
    resources = list(dict.fromkeys(resource for verbs in found.values() for resource in verbs))
    rows += [[resource, *(" ".join(found[name][resource]) or "-" for name in names)] for resource in resources]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _questions() -> Iterable[tuple[str, str, dict[str, str]]]:
    resources = [("platform.kratix.io", name) for kind in OURS for name in (kind, f"{kind}/status")]
    resources.append(("platform.kratix.io", "works/finalizers"))
    resources += [(group, name) for group, names in OTHERS.items() for name in names]
    for group, full in resources:
        name, _, subresource = full.partition("/")
        attributes = {"group": group, "resource": name, "subresource": subresource}
        attributes["namespace"] = NAMESPACES.get(name, "default")
        for verb in (*VERBS, *MORE_VERBS.get(full, ())):
            yield full, verb, {**attributes, "verb": verb}
    for group, name in IMPERSONATED:
        yield name, "impersonate", {"group": group, "resource": name, "verb": "impersonate"}


def _manifests() -> list[dict[str, Any]]:
    files = sorted(MANIFESTS.glob("rbac.yaml")) + sorted(MANIFESTS.glob("*/rbac.yaml"))
    return [obj for file in files for obj in yaml.safe_load_all(file.read_text())]


def main() -> None:
    """Print the matrix of a fresh API server."""
    with kubernetes_api() as api:
        apply(api)
        print(table(asyncio.run(matrix(api))))


if __name__ == "__main__":
    main()
