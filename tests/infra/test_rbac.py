"""Who may do what in a cluster: every subject of our manifests against every resource, on a real API server."""

import asyncio
from pathlib import Path

import pytest
import yaml

from infra.deployment.tables import table_in
from infra.local.template import _Loader as template_loader
from tests.infra import can_i
from tests.servers.kubernetes import KubernetesApi
from tests.servers.process import wait_until

ENTRY = "AWS::EKS::AccessEntry"
LISTED = {"destinations": "list", "bucketstatestores": "list", "gitstatestores": "list"}
READ = dict.fromkeys(LISTED, "get list")
WRITER = {
    **READ,
    "destinations": "get list patch",
    "secrets": "get",
    "leases": "get create patch",
    "configmaps": "get create patch",
}
ALL = ("destinations", "bucketstatestores", "gitstatestores", "works", "workplacements")

# Everything that is allowed; what is not here must be refused.
ALLOWED = {
    "on-destination-change": {**READ, "workplacements": "list"},
    "resync": {**LISTED, "workplacements": "list", "configmaps": "get list"},
    "write-canary": WRITER,
    "on-work-change": {
        "destinations": "get list",
        "works": "get list patch",
        "works/finalizers": "update",
        "workplacements": "get list create patch delete",
    },
    "write-documents": {**WRITER, "workplacements": "get list patch"},
    "cleanup": {**WRITER, "workplacements": "list delete"},
    "status-report": {
        "destinations": "get list patch",
        "bucketstatestores": "get list",
        "gitstatestores": "get list",
        "works": "get list patch",
        "workplacements": "get list patch",
        **{f"{kind}/status": "patch" for kind in ALL},
        "events": "get create patch",
    },
    "landfall/landfall-forwarder": dict.fromkeys((*ALL, "secrets"), "list watch"),
    "forwarder": dict.fromkeys((*ALL, "secrets"), "list watch"),
    "argo-events/landfall-event-source": dict.fromkeys(ALL, "list watch"),
    "landfall-knative/landfall-api-server-source": dict.fromkeys((*ALL, "secrets"), "get list watch"),
}


@pytest.fixture(scope="module")
def found(kubernetes_api: KubernetesApi) -> can_i.Matrix:
    can_i.apply(kubernetes_api)
    return asyncio.run(can_i.matrix(kubernetes_api))


def test_the_manifests_allow_nobody_else(found: can_i.Matrix) -> None:
    assert found.keys() == ALLOWED.keys()


@pytest.mark.parametrize("subject", ALLOWED)
def test_each_identity_may_do_what_it_needs_and_nothing_else(found: can_i.Matrix, subject: str) -> None:
    allowed = {resource: set(verbs) for resource, verbs in found[subject].items() if verbs}
    assert allowed == {resource: set(verbs.split()) for resource, verbs in ALLOWED[subject].items()}


def test_the_table_has_a_row_a_resource_and_says_where_nothing_is_allowed(found: can_i.Matrix) -> None:
    lines = can_i.table(found).splitlines()
    assert len(lines) == 2 + len(found["resync"])
    cells = dict(
        zip(
            lines[0].split(" | ")[1:], next(r for r in lines if r.startswith("| secrets")).split(" | ")[1:], strict=True
        )
    )
    assert (cells["write-canary"], cells["status-report"]) == ("get", "-")


def test_the_security_page_has_this_very_table(found: can_i.Matrix) -> None:
    page = Path("docs/security.md").read_text()
    assert table_in(page, "rbac") == can_i.table(found), "run: make tables"


def test_functions_share_the_api_servers_seats_with_service_accounts(
    kubernetes_api: KubernetesApi, found: can_i.Matrix
) -> None:
    schema = kubernetes_api.call("GET", "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/landfall")
    level = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations/workload-low"
    wanted = schema["metadata"]["uid"], kubernetes_api.call("GET", level)["metadata"]["uid"]

    def classified(group: str) -> tuple[str, str]:
        headers = kubernetes_api.request("GET", "/api", group=group).headers
        return headers["x-kubernetes-pf-flowschema-uid"], headers["x-kubernetes-pf-prioritylevel-uid"]

    functions = sorted(path.parent.name for path in Path("functions").glob("*/*.py"))
    wait_until("the FlowSchema in force", lambda: classified(f"landfall:{functions[0]}") == wanted, timeout=30)
    assert {name: classified(f"landfall:{name}") for name in functions} == dict.fromkeys(functions, wanted)
    assert classified("others") != wanted


def test_each_functions_role_has_its_own_group_in_an_eks_cluster() -> None:
    resources = yaml.load(Path("template.yaml").read_text(), template_loader)["Resources"]
    entries = {r["Properties"]["PrincipalArn"]["Fn::GetAtt"][0]: r for r in resources.values() if r["Type"] == ENTRY}
    groups = {}
    for resource in resources.values():
        if resource["Type"] == "AWS::Serverless::Function":
            role = resource["Properties"]["Role"]["Fn::GetAtt"][0]
            function = resource["Properties"]["CodeUri"].split("/")[1]
            groups[function] = entries[role]["Properties"]["KubernetesGroups"]
            assert {"Key": "landfall-function", "Value": function} in resources[role]["Properties"]["Tags"]
    names = {path.parent.name for path in Path("functions").glob("*/*.py")}
    assert groups == {name: [f"landfall:{name}"] for name in names}
    assert names <= can_i.subjects().keys()
