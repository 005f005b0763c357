"""Runs other programs to their ends."""

import asyncio
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TAIL_LINES: Final = 30
_LINE: Final = 1000


class CannotInvoke(Exception):
    """Functions cannot be invoked here as asked; the sentence says what to do."""


class InvocationFailed(Exception):
    """A function gave no answer, or an error for one; the text has its own words."""


@dataclass(frozen=True)
class Done:
    """What a program printed.

    Attributes:
        status: its exit status.
        out, err: standard output and error.
    """

    status: int
    out: str
    err: str

    @property
    def words(self) -> str:
        """Its last lines, for an error's text."""
        return last_lines((self.out + self.err).strip().splitlines())


def last_lines(lines: Sequence[str]) -> str:
    """Return the last lines, none of them long: stack traces in JSON are."""
    return "\n".join(line if len(line) <= _LINE else f"{line[:_LINE]}…" for line in lines[-_TAIL_LINES:])


async def run(*command: str | Path, environment: Mapping[str, str], cwd: Path | None = None) -> Done:
    """Run a program.

    Args:
        command: the program and its arguments.
        environment: all of it.
        cwd: where; None for here.

    Raises:
        FileNotFoundError: there is no such program.
    """
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, cwd=cwd, stdin=DEVNULL, stdout=PIPE, stderr=PIPE
    )
    try:
        out, err = await process.communicate()
    except asyncio.CancelledError:
        process.terminate()
        await process.wait()
        raise
    return Done(process.returncode or 0, out.decode(errors="replace"), err.decode(errors="replace"))
