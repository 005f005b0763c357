"""A deployment to be smoke-tested: a stack in moto, its functions at work, an EKS cluster and its forwarder.

The API server is real and knows the functions by their roles; moto has everything of AWS that it has. Nobody plays the
cluster's controllers, so the forwarder is a process beside it, and its Deployment's status is written as they would.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from infra.checks.aws import Aws
from infra.checks.checks import CHECKS, run_one
from infra.checks.kubernetes import Kubernetes
from infra.checks.lines import Line, Result
from infra.checks.look import Look
from infra.checks.stack import read_stack
from infra.smoke.__main__ import parse
from shared.kube.access import KubeconfigFile
from shared.settings import Settings
from tests.infra import can_i
from tests.infra.played import played
from tests.infra.stack import Stack, create
from tests.integration.forwarder_process import forwarder
from tests.servers import web
from tests.servers.eks import Eks, eks
from tests.servers.process import private_environment

NAME = "landfall-test"
CLUSTER = "production"
ROOT = Path(__file__).parents[3]
FORWARDER = ROOT / "infra" / "kubernetes" / "forwarder"
DEPLOYMENT = "/apis/apps/v1/namespaces/landfall/deployments/landfall-forwarder"
ALARM = "AWS::CloudWatch::Alarm"
GONE = ("ResourceNotFoundException", 404)
DENIED = ("AccessDeniedException", 403)
MAPPINGS = r"GET /2015-03-31/event-source-mappings/[\w-]+"


@dataclass
class World:
    """A deployment, and what is put right of what AWS answers about it.

    Attributes:
        eks: the cluster, and AWS as clients see it.
        stack: in moto, as an operator made it.
        variables: of an operator's shell, besides the usual ones.
    """

    eks: Eks
    stack: Stack
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """What an operator's shell has."""
        credentials = self.stack.operator.environment()
        return {
            "AWS_ENDPOINT_URL": self.eks.url,
            "AWS_REGION": self.stack.server.region,
            "AWS_DEFAULT_REGION": self.stack.server.region,
            **{name: value for name, value in credentials.items() if value},
            "KUBECONFIG": str(self.eks.api.kubeconfig),
        }

    def client(self, service: str) -> Any:
        """Return a client of moto itself."""
        return self.stack.client(service)

    def answer(self, pattern: str, status: int, body: object, **headers: str) -> None:
        """Let AWS answer something that moto has not, in the shape of AWS's API reference."""
        sent = {"content-type": "application/json", **headers}
        self.eks.answers[pattern] = web.Response(status, sent, json.dumps(body).encode())

    def refuse(self, pattern: str, code: str, status: int = 400) -> None:
        """Let AWS refuse a call."""
        self.answer(pattern, status, {"message": f"the message of {code}"}, **{"x-amzn-errortype": code})

    def put_right(self) -> None:
        """Take back what tests have changed, and say that the mappings are enabled, which `played` plays."""
        self.eks.answers.clear()
        self.eks.answers[MAPPINGS] = enabled
        self.eks.authentication_mode = ""

    def roles(self) -> dict[str, str]:
        """Return the functions' roles' names by the functions' names."""
        return {name: made["Role"].rpartition("/")[2] for name, made in self.stack.functions().items()}

    def as_aws(self) -> None:
        """Let AWS answer everything that moto has not, as it does for a deployment that is well."""
        self.eks.authentication_mode = "API"
        limits = {"ConcurrentExecutions": 1000, "UnreservedConcurrentExecutions": 900}
        self.answer("GET /2016-08-19/account-settings/?", 200, {"AccountLimit": limits, "AccountUsage": {}})
        for name, role in self.roles().items():
            self.access_entry(role, [f"landfall:{name}"])
        self.answer(
            f"GET /clusters/{CLUSTER}/pod-identity-associations", 200, {"associations": [{"associationId": "a-1"}]}
        )
        association = {"associationId": "a-1", "roleArn": self.eks.role_arn("landfall-forwarder")}
        self.answer(f"GET /clusters/{CLUSTER}/pod-identity-associations/a-1", 200, {"association": association})

    def access_entry(self, role: str, groups: list[str]) -> None:
        """Let EKS have an access entry for a role."""
        entry = {"clusterName": CLUSTER, "principalArn": self.eks.role_arn(role), "kubernetesGroups": groups}
        self.answer(self.entry_of(role), 200, {"accessEntry": entry})

    @staticmethod
    def entry_of(role: str) -> str:
        """Return the pattern of DescribeAccessEntry for a role."""
        return f"GET /clusters/{CLUSTER}/access-entries/[^/]*{role}"

    def beat(self, minutes_ago: float = 0.0, cluster: str = CLUSTER, stack: str = NAME) -> None:
        """Put a heartbeat into CloudWatch, as on-destination-change's metrics become one there."""
        datum = {
            "MetricName": "ForwarderHeartbeats",
            "Dimensions": [{"Name": "cluster", "Value": cluster}, {"Name": "service", "Value": stack}],
            "Timestamp": datetime.now(UTC) - timedelta(minutes=minutes_ago),
            "Value": 1.0,
        }
        self.client("cloudwatch").put_metric_data(Namespace="Landfall", MetricData=[datum])

    @contextlib.asynccontextmanager
    async def look(self, **resources: tuple[str, str]) -> AsyncIterator[Look]:
        """Look at it as the command does.

        Args:
            resources: that CloudFormation has besides, type and physical id; moto leaves some types out.
        """
        before = dict(os.environ)
        os.environ.update(self.environment)
        try:
            async with Aws() as aws:
                stack = await read_stack(aws, NAME)
                stack = dataclasses.replace(stack, resources={**stack.resources, **resources})
                kubeconfig = KubeconfigFile(Settings(kubeconfig=self.eks.api.kubeconfig), None)
                look = Look(aws, stack, CLUSTER, connection=await Kubernetes.connect(kubeconfig))
                try:
                    yield look
                finally:
                    await look.kubernetes.close()
        finally:
            os.environ.clear()
            os.environ.update(before)

    async def smoke(self, folder: Path, *arguments: str, interrupt_at: str = "") -> tuple[int, str]:
        """Run the command in a folder; return its exit status and what it printed.

        Args:
            folder: for the report and the log.
            arguments: after the stack's name.
            interrupt_at: a text in what it prints, at which it gets a SIGINT.
        """
        parse([NAME, *arguments])  # an error in them would only show as an exit status
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "infra.smoke", NAME, "--output", str(folder), *arguments,
            cwd=ROOT, env=private_environment(**{**self.environment, **self.variables, "PYTHONUNBUFFERED": "1"}),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        assert process.stdout is not None
        printed = ""
        async for line in process.stdout:
            printed += line.decode()
            if interrupt_at and interrupt_at in line.decode():
                process.send_signal(2)
                interrupt_at = ""
        return await process.wait(), printed


def enabled(answer: web.Response) -> web.Response:
    """Say of a mapping that it is enabled: in moto it must not be, and `played` plays it."""
    body = answer.json()
    if "State" in body:
        body["State"] = "Enabled"
    return web.Response(answer.status, answer.headers, json.dumps(body).encode())


@contextlib.contextmanager
def deployed(transformed: Mapping[str, Any]) -> Iterator[World]:
    """Bring up a deployment and its cluster; nothing of it is at work."""
    with eks(CLUSTER) as cluster:
        networks = "127.0.0.0/8, ::1/128"
        stack = create(cluster.aws, transformed, NAME, EksClusterName=CLUSTER, AllowedNetworks=networks)
        here = World(cluster, stack)
        cluster.access = {role: (f"landfall:{name}",) for name, role in here.roles().items()}
        can_i.apply(cluster.api)
        deploy_forwarder(here)
        here.put_right()
        yield here


@contextlib.asynccontextmanager
async def at_work(transformed: Mapping[str, Any]) -> AsyncIterator[World]:
    """Bring up a deployment with its functions and its forwarder at work."""
    with deployed(transformed) as here:
        aws = here.eks.aws
        seen = dataclasses.replace(here.stack, server=dataclasses.replace(aws, url=here.eks.url))
        async with played(seen):
            with forwarder(here.eks.api, aws, here.stack.outputs()["ChangesQueueArn"]):
                yield here


def deploy_forwarder(here: World) -> None:
    """Apply infra/kubernetes/forwarder with the stack's target, and say that it runs."""
    api, target = here.eks.api, here.stack.outputs()["EventBusArn"]
    made = api.request("POST", "/api/v1/namespaces", {"metadata": {"name": "landfall"}})
    assert made.status in {201, 409}, made  # the functions' RBAC has it, too
    account = yaml.safe_load((FORWARDER / "service-account.yaml").read_text())
    api.call("POST", "/api/v1/namespaces/landfall/serviceaccounts", account)
    settings = {"metadata": {"name": "landfall-forwarder"}, "data": {"LANDFALL_TARGET": target}}
    api.call("POST", "/api/v1/namespaces/landfall/configmaps", settings)
    deployment = yaml.safe_load((FORWARDER / "deployment.yaml").read_text())
    api.call("POST", DEPLOYMENT.rpartition("/")[0], deployment)
    available(here, 1)
    iam = here.client("iam")
    trust = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "sts:AssumeRole"}]}
    iam.create_role(RoleName="landfall-forwarder", AssumeRolePolicyDocument=json.dumps(trust))
    iam.attach_role_policy(RoleName="landfall-forwarder", PolicyArn=here.stack.outputs()["ForwarderPolicyArn"])


def available(here: World, replicas: int) -> None:
    """Write the Deployment's status, as its controller does."""
    api = here.eks.api
    generation = api.call("GET", DEPLOYMENT)["metadata"]["generation"]
    condition = {
        "type": "Available",
        "status": "True" if replicas else "False",
        "reason": "MinimumReplicas",
        "message": "Deployment has minimum availability." if replicas else "Back-off pulling image",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
        "lastUpdateTime": "2026-01-01T00:00:00Z",
    }
    status = {
        "observedGeneration": generation,
        "replicas": 1,
        "availableReplicas": replicas,
        "readyReplicas": replicas,
        "conditions": [condition],
    }
    api.call("PATCH", f"{DEPLOYMENT}/status", {"status": status}, content_type="application/merge-patch+json")


@contextlib.asynccontextmanager
async def looking_at(here: World, kubeconfig: Path) -> AsyncIterator[Look]:
    """Look with another kubeconfig."""
    async with here.look() as look:
        await look.kubernetes.close()
        look.connection = await Kubernetes.connect(KubeconfigFile(Settings(kubeconfig=kubeconfig), None))
        yield look


async def lines_of(look: Look, what: str) -> list[Line]:
    """Carry out one check."""
    (check,) = [check for check in CHECKS if check.what == what]
    return await run_one(look, check)


def told(lines: list[Line], result: Result) -> list[str]:
    """Return the lines of a result, as text."""
    return [str(line) for line in lines if line.result is result]


def failure(lines: list[Line], what: str = "") -> str:
    """Return the one line that failed."""
    (found,) = [line for line in lines if line.result is Result.FAILED and what in line.what]
    assert found.todo, "what failed says what to do"
    return str(found)


def all_ok(lines: list[Line]) -> bool:
    """Whether there are lines, and all of them are ok."""
    return bool(lines) and {line.result for line in lines} == {Result.OK}


def with_parameters(look: Look, **parameters: str) -> None:
    """Let the stack have other parameters."""
    look.stack = dataclasses.replace(look.stack, parameters={**look.stack.parameters, **parameters})


def written(folder: Path, suffix: str = "md") -> str:
    """Return the report that a run has written, or its log."""
    (found,) = folder.glob(f"landfall-smoke-{NAME}-*.{suffix}")
    return found.read_text()
