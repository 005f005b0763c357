"""Cold start of each handler: out of its artifact, beside the same code with what `pip install --target` makes.

A new process each time, as Lambda has one for each container; nothing else to import, and nothing may be written, as in
Lambda's code folder. Python's own start is not counted, because it is Lambda's.
"""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final

from infra.artifacts import RUNTIME, cache, functions
from tests.benchmarks.harness import NotRun, Round, Side, benchmark
from tests.benchmarks.servers import ROOT, Servers
from tests.functions.interpreter import find_python

_ROUNDS: Final = 9
_WHOLE: Final = "plain pip"
_PROGRAM: Final = """
import sys, time
began = time.perf_counter()
sys.path.insert(0, sys.argv[1])
__import__(sys.argv[2])
from shared.reconcile.connections import Connections
from shared.settings import Settings
Connections(Settings.from_environment())
seconds = time.perf_counter() - began
import json, resource
print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, len(sys.modules)]))
"""


def start(python: str, folder: Path, module: str) -> Round:
    """Import a handler and make its connections, in a process of its own."""
    environment = {"PATH": os.defpath, "AWS_DEFAULT_REGION": "eu-west-1", "POWERTOOLS_SERVICE_NAME": "landfall"}
    command = [python, "-I", "-S", "-B", "-c", _PROGRAM, str(folder), module]
    done = subprocess.run(command, env=environment, cwd="/", capture_output=True, text=True, check=True)
    seconds, peak, modules = json.loads(done.stdout)
    return Round(seconds, {"peak_mb": peak, "modules": modules})


def built(python: str, folder: Path) -> Path:
    """Return all artifacts, as `make artifacts` builds them."""
    subprocess.run([python, str(ROOT / "infra" / "artifacts.py"), str(folder)], check=True, stdout=subprocess.DEVNULL)
    return folder


def plain(python: str, folder: Path) -> Path:
    """Return a folder for each function with everything of the lock as pip installs it, and no bytecode."""
    lock = ROOT / "infra/locks/requirements.txt"
    installed = cache() / f"plain-{hashlib.sha256(lock.read_bytes()).hexdigest()[:16]}"
    if not installed.is_dir():
        scratch = cache() / f".plain-{os.getpid()}"
        command = [python, "-m", "pip", "install", "--quiet", "--no-compile", "--require-hashes"]
        command += ["--disable-pip-version-check", "--root-user-action=ignore"]
        subprocess.run([*command, f"--target={scratch}", f"--requirement={lock}"], check=True)
        scratch.replace(installed)
    shutil.rmtree(folder, ignore_errors=True)
    no_bytecode = shutil.ignore_patterns("__pycache__")
    for name in functions():
        shutil.copytree(installed, folder / name, copy_function=os.link)
        shutil.copytree(ROOT / "shared", folder / name / "shared", ignore=no_bytecode)
        shutil.copytree(ROOT / "functions" / name, folder / name, ignore=no_bytecode, dirs_exist_ok=True)
    return folder


class _Folders:
    """Both ways of making the code, each made once in a run, when its first side warms up."""

    def __init__(self) -> None:
        self._made: dict[Path, Path] = {}

    def get(self, make: Callable[[str, Path], Path], folder: Path) -> tuple[str, Path]:
        try:
            python = find_python(RUNTIME)
        except LookupError as error:
            raise NotRun(str(error)) from None
        if folder not in self._made:
            self._made[folder] = make(python, folder)
        return python, self._made[folder]


_folders: Final = _Folders()


def _side(name: str, make: Callable[[str, Path], Path], folder: Path, function: str) -> Side:
    async def once() -> Round:
        python, made = _folders.get(make, folder)
        return start(python, made / function, function.replace("-", "_"))

    return Side(name, once, role="ours" if make is built else "peer", warm_up=once)


def _register(function: str) -> None:
    @benchmark(
        f"cold-start-{function}",
        f"{function}: import and init in a new process; ours is the artifact, the other the same code with the whole"
        " lock as `pip install --target --no-compile` makes it",
        targets={_WHOLE: 2.5},
        rounds=_ROUNDS,
    )
    async def _(servers: Servers) -> AsyncIterator[Sequence[Side]]:
        yield [
            _side("ours", built, servers.folder / "artifacts", function),
            _side(_WHOLE, plain, servers.folder / "plain", function),
        ]


for _function in functions():
    _register(_function)
