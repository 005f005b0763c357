"""The command line: `landfall`, and `kubectl landfall` where kubectl finds it on the PATH.

Exit status as kubectl's: 0 done, 1 an error or, of `diff`, differences, 2 of `diff` an error and of all wrong usage.
"""

import asyncio
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from infra.checks.lines import Line, Result
from infra.cli import changes as changing
from infra.cli import steer
from infra.cli.dead_letters import dead_letters_app
from infra.cli.diff import diff_data, print_diff
from infra.cli.doctor import deployment_of, examine, lines_data, print_lines
from infra.cli.explain import explain as explain_object
from infra.cli.explain import print_explanation
from infra.cli.fleet import Fleet, ready_of
from infra.cli.glance import print_overview
from infra.cli.manifests import lay_over, read_manifests
from infra.cli.output import Format, Output
from infra.cli.overview import Filters, Overview, overview
from infra.cli.running import FAILED, Form, leave
from infra.cli.session import Options, Session, progress
from infra.cli.stores import Credentials
from infra.cli.targets import Named, find
from infra.cli.tree import files_of, print_trees, tree_data
from infra.cli.work_commands import work_app
from shared.kube import Key

_DIFFERENT: Final = 1
_DIFF_FAILED: Final = 2
_WATCH_SECONDS: Final = 2.0

app = typer.Typer(
    name="landfall",
    help="See and steer Kratix Destinations: what is Ready, what the next write does, what a reason means.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(dead_letters_app, name="dead-letters", help="What functions have given up on: list, redrive, delete.")
app.add_typer(work_app, name="work", help="Make Works from folders, and look into them.")

Target = Annotated[str, typer.Argument(help="destination/NAME, or store/NAME", show_default=False)]


def _version(wanted: bool) -> None:  # noqa: FBT001 -- Typer's callback
    if wanted:
        from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 -- for this alone

        try:
            typer.echo(f"landfall {version('landfall')}")
        except PackageNotFoundError:
            typer.echo("landfall, from a checkout")
        raise typer.Exit


@app.callback()
def common(
    context: typer.Context,
    kubeconfig: Annotated[Path | None, typer.Option(help="kubeconfig file, instead of KUBECONFIG.")] = None,
    kube_context: Annotated[str | None, typer.Option("--context", help="Context of the kubeconfig.")] = None,
    credentials: Annotated[
        Credentials,
        typer.Option(help="Of State Stores: the cluster's Secrets, or this machine's (AWS, git credential, ~/.ssh)."),
    ] = "cluster",
    *,
    version: Annotated[  # noqa: ARG001 -- its callback does it
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Keep what all commands take."""
    context.obj = Options(kubeconfig, kube_context, credentials, dict(os.environ))


@app.command(epilog="Examples:  landfall status --watch   |   landfall status --store default -o json")
def status(
    context: typer.Context,
    output: Form = Format.TEXT,
    *,
    store: Annotated[str, typer.Option(help="Only Destinations of this State Store: NAME or KIND/NAME.")] = "",
    selector: Annotated[str, typer.Option("-l", "--selector", help="Only with these labels: a=b,c!=d.")] = "",
    reason: Annotated[str, typer.Option(help="Only with this reason of Ready.")] = "",
    watch: Annotated[bool, typer.Option("-w", "--watch", help="Print again when something has changed.")] = False,
) -> None:
    """Show the fleet at a glance: what is Ready, why the others are not, State Stores, WorkPlacements that fail."""
    filters = Filters(store, selector, reason)
    out = Output(output)

    async def look(session: Session) -> Overview:
        fleet = await Fleet.read(session.cluster, session.deadline)
        pages = session.cluster.pages("WorkPlacement", session.deadline, metadata_only=True, columns=True)
        return overview(fleet, [obj async for page in pages for obj in page], filters)

    async def run() -> int:
        shown: Any = None
        async with Session.open(context.obj, seconds=10**9 if watch else 600) as session:
            while True:
                with progress():
                    found = await look(session)
                if (data := found.as_dict()) != shown or output is Format.TEXT:
                    shown = data
                    if watch and out.is_terminal:
                        out.clear()
                    out.data(data) if output is not Format.TEXT else print_overview(found, out, datetime.now(UTC))
                if not watch:
                    return 0
                await asyncio.sleep(_WATCH_SECONDS)

    leave(run())


@app.command(epilog="Examples:  landfall tree destination/worker-1   |   landfall tree store/default -o yaml")
def tree(context: typer.Context, target: Target, output: Form = Format.TEXT) -> None:
    """Show a State Store's Destinations, WorkPlacements and files: in step, missing, changed, or a stranger's."""

    async def run() -> int:
        out = Output(output)
        async with Session.open(context.obj) as session:
            with progress() as say:
                fleet = await Fleet.read(session.cluster, session.deadline)
                keys = find(target, fleet).destinations(fleet)
                found = await _changes(keys, fleet, session, say, list_roots=True, contents=False)
            trees = [(one, files_of(one, _others(one, key, fleet))) for key, one in zip(keys, found, strict=True)]
            if output is Format.TEXT:
                print_trees(trees, out)
            else:
                out.data(tree_data(trees))
            return FAILED if _is_unreadable(found) else 0

    leave(run())


@app.command(
    epilog="Examples:  landfall diff   |   landfall diff destination/worker-1   |   landfall diff -f destination.yaml"
)
def diff(
    context: typer.Context,
    target: Annotated[
        str, typer.Argument(help="destination/NAME or store/NAME; all without it", show_default=False)
    ] = "",
    output: Form = Format.TEXT,
    filename: Annotated[
        list[str] | None, typer.Option("-f", "--filename", help="Manifests to be applied first: file, folder or -.")
    ] = None,
) -> None:
    """Show what the next write would put and delete, and with -f what it would once these manifests were applied.

    Nothing is written and nothing is applied. Exit status: 0 no difference, 1 differences, 2 an error.
    """

    async def run() -> int:
        out = Output(output)
        async with Session.open(context.obj) as session:
            with progress() as say:
                objects = read_manifests(filename or ())
                fleet = await Fleet.read(session.cluster, session.deadline)
                keys = (
                    set(find(target, fleet).destinations(fleet)) if target and not objects else set(fleet.destinations)
                )
                if objects:
                    fleet, concerned = await lay_over(fleet, objects, session)
                    keys = set(find(target, fleet).destinations(fleet)) & concerned if target else concerned
                found = await _changes(sorted(keys), fleet, session, say)
            if output is Format.TEXT:
                print_diff(found, out)
            else:
                out.data(diff_data(found))
            if _is_unreadable(found):
                return _DIFF_FAILED
            return _DIFFERENT if changing.is_anything(found) else 0

    leave(run(), failed=_DIFF_FAILED)


@app.command(epilog="Examples:  landfall explain destination/worker-1   |   landfall explain gitstatestore/fleet")
def explain(context: typer.Context, target: Target, output: Form = Format.TEXT) -> None:
    """Explain an object: its reason, what that means and what to do, its Events, its State Store, its last writes."""

    async def run() -> int:
        out = Output(output)
        async with Session.open(context.obj) as session:
            with progress():
                fleet = await Fleet.read(session.cluster, session.deadline)
                found = await explain_object(find(target, fleet), fleet, session)
            if output is Format.TEXT:
                print_explanation(found, out)
            else:
                out.data(found.as_dict())
            return 0

    leave(run())


@app.command(epilog="Examples:  landfall reconcile destination/worker-1 --wait   |   landfall reconcile store/default")
def reconcile(
    context: typer.Context,
    target: Target,
    *,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until it was looked at, and fail unless it is Ready.")
    ] = False,
    timeout: Annotated[int, typer.Option(help="Seconds to wait.", min=1)] = 120,
) -> None:
    """Have a Destination, or a State Store with all its Destinations, looked at and written now."""

    async def run() -> int:
        async with Session.open(context.obj) as session:
            fleet = await Fleet.read(session.cluster, session.deadline)
            named = find(target, fleet)
            moment = await steer.request(named, fleet, session)
            out = Output()
            out.line(f"{steer.name_of(named)} reconcile requested")
            if not wait:
                return 0
            with progress() as say:
                say(f"waiting for {steer.name_of(named)}")
                obj = await steer.until(
                    named, lambda obj: steer.is_carried_out(obj, moment), "reconciled", session, timeout
                )
            return _say_ready(named, obj, out)

    leave(run())


@app.command(epilog="Examples:  landfall pause destination/worker-1   |   landfall pause store/default")
def pause(context: typer.Context, target: Target) -> None:
    """Leave a Destination, or a State Store with its Destinations, alone: nothing is written, nothing deleted."""
    leave(_pause(context.obj, target, paused=True))


@app.command(epilog="Examples:  landfall resume destination/worker-1   |   landfall resume store/default")
def resume(context: typer.Context, target: Target) -> None:
    """Go on with what was paused; what has changed meanwhile is written now."""
    leave(_pause(context.obj, target, paused=False))


async def _pause(options: Options, target: str, *, paused: bool) -> int:
    async with Session.open(options) as session:
        fleet = await Fleet.read(session.cluster, session.deadline)
        named = find(target, fleet)
        await (steer.pause if paused else steer.resume)(named, session)
        Output().line(f"{steer.name_of(named)} {'paused' if paused else 'resumed'}")
        return 0


@app.command(epilog="Examples:  landfall doctor   |   landfall doctor --stack landfall   |   landfall doctor -o json")
def doctor(
    context: typer.Context,
    output: Form = Format.TEXT,
    *,
    stack: Annotated[str, typer.Option(help="CloudFormation stack to check with this machine's AWS credentials.")] = "",
    cluster: Annotated[str, typer.Option(help="Name by which the stack knows the cluster.")] = "",
    forwarder: Annotated[
        str, typer.Option(help="Its Deployment, namespace/name; none for a forwarder of another kind.")
    ] = "landfall/landfall-forwarder",
) -> None:
    """Check the deployment: CRDs, rights, forwarder, State Stores from here, and with --stack all of AWS."""

    async def run() -> int:
        out = Output(output)
        found: list[tuple[str, Line]] = []
        async with Session.open(context.obj) as session:
            with progress() as say:
                async for part, lines in examine(
                    session, stack=stack, cluster=cluster, forwarder=deployment_of(forwarder)
                ):
                    say(f"checked: {part}")
                    found += [(part, line) for line in lines]
        if output is Format.TEXT:
            print_lines(found, out)
        else:
            out.data(lines_data(found))
        return FAILED if any(line.result is Result.FAILED for _, line in found) else 0

    leave(run())


def _say_ready(named: Named, obj: dict[str, Any], out: Output) -> int:
    ready = ready_of(obj)
    out.line(f"{steer.name_of(named)}  Ready {ready.get('status')}  {ready.get('reason')}  {ready.get('message')}")
    return 0 if ready.get("status") == "True" else FAILED


async def _changes(
    keys: list[Key],
    fleet: Fleet,
    session: Session,
    say: changing.Progress,
    *,
    list_roots: bool = False,
    contents: bool = True,
) -> list[changing.DestinationChanges]:
    await fleet.read_placements(keys, session.cluster, session.deadline)
    await fleet.read_claims(session.settings.lease_namespace, session.cluster, session.deadline)
    async with session.stores(fleet) as stores:
        return await changing.changes(
            keys,
            fleet,
            stores,
            session.limits,
            session.deadline,
            list_roots=list_roots,
            contents=contents,
            progress=say,
        )


def _others(one: changing.DestinationChanges, key: Key, fleet: Fleet) -> frozenset[str]:
    uid = str(fleet.destinations[key]["metadata"].get("uid"))
    store = fleet.store_of(key)
    return frozenset() if store is None else fleet.others_within(store, one.root, uid)


def _is_unreadable(found: list[changing.DestinationChanges]) -> bool:
    return any(one.unreadable for one in found)


def main() -> None:
    """Run the command line; as kubectl's plugin under that name."""
    name = Path(sys.argv[0]).name
    app(prog_name="kubectl landfall" if name.startswith("kubectl") else "landfall")
