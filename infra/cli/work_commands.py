"""`landfall work`: Works made from folders, shown and unpacked."""

from pathlib import Path
from typing import Annotated

import typer

from infra.cli import works
from infra.cli.output import Format, Output
from infra.cli.running import Form, leave
from infra.cli.session import Session
from shared.errors import InvalidObject

work_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Namespace = Annotated[str, typer.Option("-n", "--namespace", help="Namespace of the Work.")]


@work_app.command(
    "create", epilog="Examples:  landfall work create redis --from ./redis --promise redis --to environment=dev"
)
def work_create(  # noqa: PLR0917 -- Typer reads options off parameters
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the Work.", show_default=False)],
    folder: Annotated[
        Path, typer.Option("--from", help="Folder whose files become the documents.", show_default=False)
    ],
    promise: Annotated[str, typer.Option(help="Promise that it belongs to.", show_default=False)],
    resource: Annotated[
        str, typer.Option(help="Name of the resource; such a Work goes to one Destination alone.")
    ] = "",
    to: Annotated[list[str] | None, typer.Option("--to", help="Label that a Destination must have: key=value.")] = None,
    namespace: Namespace = "default",
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the Work instead.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Change the Work if there is one of that name.")] = False,
    output: Form = Format.YAML,
) -> None:
    """Create a Work from a folder: each file is a document, at the same path below the directory of the Work."""

    async def run() -> int:
        labels = dict(_label(one) for one in to or ())
        work = works.work_of(works.Wanted(name, namespace, folder, promise, resource, labels))
        if dry_run:
            Output(Format.YAML if output is Format.TEXT else output).data(work)
            return 0
        async with Session.open(context.obj) as session:
            done = await works.create(work, session, replace=replace)
        Output().line(f"work/{name} {done}")
        return 0

    leave(run())


@work_app.command("show", epilog="Examples:  landfall work show redis   |   landfall work show redis --extract ./redis")
def work_show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the Work.", show_default=False)],
    namespace: Namespace = "default",
    extract: Annotated[Path | None, typer.Option(help="Write its documents into this folder.")] = None,
    output: Form = Format.TEXT,
) -> None:
    """Show a Work's documents and where they are."""

    async def run() -> int:
        async with Session.open(context.obj) as session:
            work = await session.cluster.get("Work", namespace, name, session.deadline)
            if work is None:
                raise InvalidObject(f"work/{name} not found in namespace {namespace}")
            placements = await works.placements_of(work, session)
            documents = works.documents_of(work, session.limits.file_bytes)
        out = Output(output)
        if extract is not None:
            for path in works.extract(documents, extract):
                out.line(str(path))
        elif output is Format.TEXT:
            works.print_work(work, documents, placements, out)
        else:
            out.data(works.work_data(work, documents, placements))
        return 0

    leave(run())


def _label(text: str) -> tuple[str, str]:
    name, is_there, value = text.partition("=")
    if not is_there or not name:
        raise InvalidObject(f"--to {text!r} is not a label: write key=value")
    return name, value
