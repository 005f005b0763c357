"""`landfall doctor`: what may be wrong with a deployment, each with what to do. `make smoke` shares the checks."""

from collections.abc import AsyncIterator, Iterable
from typing import Final

from infra.checks.aws import Aws
from infra.checks.checks import CHECKS, IN_CLUSTER, run
from infra.checks.lines import CannotRun, Line, Result, failed, not_checked, ok
from infra.checks.look import Look
from infra.checks.stack import Stack, read_stack
from infra.cli.fleet import Fleet, store_name
from infra.cli.meanings import meaning
from infra.cli.output import Output
from infra.cli.session import Session
from shared import conditions
from shared.errors import InvalidObject, LandfallError
from shared.resources import parse_state_store

STORES: Final = "State Stores, from this machine"
_NO_STACK: Final = Stack("", "", "", "", {}, {}, {})
_STYLES: Final = {Result.OK: "green", Result.FAILED: "red", Result.NOT_CHECKED: "yellow"}


async def examine(
    session: Session, *, stack: str = "", cluster: str = "", forwarder: tuple[str, str] | None
) -> AsyncIterator[tuple[str, list[Line]]]:
    """Yield what was found, by the part of the deployment that it is about.

    Args:
        session: to the kubeconfig's cluster.
        stack: name of the CloudFormation stack; without it, only the cluster is checked.
        cluster: the name by which the stack knows the kubeconfig's cluster.
        forwarder: namespace and name of its Deployment; None for a forwarder of another kind.

    Raises:
        InvalidObject: there is no such stack, or there are no credentials for it.
        KubernetesError: the cluster cannot be reached.
    """
    async with session.kubernetes() as kubernetes:
        try:
            async with Aws() as aws:
                found = await read_stack(aws, stack) if stack else _NO_STACK
                name = cluster or (found.settings().default_cluster if stack else "")
                look = Look(aws, found, name, forwarder, kubernetes)
                async for check, lines in run(look, CHECKS if stack else IN_CLUSTER):
                    yield check.part, lines
        except CannotRun as error:
            raise InvalidObject(str(error)) from None
        yield STORES, await _stores(session)


async def _stores(session: Session) -> list[Line]:
    """Check that each State Store can be written to, as the functions do; nothing is left behind."""
    fleet = await Fleet.read(session.cluster, session.deadline)
    lines: list[Line] = []
    async with session.stores(fleet) as stores:
        for key, obj in sorted(fleet.stores.items()):
            try:
                await stores.check(parse_state_store(obj), session.deadline)
            except LandfallError as error:
                reason = conditions.store_failed(fleet.view.store_reference(key), error).reason
                found = meaning(key[0], reason)
                lines.append(failed(store_name(key), str(error), found.hint(str(error)) or found.todo))
            else:
                lines.append(ok(store_name(key), "writing is permitted"))
    return lines or [not_checked("State Stores", "the cluster has none")]


def deployment_of(text: str) -> tuple[str, str] | None:
    """Return namespace and name of the forwarder's Deployment; None for `none`.

    Raises:
        InvalidObject: it is neither.
    """
    namespace, slash, name = text.partition("/")
    if text == "none":
        return None
    if not (namespace and slash and name):
        raise InvalidObject(f"--forwarder {text!r} is not a Deployment: write namespace/name, or none")
    return namespace, name


def lines_data(found: Iterable[tuple[str, Line]]) -> list[dict[str, str]]:
    """Return lines for JSON and YAML."""
    return [
        {"part": part, "what": line.what, "result": line.result.value, "found": line.text}
        | ({"do": line.todo} if line.todo else {})
        for part, line in found
    ]


def print_lines(found: Iterable[tuple[str, Line]], output: Output) -> None:
    """Print lines below the headings of their parts; what to do stands below what failed."""
    last = ""
    for part, line in found:
        if part != last:
            output.line(part, style="bold")
            last = part
        output.line("  ", (f"{line.result.value:<11}", _STYLES[line.result]), f"  {line.what}: {line.text}")
        if line.todo:
            output.line(" " * 15, f"do: {line.todo}")
