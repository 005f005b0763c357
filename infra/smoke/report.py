"""The report: Markdown that can be attached to an issue, without secrets and account ids."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from infra.checks.lines import Line, Result

_ACCOUNT: Final = re.compile(r"(?<![\w-])[0-9]{8}([0-9]{4})(?!\w)")
_TOKEN: Final = re.compile(r"k8s-aws-v1\.[\w-]+|Bearer +\S+|(?<=X-Amz-Signature=)[0-9a-f]+")
_LEAST: Final = 6  # characters of a secret: anything shorter would be found in any text
_MARKS: Final = {Result.OK: "ok", Result.FAILED: "**failed**", Result.NOT_CHECKED: "not checked"}


class Mask:
    """Keeps secrets and account ids out of a text."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()
        self._accounts: set[str] = set()

    def hide(self, *secrets: str) -> None:
        """Remember values that must not be written."""
        self._secrets.update(secret for secret in secrets if len(secret) >= _LEAST)

    def account(self, number: str) -> None:
        """Remember an account id; its last four digits stay."""
        self._accounts.add(number)

    def __call__(self, text: str) -> str:
        """Return the text without them."""
        for secret in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        for number in self._accounts:
            text = text.replace(number, f"********{number[-4:]}")
        return _ACCOUNT.sub(r"********\1", _TOKEN.sub("***", text))


def summary(lines: Iterable[Line]) -> str:
    """Return how many lines have which result, such as `1 failed, 40 ok, 3 not checked`."""
    results = [line.result for line in lines]
    order = (Result.FAILED, Result.OK, Result.NOT_CHECKED)
    return ", ".join(f"{results.count(result)} {result}" for result in order)


def markdown(title: str, facts: Mapping[str, str], parts: Mapping[str, Sequence[Line]], mask: Mask) -> str:
    """Return the report.

    Args:
        title: of it.
        facts: what was looked at, when and for how long.
        parts: lines by the part of the deployment that they are about.
        mask: what must not be written.
    """
    lines = [line for part in parts.values() for line in part]
    text = [f"# {title}", "", f"**{summary(lines)}**", "", "| | |", "|---|---|"]
    text += [f"| {name} | {_flat(value).replace('|', '/')} |" for name, value in facts.items()]
    todo = [line for line in lines if line.result is Result.FAILED]
    if todo:
        text += ["", "## What to do", ""]
        text += [f"{number}. **{line.what}**: {_flat(line.todo)}." for number, line in enumerate(todo, 1)]
    for part, found in parts.items():
        text += ["", f"## {part}", "", *map(_item, found)]
    return mask("\n".join(text) + "\n")


def _item(line: Line) -> str:
    item = f"- {_MARKS[line.result]}: **{line.what}**: {_flat(line.text)}"
    return f"{item}. Do: {_flat(line.todo)}" if line.todo else item


def _flat(text: str) -> str:
    return " ".join(text.split())
