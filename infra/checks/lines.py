"""What a check finds out: lines that are ok, failed with what to do, or not checked with the reason."""

from dataclasses import dataclass
from enum import StrEnum


class Result(StrEnum):
    """The outcome of one line."""

    OK = "ok"
    FAILED = "failed"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a report.

    Attributes:
        what: that was checked.
        result: of it.
        text: what was found, or why it was not checked.
        todo: what the reader must do; only where it failed.
    """

    what: str
    result: Result
    text: str
    todo: str = ""

    def __str__(self) -> str:
        seen = f"{self.what}: {self.text}"
        return f"{seen}. Do: {self.todo}" if self.todo else seen


class NotChecked(Exception):
    """A question that was not answered; the text says why."""


class CannotRun(Exception):
    """Nothing can be checked; the text says what to change."""


def ok(what: str, text: str) -> Line:
    """Return the line of something that is as it should be."""
    return Line(what, Result.OK, text)


def failed(what: str, text: str, todo: str) -> Line:
    """Return the line of something that is wrong, with what to do about it."""
    return Line(what, Result.FAILED, text, todo)


def not_checked(what: str, why: str) -> Line:
    """Return the line of something that was not checked, with the reason."""
    return Line(what, Result.NOT_CHECKED, why)
