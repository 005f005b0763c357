"""All checks, in the order in which a change passes what they check, and how they are run."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final

from infra.checks import alarms, cluster, clusters, forwarder, functions, queues
from infra.checks.lines import Line, NotChecked, not_checked
from infra.checks.look import Look


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        part: of the deployment, a heading of the report.
        what: is checked, where a whole check is not carried out.
        run: looks, and returns a line for each thing.
    """

    part: str
    what: str
    run: Callable[[Look], Awaitable[list[Line]]]


STACK: Final = "Stack and functions"
CLUSTER: Final = "Cluster"
FORWARDER: Final = "Forwarder"
QUEUES: Final = "Queues"
ALARMS: Final = "Alarms"

CHECKS: Final = (
    Check(STACK, "last deployment", functions.stack),
    Check(STACK, "concurrent executions", functions.quota),
    Check(STACK, "functions", functions.functions),
    Check(STACK, "event source mappings", functions.mappings),
    Check(STACK, "log groups", functions.log_groups),
    Check(CLUSTER, "cluster of the kubeconfig", clusters.same_cluster),
    Check(CLUSTER, "authentication mode", clusters.authentication_mode),
    Check(CLUSTER, "access entries", clusters.access_entries),
    Check(CLUSTER, "kubeconfigs in Secrets Manager", clusters.kubeconfig_secrets),
    Check(CLUSTER, "CRDs", cluster.crds),
    Check(CLUSTER, "rights of the functions", cluster.rbac),
    Check(FORWARDER, "policy for forwarders", forwarder.policy),
    Check(FORWARDER, "identity of the forwarder at AWS", forwarder.identity),
    Check(FORWARDER, "Deployment of the forwarder", forwarder.deployment),
    Check(FORWARDER, "heartbeat of the forwarder", forwarder.heartbeat),
    Check(QUEUES, "queues", queues.queues),
    Check(QUEUES, "dead-letter queues", queues.dead_letters),
    Check(ALARMS, "alarms", alarms.states),
    Check(ALARMS, "topic of the alarms", alarms.actions),
)


# What a kubeconfig alone answers.
IN_CLUSTER: Final = (
    Check(CLUSTER, "CRDs", cluster.crds),
    Check(CLUSTER, "rights of the functions", cluster.rbac),
    Check(FORWARDER, "Deployment of the forwarder", forwarder.running),
)


async def run(look: Look, checks: Iterable[Check] = CHECKS) -> AsyncIterator[tuple[Check, list[Line]]]:
    """Carry out checks one after the other, and yield each with its lines.

    A check that is not answered becomes one line that says why; it never keeps the others from running.
    """
    for check in checks:
        yield check, await run_one(look, check)


async def run_one(look: Look, check: Check) -> list[Line]:
    """Carry out one check and return its lines."""
    try:
        return await check.run(look)
    except NotChecked as error:
        return [not_checked(check.what, str(error))]
    except (KeyError, TypeError, ValueError) as error:  # an endpoint that is not AWS's answers in another shape
        return [not_checked(check.what, f"the endpoint's answer has another shape ({type(error).__name__})")]
