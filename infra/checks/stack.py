"""The stack as CloudFormation describes it: parameters, outputs and resources."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from infra.checks.aws import Aws, Unanswered
from infra.checks.lines import CannotRun
from shared.errors import LandfallError
from shared.settings import ClusterSettings, Settings

FUNCTION: Final = "AWS::Lambda::Function"
MAPPING: Final = "AWS::Lambda::EventSourceMapping"
QUEUE: Final = "AWS::SQS::Queue"
ALARM: Final = "AWS::CloudWatch::Alarm"
LOG_GROUP: Final = "AWS::Logs::LogGroup"


@dataclass(frozen=True)
class Stack:
    """A deployed stack.

    Attributes:
        name: of the stack.
        region: that it is in.
        account: its id, 12 digits.
        status: CloudFormation's, such as `UPDATE_COMPLETE`.
        parameters: by name, defaults included.
        outputs: by name.
        resources: by logical id, type and physical id.
    """

    name: str
    region: str
    account: str
    status: str
    parameters: Mapping[str, str]
    outputs: Mapping[str, str]
    resources: Mapping[str, tuple[str, str]]

    def of_type(self, type_: str) -> dict[str, str]:
        """Return by logical id the physical ids of all resources of a type."""
        return {id_: physical for id_, (of, physical) in self.resources.items() if of == type_}

    @cached_property
    def functions(self) -> dict[str, str]:
        """The full names of the functions, by their short names (`write-canary`)."""
        names = self.of_type(FUNCTION).values()
        return {name.removeprefix(f"{self.name}-"): name for name in sorted(names)}

    def settings(self, function: str = "") -> Settings:
        """Return what a function reads of its clusters and networks.

        Args:
            function: its short name, for `{function}` in the clusters' settings.

        Raises:
            CannotRun: the parameters make no usable settings.
        """
        given = self.parameters
        eks = given.get("EksClusterName", "")
        clusters = given.get("Clusters") or (json.dumps({eks: {"eks": eks}}) if eks else "")
        variables = {
            "LANDFALL_CLUSTERS": clusters,
            "LANDFALL_CLUSTER": given.get("ClusterName", ""),
            "LANDFALL_ALLOWED_NETWORKS": given.get("AllowedNetworks", ""),
            "_HANDLER": f"{function.replace('-', '_')}.lambda_handler",
        }
        try:
            return Settings.from_environment(variables)
        except LandfallError as error:
            raise CannotRun(f"the parameters of stack {self.name} cannot be used: {error}") from None

    def cluster(self, name: str) -> ClusterSettings | None:
        """Return how functions reach a cluster; None where that is by a kubeconfig in their artifact."""
        return self.settings().clusters.get(name)


async def read_stack(aws: Aws, name: str) -> Stack:
    """Return the stack of that name.

    Raises:
        CannotRun: there is none, or it cannot be read with these credentials.
    """
    try:
        account = (await aws.call("sts", "get_caller_identity"))["Account"]
        (found,) = (await aws.call("cloudformation", "describe_stacks", StackName=name))["Stacks"]
        listed = await aws.pages("cloudformation", "list_stack_resources", "StackResourceSummaries", StackName=name)
    except Unanswered as error:
        missing = error.code == "ValidationError"
        raise CannotRun(
            f"there is no stack {name} in {aws.region} of this account: check STACK, AWS_REGION and AWS_PROFILE"
            if missing
            else f"stack {name} cannot be read: {error}"
        ) from None
    return Stack(
        name=name,
        region=aws.region,
        account=account,
        status=found["StackStatus"],
        parameters={p["ParameterKey"]: p.get("ParameterValue", "") for p in found.get("Parameters", ())},
        outputs={output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", ())},
        resources={
            r["LogicalResourceId"]: (r["ResourceType"], r["PhysicalResourceId"])
            for r in listed
            if r.get("ResourceType") and r.get("PhysicalResourceId")
        },
    )
