"""What Lambda's Python image consists of: Python and the runtime interface client; and the emulator beside them."""

import hashlib
import os
import platform
from pathlib import Path
from typing import Final

from infra.local.emulation.commands import CannotInvoke, run
from infra.local.template import ROOT

LOCK: Final = ROOT / "infra/locks/requirements-emulation.txt"
VERSION: Final = "3.13"  # of the template's Runtime
_ARCHITECTURES: Final = {"x86_64": "x86_64", "AMD64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}


def architecture() -> str:
    """Return what Lambda calls this machine's processor.

    Raises:
        CannotInvoke: Lambda does not know it.
    """
    try:
        return _ARCHITECTURES[platform.machine()]
    except KeyError:
        raise CannotInvoke(f"Lambda's functions run on x86_64 and arm64, and this is {platform.machine()}") from None


def cache() -> Path:
    """Return the folder outside the tree where what is made once is kept; the Makefile's CACHE."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "landfall"


async def interpreter(python: str) -> Path:
    """Return where a Python of the functions' version really is; behind a shim, a name may mean another elsewhere.

    Args:
        python: a path, or a name on the PATH.

    Raises:
        CannotInvoke: it is none, or of another version.
    """
    program = "import sys; print('%d.%d' % sys.version_info[:2], sys.executable)"
    try:
        version, _, path = (await run(python, "-c", program, environment=os.environ)).out.strip().partition(" ")
    except OSError:
        version = path = ""
    if version != VERSION:
        raise CannotInvoke(f"the functions run on Python {VERSION}, and {python} is {version or 'none'}: name one")
    return Path(path)


async def runtime_client(python: Path) -> Path:
    """Return a folder with awslambdaric and what it needs, installed as the lock says by the functions' own Python.

    Args:
        python: an interpreter of the functions' version, with pip.

    Raises:
        CannotInvoke: pip failed.
    """
    key = hashlib.sha256(LOCK.read_bytes() + str(python).encode()).hexdigest()[:16]
    target = cache() / "emulation" / f"client-{key}"
    if not target.is_dir():
        made = target.with_name(f"{target.name}.{os.getpid()}")
        command = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--root-user-action=ignore"]
        command += ["--require-hashes", "--only-binary=:all:", "--target", str(made), "--requirement", str(LOCK)]
        done = await run(python, *command, environment=os.environ)
        if done.status:
            raise CannotInvoke(f"{LOCK.name} could not be installed for {python}:\n{done.words}")
        if not target.is_dir():  # another run may have been quicker
            made.rename(target)
    return target


def emulator(sam: Path) -> Path:
    """Return the runtime interface emulator out of aws-sam-cli.

    Args:
        sam: the command `sam` in its environment.

    Raises:
        CannotInvoke: it is not there, or does not run on this system.
    """
    if platform.system() != "Linux":
        raise CannotInvoke(
            "the runtime interface emulator runs on Linux alone: use make sam-local with Docker, or make demo"
        )
    name = f"samcli/local/rapid/aws-lambda-rie-{architecture()}"
    for found in sam.parent.parent.glob(f"lib/python*/site-packages/{name}"):
        return found
    raise CannotInvoke(f"aws-sam-cli beside {sam} has no {name}: run make setup")
