"""The checks of the forwarder: well, and in each way that they can fail.

What moto has not is answered in the shape of AWS's API reference (`World.answer`), over HTTP, to botocore's parsers.
"""

from __future__ import annotations

import pytest

from infra.checks.lines import Result
from tests.infra.checks.world import (
    CLUSTER,
    DEPLOYMENT,
    World,
    all_ok,
    available,
    failure,
    lines_of,
    looking_at,
    told,
    with_parameters,
)
from tests.servers.kubernetes import KubernetesApi

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_the_policy_must_be_attached_to_somebody(here: World) -> None:
    iam, arn = here.client("iam"), here.stack.outputs()["ForwarderPolicyArn"]
    async with here.look() as look:
        assert "role landfall-forwarder" in told(await lines_of(look, "policy for forwarders"), Result.OK)[0]
        iam.detach_role_policy(RoleName="landfall-forwarder", PolicyArn=arn)
        try:
            lines = await lines_of(look, "policy for forwarders")
        finally:
            iam.attach_role_policy(RoleName="landfall-forwarder", PolicyArn=arn)
    assert f"aws iam attach-role-policy --policy-arn {arn}" in failure(lines)


async def test_the_forwarders_service_account_needs_a_role_with_the_policy(here: World) -> None:
    here.as_aws()
    what, account = "identity of the forwarder at AWS", "/api/v1/namespaces/landfall/serviceaccounts/landfall-forwarder"
    api, pods = here.eks.api, f"GET /clusters/{CLUSTER}/pod-identity-associations"
    async with here.look() as look:
        assert "by EKS Pod Identity, with the policy" in told(await lines_of(look, what), Result.OK)[0]
        here.answer(
            f"{pods}/a-1", 200, {"association": {"associationId": "a-1", "roleArn": here.eks.role_arn("other")}}
        )
        assert "role other by EKS Pod Identity does not have" in failure(await lines_of(look, what))
        here.answer(pods, 200, {"associations": []})
        assert "associate a role" in failure(await lines_of(look, what))
        secret = {"metadata": {"name": "landfall-forwarder-aws"}, "stringData": {"AWS_ACCESS_KEY_ID": "AKIA"}}
        api.call("POST", "/api/v1/namespaces/landfall/secrets", secret)
        (line,) = await lines_of(look, what)
        api.call("DELETE", "/api/v1/namespaces/landfall/secrets/landfall-forwarder-aws")
        assert line.result is Result.NOT_CHECKED
        irsa = {"eks.amazonaws.com/role-arn": here.eks.role_arn("landfall-forwarder")}
        merge = "application/merge-patch+json"
        api.call("PATCH", account, {"metadata": {"annotations": irsa}}, content_type=merge)
        assert "by its annotation" in told(await lines_of(look, what), Result.OK)[0]
        api.call("PATCH", account, {"metadata": {"annotations": None}}, content_type=merge)


async def test_the_forwarder_must_run_and_send_to_this_stack(here: World, bare: KubernetesApi) -> None:
    what, merge = "Deployment of the forwarder", "application/merge-patch+json"
    settings = "/api/v1/namespaces/landfall/configmaps/landfall-forwarder"
    target = here.stack.outputs()["EventBusArn"]
    async with here.look() as look:
        assert all_ok(await lines_of(look, what))
        available(here, 0)
        assert "not available: Back-off pulling image" in failure(await lines_of(look, what))
        available(here, 1)
        here.eks.api.call("PATCH", DEPLOYMENT, {"spec": {"replicas": 2}}, content_type=merge)
        assert "not carried out yet" in failure(await lines_of(look, what))
        available(here, 1)
        elsewhere = {"data": {"LANDFALL_TARGET": target + "-staging"}}
        here.eks.api.call("PATCH", settings, elsewhere, content_type=merge)
        assert f"settings.env to {target}" in failure(await lines_of(look, what))
        here.eks.api.call("PATCH", settings, {"data": {"LANDFALL_TARGET": target}}, content_type=merge)
        look.forwarder = None
        (line,) = await lines_of(look, what)
        assert line.result is Result.NOT_CHECKED
    async with looking_at(here, bare.kubeconfig) as look:
        assert "there is no landfall/landfall-forwarder" in failure(await lines_of(look, what))


async def test_a_forwarder_without_a_heartbeat_is_noticed(here: World) -> None:
    what = "heartbeat of the forwarder"
    here.beat(cluster="elsewhere")
    here.beat(cluster="quiet", stack="another-stack")
    here.beat(30, cluster="slow")
    here.beat(600, cluster="dead")
    async with here.look() as look:
        look.cluster = "quiet"
        assert "there is no metric ForwarderHeartbeats of cluster quiet" in failure(await lines_of(look, what))
        look.cluster = "slow"
        assert "the last one was 30 minutes ago" in failure(await lines_of(look, what))
        look.cluster = "dead"
        assert "none in the last hour" in failure(await lines_of(look, what))
        here.beat(1, cluster="slow")
        look.cluster = "slow"
        assert all_ok(await lines_of(look, what))
        with_parameters(look, ForwarderCount="0")
        (line,) = await lines_of(look, what)
    assert line.result is Result.NOT_CHECKED
