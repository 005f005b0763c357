"""What reasons mean and what to do about them: the tables of docs/kinds, which are the one source of both."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

_PAGES: Final = {
    "Destination": "destination",
    "BucketStateStore": "bucketstatestore",
    "GitStateStore": "gitstatestore",
    "Work": "work",
    "WorkPlacement": "workplacement",
}
# In the repository, and in an installed package (pyproject.toml).
_FOLDERS: Final = (Path(__file__).parents[2] / "docs" / "kinds", Path(__file__).parent / "kinds")
_CODE: Final = re.compile(r"`([^`]*)`")
_LINK: Final = re.compile(r"\[([^]]*)\]\([^)]*\)")


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a reason of a kind's Ready means.

    Attributes:
        means: from the table of its page's section Status; empty where that has none.
        todo: from the table of its section Debugging.
        hints: what to do where the message has certain words, by those words.
    """

    means: str
    todo: str
    hints: Mapping[str, str]

    def hint(self, message: str) -> str:
        """Return what to do about a message; empty where no words of the table are in it."""
        return next((todo for words, todo in self.hints.items() if _fits(words, message)), "")


def meaning(kind: str, reason: str) -> Meaning:
    """Return what the page of a kind says about a reason."""
    page = _page(_PAGES[kind])
    means = next((row["meaning"] for row in page if row.get("reason") == reason and "meaning" in row), "")
    todo = next((row["what to do"] for row in page if row.get("reason") == reason and "what to do" in row), "")
    hints = {words: row["do"] for row in page if "do" in row for words in _split(row.get("message contains", ""))}
    return Meaning(means, todo, hints)


def reasons(kind: str) -> set[str]:
    """Return the reasons that the page of a kind says something about."""
    return {row["reason"] for row in _page(_PAGES[kind]) if "what to do" in row}


@cache
def _page(name: str) -> list[dict[str, str]]:
    folder = next(folder for folder in _FOLDERS if folder.is_dir())
    return list(_rows((folder / f"{name}.md").read_text()))


def _rows(text: str) -> Iterator[dict[str, str]]:
    """Yield the rows of all tables by their columns' names."""
    columns: list[str] = []
    for line in text.splitlines():
        if not line.startswith("|"):
            columns = []
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
        if not columns:
            columns = cells
        elif not all(set(cell) <= {"-", ":"} for cell in cells):
            raw = dict(zip(columns, cells, strict=False))
            yield {
                name: cell if name == "message contains" else _plain(cell, keep=name in {"what to do", "do"})
                for name, cell in raw.items()
            }


def _plain(cell: str, *, keep: bool) -> str:
    text = _LINK.sub(r"\1", cell)
    return text if keep else _CODE.sub(r"\1", text)


def _split(cell: str) -> list[str]:
    return _CODE.findall(cell)


def _fits(words: str, message: str) -> bool:
    return re.search(".*".join(map(re.escape, words.split("…"))), message) is not None
