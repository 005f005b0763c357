"""The checks of the cluster and the ways to it: well, and in each way that they can fail.

What moto has not is answered in the shape of AWS's API reference (`World.answer`), over HTTP, to botocore's parsers.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from infra.checks.cluster import granted
from infra.checks.lines import Result
from tests.infra import can_i
from tests.infra.checks.world import (
    CLUSTER,
    DENIED,
    GONE,
    World,
    all_ok,
    failure,
    lines_of,
    looking_at,
    told,
    with_parameters,
)
from tests.servers.kubernetes import KubernetesApi
from tests.servers.process import free_port

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).parents[3]


# ---------------------------------------------------------------- the ways to the cluster


@pytest.mark.parametrize(
    ("mode", "result"),
    [
        ("API", Result.OK),
        ("API_AND_CONFIG_MAP", Result.OK),
        ("CONFIG_MAP", Result.FAILED),
        ("", Result.NOT_CHECKED),
    ],
)
async def test_the_authentication_mode_must_look_at_access_entries(here: World, mode: str, result: Result) -> None:
    here.eks.authentication_mode = mode
    async with here.look() as look:
        (line,) = await lines_of(look, "authentication mode")
    assert line.result is result
    assert bool(line.todo) == (result is Result.FAILED)


async def test_a_cluster_that_eks_does_not_know_and_one_of_another_account(here: World) -> None:
    async with here.look() as look:
        role = "arn:aws:iam::111122223333:role/landfall"
        with_parameters(look, Clusters=json.dumps({"gone": {"eks": "gone"}, "far": {"eks": "far", "role": role}}))
        lines = await lines_of(look, "authentication mode")
        assert "there is no such cluster" in failure(lines, "gone")
        assert "is of another account" in told(lines, Result.NOT_CHECKED)[0]
        entries = await lines_of(look, "access entries")
    assert len([line for line in told(entries, Result.NOT_CHECKED) if "is of another account" in line]) == 7


async def test_each_role_needs_an_access_entry_in_its_group(here: World) -> None:
    here.as_aws()
    roles = here.roles()
    async with here.look() as look:
        assert all_ok(await lines_of(look, "access entries"))
        here.refuse(here.entry_of(roles["cleanup"]), *GONE)
        here.access_entry(roles["resync"], ["landfall:cleanup"])
        here.access_entry(roles["write-canary"], [])
        here.refuse(here.entry_of(roles["status-report"]), *DENIED)
        lines = await lines_of(look, "access entries")
    missing = failure(lines, "cleanup")
    assert f"there is none. Do: `aws eks create-access-entry --cluster-name {CLUSTER} --principal-arn arn:" in missing
    assert "--kubernetes-groups landfall:cleanup`" in missing
    assert "its groups are landfall:cleanup, not landfall:resync" in failure(lines, "resync")
    assert "it has no groups" in failure(lines, "write-canary")
    assert "eks:DescribeAccessEntry is not allowed" in told(lines, Result.NOT_CHECKED)[0]
    assert len(told(lines, Result.OK)) == 3


async def test_the_kubeconfig_must_lead_to_a_cluster_that_the_stack_serves(here: World) -> None:
    async with here.look() as look:
        assert all_ok(await lines_of(look, "cluster of the kubeconfig"))
        here.eks.endpoint = "https://another.example"
        assert "is not EKS cluster production" in failure(await lines_of(look, "cluster of the kubeconfig"))
        here.eks.endpoint = here.eks.api.url
        look.cluster = "staging"
        assert "CLUSTER=" in failure(await lines_of(look, "cluster of the kubeconfig"))
        with_parameters(look, Clusters=json.dumps({"staging": {"kubeconfigSecret": "x"}}))
        (line,) = await lines_of(look, "cluster of the kubeconfig")
    assert line.result is Result.NOT_CHECKED


def kubeconfig(api: KubernetesApi, group: str = "", *, url: str = "", token: str = "") -> str:
    """Return a kubeconfig with a client certificate, as docs/deployment.md makes them, or with a token."""
    made = api.client_certificate("landfall", [group])
    data = (
        {"token": token}
        if token
        else {
            "client-certificate-data": base64.b64encode(made.certificate.read_bytes()).decode(),
            "client-key-data": base64.b64encode(made.key.read_bytes()).decode(),
        }
    )
    server = {
        "server": url or api.url,
        "certificate-authority-data": base64.b64encode(api.ca.read_bytes()).decode(),
    }
    return json.dumps(
        {
            "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": server}],
            "users": [{"name": "u", "user": data}],
        }
    )


async def test_each_function_needs_a_kubeconfig_of_its_own_group(here: World) -> None:
    api = here.eks.api
    stored = {
        "write-canary": kubeconfig(api, "landfall:write-canary"),
        "cleanup": kubeconfig(api, "landfall:resync"),
        "resync": "no kubeconfig",
        "on-work-change": kubeconfig(api, "x").replace(api.url, "http://plain.example"),
        "status-report": kubeconfig(api, "landfall:status-report", url=f"https://127.0.0.1:{free_port()}"),
        "write-documents": json.dumps(
            {**json.loads(kubeconfig(api, "x")), "users": [{"name": "u", "user": {"token": "old"}}]}
        ),
    }
    for function, text in stored.items():
        here.eks.put_secret(f"landfall/{function}/edge", text)
    async with here.look() as look:
        with_parameters(look, Clusters="{edge: {kubeconfigSecret: 'landfall/{function}/edge'}}")
        lines = await lines_of(look, "kubeconfigs in Secrets Manager")
        assert "landfall:write-canary" in told(lines, Result.OK)[0]
        assert "O=landfall:cleanup" in failure(lines, "cleanup")
        assert "holds no kubeconfig" in failure(lines, "resync")
        assert "no https:// URL" in failure(lines, "on-work-change")
        assert "its identity is refused" in failure(lines, "write-documents")
        assert "there is no secret landfall/on-destination-change/edge" in failure(lines, "on-destination-change")
        (unreached,) = told(lines, Result.NOT_CHECKED)
        assert "did not answer from here" in unreached
        here.client("secretsmanager").delete_secret(SecretId="landfall/write-canary/edge", RecoveryWindowInDays=7)
        lines = await lines_of(look, "kubeconfigs in Secrets Manager")
        assert "restore-secret" in failure(lines, "write-canary")
    text = "\n".join(map(str, lines))
    assert [value for value in ("BEGIN", "LS0tLS1", "expired-token") if value in text] == []


# ---------------------------------------------------------------- in the cluster


async def test_crds_that_are_missing_or_without_status_are_noticed(here: World, bare: KubernetesApi) -> None:
    async with here.look() as look:
        assert all_ok(await lines_of(look, "CRDs"))
    async with looking_at(here, bare.kubeconfig) as look:
        assert "platform.kratix.io/v1alpha1 is not served" in failure(await lines_of(look, "CRDs"))
        crd = yaml.safe_load((ROOT / "infra/kubernetes/crds/works.yaml").read_text())
        del crd["spec"]["versions"][0]["subresources"]
        bare.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd)
        await _until(lambda: bare.request("GET", "/apis/platform.kratix.io/v1alpha1/works").status == 200)
        lines = await lines_of(look, "CRDs")
    assert "it has no subresource status" in failure(lines, "works")
    assert "Destination is not served" in failure(lines, "destinations")


async def test_rights_that_are_missing_are_named_by_function(here: World, bare: KubernetesApi) -> None:
    async with here.look() as look:
        lines = await lines_of(look, "rights of the functions")
        assert all_ok(lines)
        assert len(lines) == 8, "seven functions and the forwarder"
    async with looking_at(here, bare.kubeconfig) as look:
        lines = await lines_of(look, "rights of the functions")
    assert len(told(lines, Result.FAILED)) == 7
    assert "refused: get destinations, list destinations" in failure(lines, "on-destination-change")
    assert "kubectl apply -f infra/kubernetes/rbac.yaml" in failure(lines, "status-report")
    assert "there is no Deployment landfall/landfall-forwarder" in told(lines, Result.NOT_CHECKED)[0]


async def test_one_missing_verb_is_enough(here: World) -> None:
    api, path = here.eks.api, "/apis/rbac.authorization.k8s.io/v1/clusterroles/landfall-status-report"
    role = api.call("GET", path)
    rules = [{**rule, "verbs": [verb for verb in rule["verbs"] if verb != "create"]} for rule in role["rules"]]
    api.call("PUT", path, {**role, "rules": rules})
    try:
        async with here.look() as look:
            lines = await lines_of(look, "rights of the functions")
    finally:
        again = api.call("GET", path)
        api.call("PUT", path, {**again, "rules": role["rules"]})
    assert "refused: create events." in failure(lines, "status-report")


async def test_secrets_may_be_bound_namespace_by_namespace(here: World) -> None:
    api, bindings = here.eks.api, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings"
    whole = api.call("GET", f"{bindings}/landfall-state-store-secrets")
    api.call("DELETE", f"{bindings}/landfall-state-store-secrets")
    reference = {"secretRef": {"name": "s", "namespace": "default"}, "bucketName": "b", "endpoint": "s3.example.com"}
    store = {"apiVersion": "platform.kratix.io/v1alpha1", "kind": "BucketStateStore", "metadata": {"name": "st"}}
    stores = "/apis/platform.kratix.io/v1alpha1/bucketstatestores"
    api.call("POST", stores, {**store, "spec": reference})
    try:
        async with here.look() as look:
            lines = await lines_of(look, "rights of the functions")
            assert "refused: get secrets" in failure(lines, "rights of write-canary")
            bound = {key: whole[key] for key in ("roleRef", "subjects")}
            roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings"
            api.call("POST", roles, {"metadata": {"name": "landfall"}, **bound})
            assert all_ok(await lines_of(look, "rights of the functions"))
    finally:
        api.call("DELETE", f"{stores}/st")
        api.call("POST", bindings, {"metadata": {"name": whole["metadata"]["name"]}, **bound})


async def test_what_the_manifest_grants_is_what_the_checks_ask() -> None:
    rights = granted(ROOT / "infra" / "kubernetes" / "rbac.yaml")
    assert {group.removeprefix("landfall:") for group in rights} <= can_i.subjects().keys()
    assert "patch destinations/status" in map(str, rights["landfall:status-report"])
    assert "get secrets" in map(str, rights["landfall:write-canary"])


NAMESPACED = """
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: tried, namespace: default}
rules: [{apiGroups: [coordination.k8s.io], resources: [leases], verbs: [get, create]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: tried, namespace: default}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: tried}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "landfall:tried"}]
"""


async def test_rights_in_one_namespace_are_asked_for_there(
    here: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = tmp_path / "rbac.yaml"
    manifest.write_text(NAMESPACED)
    monkeypatch.setattr("infra.checks.cluster._FUNCTIONS", manifest)
    role, binding = yaml.safe_load_all(NAMESPACED)
    path = "/apis/rbac.authorization.k8s.io/v1/namespaces/default"
    async with here.look() as look:
        lines = await lines_of(look, "rights of the functions")
        assert "refused: get leases, create leases." in failure(lines, "rights of tried")
        here.eks.api.call("POST", f"{path}/roles", role)
        here.eks.api.call("POST", f"{path}/rolebindings", binding)
        assert all_ok(await lines_of(look, "rights of the functions"))


async def _until(true: Callable[[], bool]) -> None:
    for _ in range(100):
        if true():
            return
        await asyncio.sleep(0.1)
    raise AssertionError("not within 10 s")
