"""Installs what comes as npm packages, once, into the cache that the Go builds are in."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.servers.golang import BUILD_COMMAND, cache
from tests.servers.process import ServerUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

_PACKAGES = Path(__file__).parent / "npm"
NODE_AGENTS = ("backstage",)


def node_folder(name: str) -> Path:
    """Return where a set of packages is installed, or will be: another lock means another folder."""
    lock = hashlib.sha256((_PACKAGES / name / "package-lock.json").read_bytes()).hexdigest()[:12]
    return cache() / f"{name}-{lock}"


def node() -> Path:
    """Return the command of Node.js; without one, a file that is not there."""
    return Path(shutil.which("node") or _PACKAGES / "node")


def install_packages(name: str, say: Callable[[str], None]) -> None:
    """Install what a lock pins, unless it is in the cache; no package's own scripts run.

    Raises:
        ServerUnavailable: npm is not there, or cannot install it.
    """
    folder, npm = node_folder(name), shutil.which("npm")
    if npm is None or not node().is_file():
        raise ServerUnavailable(f"{name} needs Node.js and npm: install them, then run: {BUILD_COMMAND} {name}")
    if folder.is_dir():
        return
    say(f"{name}: installing with npm")
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=cache()) as scratch:
        made = Path(scratch) / "out"
        shutil.copytree(_PACKAGES / name, made)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=made, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ServerUnavailable(f"{name}: `{' '.join(command)}` failed:\n{done.stdout}\n{done.stderr}")
        if not folder.is_dir():  # another process may have been faster
            made.rename(folder)
