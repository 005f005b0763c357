"""The next write as a unified diff."""

import difflib
from collections.abc import Iterator, Sequence
from typing import Any, Final

from rich.text import Text

from infra.cli.changes import DestinationChanges, FileChange
from infra.cli.masking import masked
from infra.cli.output import Output, count

_NO_FILE: Final = "/dev/null"
_STYLES: Final = {"+": "green", "-": "red", "@": "cyan"}
_NO_NEWLINE: Final = "\\ No newline at end of file"


def diff_data(found: Sequence[DestinationChanges]) -> list[dict[str, Any]]:
    """Return differences for JSON and YAML."""
    return [
        {
            "destination": one.name,
            "stateStore": one.store,
            "path": one.root,
            **({"notWritten": one.why_not} if one.why_not else {}),
            **({"refused": one.errors} if one.errors else {}),
            **({"filesThatStay": one.left} if one.left else {}),
            "changes": [
                {"stateStore": file.store, "path": file.path, "action": file.kind, "for": file.owner}
                | {"diff": "".join(f"{line}\n" for line in unified(file))}
                for file in one.files
            ],
        }
        for one in found
        if one.files or one.why_not or one.errors or one.left
    ]


def print_diff(found: Sequence[DestinationChanges], output: Output) -> None:
    """Print differences, and what stands in the way of a write."""
    for one in found:
        for file in one.files:
            output.lines(_coloured(line) for line in unified(file))
    notes = list(_notes(found))
    if notes and any(one.files for one in found):
        output.line()
    output.lines(notes)
    totals = {
        kind: sum(file.kind == kind for one in found for file in one.files) for kind in ("put", "change", "delete")
    }
    if sum(totals.values()):
        output.line()
        words = f"{totals['put']} to add, {totals['change']} to change, {totals['delete']} to delete"
        output.line(f"{count(sum(totals.values()), 'file')}: {words}", style="bold")


def _notes(found: Sequence[DestinationChanges]) -> Iterator[Text]:
    for one in found:
        if one.why_not:
            yield Text.assemble((one.name, "bold"), " would not be written: ", one.why_not)
        for what, why in sorted(one.errors.items()):
            yield Text.assemble((one.name, "bold"), (" refused: ", "red"), f"{what}: {why}")
        for where in one.left:
            yield Text.assemble((one.name, "bold"), f": {where} keeps its files, because cleanup is none")


def unified(file: FileChange) -> list[str]:
    """Return the lines of a file's difference, without values of Secrets; of binary content, one line that says so."""
    name = f"{file.store}:{file.path}"
    before, after = _text(file.before), _text(file.after)
    if before is None or after is None:
        return [f"Binary file {name} differs"]
    before, after = masked(before, after)
    head = [
        f"--- {name if file.before is not None else _NO_FILE}",
        f"+++ {name if file.after is not None else _NO_FILE}",
    ]
    lines = list(difflib.unified_diff(_lines(before), _lines(after), n=3, lineterm=""))[2:]
    body = [part for line in lines for part in (line.rstrip("\n"), *([_NO_NEWLINE] if _is_cut(line) else []))]
    return [*head, *body]


def _lines(text: str) -> list[str]:
    """Return lines with their ends; only a newline ends one, as in Git."""
    *whole, rest = text.split("\n")
    return [f"{line}\n" for line in whole] + ([rest] if rest else [])


def _is_cut(line: str) -> bool:
    return not line.endswith("\n") and not line.startswith("@@")


def _text(content: bytes | None) -> str | None:
    if content is None:
        return ""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def _coloured(line: str) -> Text:
    style = "bold" if line.startswith(("--- ", "+++ ")) else _STYLES.get(line[:1], "")
    return Text(line, style=style)
