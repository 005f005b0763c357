"""The ways to the clusters: EKS's authentication mode and access entries, and kubeconfigs in Secrets Manager."""

from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

from infra.checks.aws import Unanswered
from infra.checks.kubernetes import Answer, Kubernetes
from infra.checks.lines import Line, NotChecked, failed, not_checked, ok
from infra.checks.look import Look
from shared.errors import KubernetesError, KubernetesUnavailable
from shared.kube.access import access_to
from shared.settings import ClusterSettings

_MODES: Final = ("API", "API_AND_CONFIG_MAP")
_MISSING: Final = "ResourceNotFoundException"
_REVIEW: Final = "/apis/authentication.k8s.io/v1/selfsubjectreviews"


async def authentication_mode(look: Look) -> list[Line]:
    """Check that each EKS cluster looks at access entries.

    `CONFIG_MAP` alone ignores them (Amazon EKS, "Grant IAM users access to Kubernetes with EKS access entries").
    """
    lines: list[Line] = []
    for name, cluster in _eks(look):
        what = f"authentication mode of EKS cluster {cluster.eks}"
        if cluster.role:
            lines.append(not_checked(what, _elsewhere(name)))
            continue
        try:
            found = await _describe(look, cluster)
        except Unanswered as error:
            lines.append(_not_described(what, cluster, error))
            continue
        mode = (found.get("accessConfig") or {}).get("authenticationMode", "")
        if not mode:
            lines.append(not_checked(what, "eks:DescribeCluster: the endpoint answered without an accessConfig"))
        elif mode in _MODES:
            lines.append(ok(what, mode))
        else:
            change = (
                f"aws eks update-cluster-config --name {cluster.eks}"
                " --access-config authenticationMode=API_AND_CONFIG_MAP"
            )
            lines.append(failed(what, f"{mode}: access entries are ignored", f"`{change}` (there is no way back)"))
    return lines


async def access_entries(look: Look) -> list[Line]:
    """Check that each function's role is mapped to its group of infra/kubernetes/rbac.yaml."""
    lines: list[Line] = []
    for name, cluster in _eks(look):
        for short, function in look.stack.functions.items():
            what = f"access entry of {short} in EKS cluster {cluster.eks}"
            if cluster.role:
                lines.append(not_checked(what, _elsewhere(name)))
                continue
            try:
                role = (await look.configuration(function))["Role"]
            except Unanswered as error:
                lines.append(not_checked(what, str(error)))
                continue
            lines.append(await _access_entry(look, cluster, what, role, f"landfall:{short}"))
    return lines


async def kubeconfig_secrets(look: Look) -> list[Line]:
    """Check that each function's kubeconfig is there, is usable, and is in the function's group."""
    lines: list[Line] = []
    for short in look.stack.functions:
        for name, cluster in look.stack.settings(short).clusters.items():
            if cluster.kubeconfig_secret is not None:
                what = f"kubeconfig of {short} for cluster {name}"
                lines.append(await _kubeconfig(look, short, cluster, what))
    return lines


async def same_cluster(look: Look) -> list[Line]:
    """Check that the kubeconfig at hand leads to a cluster that the stack serves."""
    what = "cluster of the kubeconfig"
    served, api = look.stack.settings().served, look.kubernetes
    if not look.cluster or look.cluster not in served:
        todo = f"name the one that the kubeconfig leads to: CLUSTER=… (the stack serves {', '.join(served)})"
        return [failed(what, f"{look.cluster or 'it'} is not a cluster that the stack serves", todo)]
    cluster = look.stack.cluster(look.cluster)
    if cluster is None or cluster.eks is None or cluster.role:
        why = f"the stack does not reach {look.cluster} by the name of an EKS cluster of this account"
        return [not_checked(what, f"{why}, so there is nothing to compare {api.server} with")]
    endpoint = (await _describe(look, cluster)).get("endpoint", "")
    if urlsplit(endpoint.lower()).netloc == urlsplit(api.server.lower()).netloc:
        return [ok(what, f"{api.server} is EKS cluster {cluster.eks}, which the stack serves as {look.cluster}")]
    todo = f"`aws eks update-kubeconfig --name {cluster.eks}`, or CONTEXT=… (or CLUSTER=…, where several are served)"
    return [failed(what, f"{api.server} is not EKS cluster {cluster.eks}, which is {endpoint}", todo)]


def _eks(look: Look) -> list[tuple[str, ClusterSettings]]:
    return [(name, c) for name, c in look.stack.settings().clusters.items() if c.eks is not None]


def _elsewhere(name: str) -> str:
    return f"cluster {name} is of another account: see there that the access entry of its role has the function's group"


async def _describe(look: Look, cluster: ClusterSettings) -> dict[str, Any]:
    answer = await look.aws.call("eks", "describe_cluster", region=cluster.region or "", name=cluster.eks)
    found: dict[str, Any] = answer["cluster"]
    return found


def _not_described(what: str, cluster: ClusterSettings, error: Unanswered) -> Line:
    if error.code == _MISSING:
        where = f" in {cluster.region}" if cluster.region else ""
        return failed(what, f"there is no such cluster{where}", "correct EksClusterName or Clusters, and deploy again")
    return not_checked(what, str(error))


async def _access_entry(look: Look, cluster: ClusterSettings, what: str, role: str, group: str) -> Line:
    region = f" --region {cluster.region}" if cluster.region else ""
    command = f"--cluster-name {cluster.eks}{region} --principal-arn {role} --kubernetes-groups {group}"
    try:
        answer = await look.aws.call(
            "eks", "describe_access_entry", region=cluster.region or "", clusterName=cluster.eks, principalArn=role
        )
    except Unanswered as error:
        if error.code == _MISSING:
            return failed(what, "there is none", f"`aws eks create-access-entry {command}`, or deploy again")
        return not_checked(what, str(error))
    groups = answer["accessEntry"].get("kubernetesGroups") or []
    if group in groups:
        return ok(what, f"group {group}")
    seen = f"its groups are {', '.join(groups)}" if groups else "it has no groups"
    return failed(what, f"{seen}, not {group}", f"`aws eks update-access-entry {command}`")


async def _kubeconfig(look: Look, function: str, cluster: ClusterSettings, what: str) -> Line:
    secret = str(cluster.kubeconfig_secret)
    region = secret.split(":")[3] if secret.startswith("arn:") else ""
    try:
        found = await look.aws.call("secretsmanager", "describe_secret", region=region, SecretId=secret)
        if found.get("DeletedDate"):
            restore = f"aws secretsmanager restore-secret --secret-id {secret}"
            return failed(what, f"secret {secret} is being deleted", f"`{restore}`")
        return _in_group(what, function, await _review(look, function, cluster))
    except KubernetesError as error:
        return failed(what, str(error), "store a kubeconfig that a function can use")
    except NotChecked as error:
        if isinstance(error, Unanswered) and error.code == _MISSING:
            create = "create it (docs/deployment.md, Other clusters than EKS)"
            return failed(what, f"there is no secret {secret}", create)
        return not_checked(what, str(error))


async def _review(look: Look, function: str, cluster: ClusterSettings) -> Answer:
    """Ask a cluster who the identity in a kubeconfig of Secrets Manager is.

    Raises:
        NotChecked: the secret is not readable with the credentials at hand, or the cluster does not answer from here.
        KubernetesError: what the secret holds is not a kubeconfig that a function can use.
    """
    try:
        client = await access_to(look.stack.settings(function), cluster).open()
    except KubernetesUnavailable as error:
        raise NotChecked(str(error)) from None
    api = Kubernetes(client)
    try:
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        return await api.call("POST", _REVIEW, body)
    finally:
        await api.close()


def _in_group(what: str, function: str, review: Answer) -> Line:
    if review.status == HTTPStatus.UNAUTHORIZED:
        return failed(what, "its identity is refused", "store a new certificate or token: the old one may have expired")
    Kubernetes.require(review, f"POST {_REVIEW}")
    group = f"landfall:{function}"
    if group in (review.body["status"]["userInfo"].get("groups") or ()):
        return ok(what, f"its identity is in group {group}")
    todo = f"issue a client certificate with O={group}, or bind its user to ClusterRole landfall-{function}"
    return failed(what, f"its identity is not in group {group}", todo)
