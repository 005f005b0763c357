"""What every check looks at: one stack, AWS, and the cluster of the kubeconfig."""

from dataclasses import dataclass, field
from typing import Any

from infra.checks.aws import Aws
from infra.checks.kubernetes import Kubernetes
from infra.checks.lines import NotChecked
from infra.checks.stack import Stack


@dataclass
class Look:
    """One look at a deployment.

    Attributes:
        aws: with the credentials at hand.
        stack: that is looked at.
        cluster: the name by which the stack knows the kubeconfig's cluster; empty where it is not known.
        forwarder: namespace and name of the forwarder's Deployment; empty for a forwarder of another kind.
        connection: to the kubeconfig's cluster; None where there is no way to it.
        no_connection: why there is none.
    """

    aws: Aws
    stack: Stack
    cluster: str = ""
    forwarder: tuple[str, str] | None = ("landfall", "landfall-forwarder")
    connection: Kubernetes | None = None
    no_connection: str = "no kubeconfig was given"
    _configurations: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def kubernetes(self) -> Kubernetes:
        """The cluster's API.

        Raises:
            NotChecked: there is no way to it.
        """
        if self.connection is None:
            raise NotChecked(self.no_connection)
        return self.connection

    async def configuration(self, function: str) -> dict[str, Any]:
        """Return a function's configuration, by its full name; asked for once.

        Raises:
            Unanswered: AWS did not answer.
        """
        if function not in self._configurations:
            found = await self.aws.call("lambda", "get_function_configuration", FunctionName=function)
            self._configurations[function] = found
        return self._configurations[function]
