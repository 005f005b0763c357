"""State Store, Destinations, WorkPlacements and files, each file with how it stands to what is wanted."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from rich.text import Text

from infra.cli.changes import DestinationChanges
from infra.cli.output import Output, count
from shared import paths

Mark = Literal["in step", "missing", "changed", "leaving", "stranger's"]

_STYLES: Final[dict[Mark, tuple[str, str]]] = {
    "in step": ("✓", "green"),
    "missing": ("+", "yellow"),
    "changed": ("~", "yellow"),
    "leaving": ("-", "red"),
    "stranger's": ("?", "cyan"),
}


@dataclass(frozen=True, slots=True)
class File:
    """A file in or for a State Store.

    Attributes:
        path: in the State Store.
        mark: how it stands: as it is wanted, not there, with another content, there and to go, or not ours.
        owner: what it is for; empty for a stranger's.
    """

    path: str
    mark: Mark
    owner: str = ""


def files_of(one: DestinationChanges, others: Iterable[str]) -> list[File]:
    """Return the files of a Destination, by what they are for and by path.

    Args:
        one: its changes, with everything below its root listed.
        others: directories of other Destinations below its root, whose files are theirs.
    """
    changed = {change.path: change for change in one.files}
    found: list[File] = []
    for path, owner in one.wanted.items():
        change = changed.get(path)
        mark: Mark = "in step" if change is None else "changed" if change.replaces else "missing"
        found.append(File(path, mark, owner))
    found += [File(path, "leaving", change.owner) for path, change in changed.items() if change.after is None]
    ours = {file.path for file in found}
    theirs = [other for other in others if other != one.root]
    found += [
        File(path, "stranger's")
        for path in one.listed - ours
        if not any(paths.is_within(path, other) for other in theirs)
    ]
    return sorted(found, key=lambda file: (file.owner == "", file.owner, file.path))


def tree_data(found: Sequence[tuple[DestinationChanges, list[File]]]) -> list[dict[str, Any]]:
    """Return trees for JSON and YAML."""
    return [
        {
            "destination": one.name,
            "stateStore": one.store,
            "path": one.root,
            **({"notWritten": one.why_not} if one.why_not else {}),
            **({"refused": one.errors} if one.errors else {}),
            "files": [{"path": file.path, "state": file.mark, "for": file.owner} for file in files],
        }
        for one, files in found
    ]


def print_trees(found: Sequence[tuple[DestinationChanges, list[File]]], output: Output) -> None:
    """Print trees, the Destinations of one State Store together."""
    by_store: dict[str, list[tuple[DestinationChanges, list[File]]]] = {}
    for one, files in found:
        by_store.setdefault(one.store or "no State Store", []).append((one, files))
    for store, destinations in by_store.items():
        output.line(store, style="bold")
        for at, (one, files) in enumerate(destinations):
            _print_destination(one, files, output, last=at == len(destinations) - 1)
    totals = _totals(file for _, files in found for file in files)
    output.line()
    output.line(", ".join(totals) or "no files")


def _print_destination(one: DestinationChanges, files: list[File], output: Output, *, last: bool) -> None:
    branch, below = ("└── ", "    ") if last else ("├── ", "│   ")
    output.line(branch, (one.name, "bold"), f"  {one.root or '/'}")
    lines: list[Text] = []
    if one.why_not:
        lines.append(Text.assemble(("not written: ", "red"), one.why_not))
    lines += [Text.assemble(("refused: ", "red"), f"{what}: {why}") for what, why in sorted(one.errors.items())]
    groups: dict[str, list[File]] = {}
    for file in files:
        groups.setdefault(file.owner, []).append(file)
    nodes: list[tuple[Text, list[Text]]] = [(line, []) for line in lines]
    own = one.name.partition("/")[2]
    for owner, members in groups.items():
        name = "canary documents" if owner == own else f"workplacement {owner}" if owner else "not Landfall's"
        nodes.append((Text(name, style="" if owner else "cyan"), [_line(file, one.root) for file in members]))
    for at, (title, leaves) in enumerate(nodes):
        end = at == len(nodes) - 1
        output.line(below, "└── " if end else "├── ", title)
        for number, leaf in enumerate(leaves):
            corner = "└── " if number == len(leaves) - 1 else "├── "
            output.line(below, "    " if end else "│   ", corner, leaf)


def _line(file: File, root: str) -> Text:
    sign, style = _STYLES[file.mark]
    path = file.path.removeprefix(f"{root}/") if root else file.path
    words = "" if file.mark == "in step" else f"  {file.mark}"
    return Text.assemble((f"{sign} ", style), path, (words, style))


def _totals(files: Iterable[File]) -> list[str]:
    counts: dict[Mark, int] = {}
    for file in files:
        counts[file.mark] = counts.get(file.mark, 0) + 1
    return [
        f"{count(counts[mark], 'file')} {mark}" if at == 0 else f"{counts[mark]:,} {mark}"
        for at, mark in enumerate(mark for mark in _STYLES if mark in counts)
    ]
