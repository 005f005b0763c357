"""docs/console.md: every command of its first quarter of an hour is run on a demo, and prints what the page shows.

With WRITE_SNAPSHOTS set, what is printed becomes what the page shows.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.infra.test_demo import said_by_a_kept_demo, start
from tests.integration.console import WRITE, masked

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "console.md"
BLOCK = re.compile(r"^```shell-session\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECONDS = 90  # until a command prints what it must once the functions have followed


@dataclass(frozen=True, slots=True)
class Shell:
    """A folder in which the page's commands are typed, beside a demo that runs."""

    folder: Path
    environment: dict[str, str]

    def type(self, command: str) -> str:
        """Run one command, and return what it prints."""
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode in {0, 1}, (command, done.stdout)
        return done.stdout


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    (tmp_path / "tmp").mkdir()
    (tmp_path / "bin").mkdir()
    (tmp_path / "here").mkdir()
    process = start("demo", "--keep", TMPDIR=str(tmp_path / "tmp"))
    try:
        said = said_by_a_kept_demo(process)
        exported = re.search(r"^export (.+)$", said, re.MULTILINE)
        alias = re.search(r"^alias landfall='(.+?)'", said, re.MULTILINE)
        clone = re.search(r"^git clone (\S+)$", said, re.MULTILINE)
        assert exported and alias and clone, said
        command = tmp_path / "bin" / "landfall"
        command.write_text(f'#!/bin/sh\nexec {alias[1]} "$@"\n')
        command.chmod(0o755)
        git = {
            f"GIT_{who}_{what}": "someone@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
        }
        environment = {
            **os.environ,
            **dict(pair.split("=", 1) for pair in exported[1].split()),
            **git,
            "REPOSITORY": clone[1],
            "PATH": f"{command.parent}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        yield Shell(tmp_path / "here", environment)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)


def session(block: str) -> list[tuple[str, str]]:
    """Return the commands of a block, each with what the page shows that it prints."""
    parts = re.split(r"^\$ (.*)\n", block, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def test_the_pages_first_quarter_of_an_hour_runs_as_it_stands(shell: Shell) -> None:
    page = PAGE.read_text()
    shown: list[str] = []
    wrong: dict[str, tuple[str, str]] = {}
    for block in BLOCK.findall(page):
        written = ""
        for command, expected in session(block):
            if command.startswith("cat "):  # the page shows a file for the reader to make
                (shell.folder / command.removeprefix("cat ")).write_text(expected)
                found = expected
            else:
                end = time.monotonic() + SECONDS
                while masked(found := shell.type(command)) != masked(expected):
                    if os.environ.get(WRITE) or time.monotonic() > end or "landfall" not in command:
                        break
            if masked(found) != masked(expected):
                wrong[command] = found, expected
            written += f"$ {command}\n{found}"
        shown.append(written)
    if os.environ.get(WRITE):
        blocks = iter(shown)
        PAGE.write_text(BLOCK.sub(lambda _: f"```shell-session\n{next(blocks)}```", page))
    assert not wrong, wrong
    assert sum(block.count("$ landfall") for block in shown) > 10
