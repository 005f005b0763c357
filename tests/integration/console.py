"""Runs the command `landfall` in tests, and compares what it prints with a file."""

import asyncio
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from infra.cli.main import app

SNAPSHOTS = Path(__file__).with_name("console")
WRITE = "WRITE_SNAPSHOTS"  # set it, and what is printed becomes what is expected: read the difference

# What no two runs have in common, and the padding that follows from its length.
_MASKS = (
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"), "<time>"),
    (re.compile(r"\b(\d+[smhd]){1,2}(?= |$)", re.MULTILINE), "<age>"),
    (re.compile(r"(127\.0\.0\.1|localhost):\d+"), "<host>"),
    (re.compile(r"\b[0-9a-f]{40}([0-9a-f]{24})?\b"), "<version>"),
    (re.compile(r"\b[0-9a-f]{12}\b"), "<version>"),
    (re.compile(r"\btest-[0-9a-f]+|\blandfall-[0-9a-z]{8,}"), "<bucket>"),
    (re.compile(r"(?<=\S) {3,}"), "   "),
)


@dataclass(frozen=True, slots=True)
class Run:
    """What a command did: its exit status, and what it printed."""

    status: int
    out: str
    err: str


class Console:
    """A shell with the command, a kubeconfig, and the certificates of this machine's servers."""

    def __init__(
        self, kubeconfig: Path, environment: Mapping[str, str], words: Mapping[str, str] | None = None
    ) -> None:
        self.kubeconfig, self.environment = kubeconfig, dict(environment)
        self._words = dict(words or {})

    async def run(self, *arguments: str, stdin: str = "") -> Run:
        """Run one command in a thread, as it has an event loop of its own."""

        def invoke() -> Run:
            given = ["--kubeconfig", str(self.kubeconfig), *arguments]
            done = CliRunner().invoke(app, given, input=stdin, env=self.environment, prog_name="landfall")
            if done.exception is not None and not isinstance(done.exception, SystemExit):
                raise done.exception
            return Run(done.exit_code, done.stdout, done.stderr)

        return await asyncio.to_thread(invoke)

    async def shows(self, snapshot: str, *arguments: str, status: int = 0, stdin: str = "") -> Run:
        """Run a command that must end with a status and print what a file of `SNAPSHOTS` holds."""
        done = await self.run(*arguments, stdin=stdin)
        found = self.masked(f"$ landfall {' '.join(arguments)}\n{done.out}{done.err}")
        file = SNAPSHOTS / f"{snapshot}.txt"
        if os.environ.get(WRITE):
            file.parent.mkdir(exist_ok=True)
            file.write_text(found)
        assert (found, done.status) == (file.read_text() if file.exists() else "", status)
        return done

    def masked(self, text: str) -> str:
        """Return a text without what no two runs have in common."""
        for word, name in self._words.items():
            text = text.replace(word, name)
        return masked(text)


def masked(text: str) -> str:
    """Return a text without times, ages, ports and versions."""
    for pattern, name in _MASKS:
        text = pattern.sub(name, text)
    return text
