"""The forwarder: its identity at AWS, its Deployment, its target and its heartbeat."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import quote

from infra.checks.lines import Line, NotChecked, failed, not_checked, ok
from infra.checks.look import Look

NAMESPACE: Final = "Landfall"
HEARTBEAT: Final = "ForwarderHeartbeats"
_SILENT_MINUTES: Final = 5  # it sends one a minute
_IRSA: Final = "eks.amazonaws.com/role-arn"
_KEYS: Final = "landfall-forwarder-aws"
_TARGETS: Final = ("EventBusArn", "ChangesTopicArn", "ChangesQueueArn", "ChangesQueueUrl")
_APPLY: Final = "`kubectl apply -k infra/kubernetes/forwarder`"
_OTHER: Final = "the forwarder is of another kind"


@dataclass(frozen=True, slots=True)
class Deployed:
    """The forwarder as the cluster has it.

    Attributes:
        status: of the Deployment.
        generation: of its spec.
        service_account: that it runs as.
        variables: from its ConfigMaps and its own `env`; Secrets are not read.
    """

    status: dict[str, Any]
    generation: int
    service_account: str
    variables: dict[str, str]


async def deployed_settings(look: Look) -> Deployed | None:
    """Return the forwarder's Deployment, or None.

    Raises:
        NotChecked: it cannot be read.
    """
    if look.forwarder is None:
        raise NotChecked(_OTHER)
    namespace, name = (quote(part, safe="") for part in look.forwarder)
    found = await look.kubernetes.read(f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}")
    if found is None:
        return None
    pod = found["spec"]["template"]["spec"]
    variables: dict[str, str] = {}
    for container in pod["containers"]:
        for source in container.get("envFrom") or ():
            if reference := source.get("configMapRef"):
                path = f"/api/v1/namespaces/{namespace}/configmaps/{quote(reference['name'], safe='')}"
                variables |= ((await look.kubernetes.read(path)) or {}).get("data") or {}
        variables |= {entry["name"]: entry["value"] for entry in container.get("env") or () if "value" in entry}
    account = pod.get("serviceAccountName") or "default"
    return Deployed(found.get("status") or {}, found["metadata"].get("generation", 0), account, variables)


async def policy(look: Look) -> list[Line]:
    """Check that a role has the policy for forwarders."""
    what = "policy for forwarders"
    arn = look.stack.outputs.get("ForwarderPolicyArn", "")
    holders = await _holders(look, arn)
    if holders:
        return [ok(what, f"attached to {', '.join(holders)}")]
    attach = f"aws iam attach-role-policy --policy-arn {arn} --role-name YOUR-FORWARDERS-ROLE"
    return [failed(what, "not attached: no forwarder may send", f"`{attach}`")]


async def identity(look: Look) -> list[Line]:
    """Check that the forwarder's service account has a role, and the role the policy."""
    what = "identity of the forwarder at AWS"
    deployed = await deployed_settings(look)
    if deployed is None or look.forwarder is None:
        return [not_checked(what, "the forwarder has no Deployment")]
    namespace = look.forwarder[0]
    path = f"/api/v1/namespaces/{quote(namespace, safe='')}/serviceaccounts/{quote(deployed.service_account, safe='')}"
    account = await look.kubernetes.read(path)
    if account is None:
        return [failed(what, f"there is no service account {namespace}/{deployed.service_account}", _APPLY)]
    role = (account["metadata"].get("annotations") or {}).get(_IRSA, "")
    way = "its annotation"
    if not role:
        role, way = await _pod_identity(look, namespace, deployed.service_account), "EKS Pod Identity"
    if not role:
        secret = await look.kubernetes.read(f"/api/v1/namespaces/{quote(namespace, safe='')}/secrets/{_KEYS}")
        if secret is not None:
            return [not_checked(what, f"it has access keys in Secret {namespace}/{_KEYS}, which are not tried here")]
        todo = "associate a role with it (docs/forwarders.md, step 3), or uncomment its annotation"
        return [failed(what, f"service account {namespace}/{deployed.service_account} has none", todo)]
    name, arn = role.rpartition("/")[2], look.stack.outputs.get("ForwarderPolicyArn", "")
    if f"role {name}" in await _holders(look, arn):
        return [ok(what, f"role {name} by {way}, with the policy for forwarders")]
    attach = f"aws iam attach-role-policy --policy-arn {arn} --role-name {name}"
    return [failed(what, f"role {name} by {way} does not have the policy for forwarders", f"`{attach}`")]


async def deployment(look: Look) -> list[Line]:
    """Check that the forwarder runs, and sends to this stack."""
    deployed = await deployed_settings(look)
    return [_running(look, deployed), *([] if deployed is None else [_target(look, deployed)])]


async def running(look: Look) -> list[Line]:
    """Check that the forwarder runs, wherever it sends to."""
    return [_running(look, await deployed_settings(look))]


def _running(look: Look, deployed: Deployed | None) -> Line:
    what = "Deployment of the forwarder"
    namespace, name = look.forwarder or ("", "")
    if deployed is None:
        instead = "for one of another kind: --forwarder none, or FORWARDER=none with make smoke"
        return failed(what, f"there is no {namespace}/{name}", f"{_APPLY}; {instead}")
    return _available(what, deployed, f"{namespace} describe deployment,pods")


async def heartbeat(look: Look) -> list[Line]:
    """Check that a forwarder of this cluster has sent a heartbeat in the last minutes."""
    what = "heartbeat of the forwarder"
    if look.forwarder is None:
        return [not_checked(what, _OTHER)]
    if look.stack.parameters.get("ForwarderCount") == "0":
        return [not_checked(what, "none is expected: the stack's parameter ForwarderCount is 0")]
    metrics = await look.aws.pages("cloudwatch", "list_metrics", "Metrics", Namespace=NAMESPACE, MetricName=HEARTBEAT)
    ours = [found for metric in metrics if _is_of(look, found := _dimensions(metric))]
    logs = f"kubectl --namespace {look.forwarder[0]} logs deployment/{look.forwarder[1]}"
    start = f"see that it runs and what it says: `{logs}`"
    if not ours:
        return [failed(what, f"there is no metric {HEARTBEAT} of cluster {look.cluster or '(no name)'}", start)]
    end = datetime.now(UTC)
    points: list[dict[str, Any]] = []
    for dimensions in ours:
        answer = await look.aws.call(
            "cloudwatch",
            "get_metric_statistics",
            Namespace=NAMESPACE,
            MetricName=HEARTBEAT,
            Dimensions=[{"Name": key, "Value": value} for key, value in dimensions.items()],
            StartTime=end - timedelta(minutes=60),
            EndTime=end,
            Period=60,
            Statistics=["Sum"],
        )
        points += [point for point in answer["Datapoints"] if point["Sum"] > 0]
    if not points:
        return [failed(what, "none in the last hour", start)]
    age = (end - max(point["Timestamp"] for point in points)).total_seconds() / 60
    if age > _SILENT_MINUTES:
        return [failed(what, f"the last one was {age:.0f} minutes ago", start)]
    return [ok(what, f"{len(points)} in the last hour, the last one {max(age, 0):.0f} minutes ago")]


async def _pod_identity(look: Look, namespace: str, account: str) -> str:
    """Return the ARN of the role that EKS Pod Identity gives to a service account; empty where there is none.

    Raises:
        NotChecked: EKS does not say.
    """
    cluster = look.stack.cluster(look.cluster)
    if cluster is None or cluster.eks is None or cluster.role:
        return ""
    where = {"region": cluster.region or "", "clusterName": cluster.eks}
    found = await look.aws.call(
        "eks", "list_pod_identity_associations", namespace=namespace, serviceAccount=account, **where
    )
    for association in found["associations"]:
        one = await look.aws.call(
            "eks", "describe_pod_identity_association", associationId=association["associationId"], **where
        )
        return str(one["association"]["roleArn"])
    return ""


async def _holders(look: Look, arn: str) -> list[str]:
    """Return who has a policy, as `role NAME`, `user NAME` and `group NAME`."""
    found = await look.aws.call("iam", "list_entities_for_policy", PolicyArn=arn)
    return [
        f"{kind.lower()} {entity[f'{kind}Name']}"
        for kind in ("Role", "User", "Group")
        for entity in found.get(f"Policy{kind}s") or ()
    ]


def _available(what: str, deployed: Deployed, describe: str) -> Line:
    status = deployed.status
    if status.get("observedGeneration", 0) < deployed.generation:
        return failed(what, "its last change is not carried out yet", "wait a minute, and run this again")
    if status.get("availableReplicas", 0) < 1:
        conditions = {c["type"]: c for c in status.get("conditions") or ()}
        why = (conditions.get("Progressing") or conditions.get("Available") or {}).get("message", "no pod is available")
        return failed(what, f"not available: {why}", f"`kubectl --namespace {describe}`")
    return ok(what, f"{status['availableReplicas']} of {status.get('replicas', 1)} available")


def _target(look: Look, deployed: Deployed) -> Line:
    what, target = "target of the forwarder", deployed.variables.get("LANDFALL_TARGET", "")
    for output in _TARGETS:
        if target and target == look.stack.outputs.get(output):
            return ok(what, f"the stack's {output}")
    todo = (
        f"set LANDFALL_TARGET in infra/kubernetes/forwarder/settings.env to {look.stack.outputs.get('EventBusArn', '')}"
    )
    return failed(what, f"{target or 'none'} is not of this stack", f"{todo}, and {_APPLY}")


def _dimensions(metric: dict[str, Any]) -> dict[str, str]:
    return {dimension["Name"]: dimension["Value"] for dimension in metric.get("Dimensions") or ()}


def _is_of(look: Look, dimensions: dict[str, str]) -> bool:
    """Whether a heartbeat is of this stack and this cluster."""
    if dimensions.get("service", look.stack.name) != look.stack.name:
        return False
    return dimensions.get("cluster", "") in {look.cluster, ""} and "cluster" in dimensions
