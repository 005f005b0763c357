"""What commands print: tables and text for people, JSON and YAML for programs, errors with kubectl's exit status."""

import json
import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any, Final

import yaml
from rich.console import Console
from rich.text import Text


class Format(StrEnum):
    """What `-o` takes."""

    TEXT = "text"
    JSON = "json"
    YAML = "yaml"


STYLES: Final = {"True": "green", "False": "red", "Unknown": "yellow"}

Cell = str | Text
Part = Cell | tuple[str, str]  # a text with its style


class Output:
    """Prints to stdout, in colour on a terminal."""

    def __init__(self, form: Format = Format.TEXT) -> None:
        self.form = form
        self._console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)

    @property
    def is_terminal(self) -> bool:
        """Whether a person looks at it."""
        return self._console.is_terminal

    def data(self, value: Any) -> None:
        """Print a value as JSON or YAML."""
        if self.form is Format.JSON:
            text = json.dumps(value, indent=2, ensure_ascii=False)
        else:
            text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=2**16).rstrip("\n")
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()  # `status --watch` goes on, and its reader may be a pipe

    def line(self, *parts: Part, style: str = "") -> None:
        """Print a line."""
        self._console.print(Text.assemble(*parts, style=style))

    def lines(self, texts: Iterable[Cell]) -> None:
        """Print lines."""
        for text in texts:
            self.line(text)

    def heading(self, text: str) -> None:
        """Print the heading of a part, with an empty line before it."""
        self.line()
        self.line(text, style="bold")

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Cell]], indent: int = 0) -> None:
        """Print rows below their columns, as kubectl does: the last column is not padded."""
        lines = [[Text(name, style="bold") for name in columns]]
        lines += [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
        widths = [max(line[at].cell_len for line in lines) for at in range(len(columns))]
        for line in lines:
            text = Text(" " * indent)
            for at, cell in enumerate(line):
                text.append_text(cell)
                if at < len(columns) - 1:
                    text.append(" " * (widths[at] - cell.cell_len + 3))
            text.rstrip()
            self._console.print(text)

    def clear(self) -> None:
        """Begin again at the top of the screen."""
        self._console.clear()


def error(sentence: str) -> None:
    """Print what went wrong to stderr, as kubectl does."""
    console = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
    console.print(Text.assemble(("error: ", "bold red"), sentence))


def hint(sentence: str) -> None:
    """Print to stderr what is worth knowing beside the output."""
    Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True).print(sentence, style="dim")


def count(number: int, what: str) -> str:
    """Return a number with its noun, in the plural where it is not one."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def status_text(status: str) -> Text:
    """Return a condition's status in its colour."""
    return Text(status, style=STYLES.get(status, ""))
