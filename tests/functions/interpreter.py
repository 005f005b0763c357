"""Handlers in an interpreter of their own, which has nothing loaded and finds nothing but what it is told."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Reads which handler gets which events, and writes what it answered and what is loaded after that.
_PROGRAM = """
import importlib, json, sys
sys.path[:0] = json.loads(sys.argv[1])
given = json.load(sys.stdin)

class Context:
    function_name = aws_request_id = invoked_function_arn = "landfall-test"
    memory_limit_in_mb = 1024
    get_remaining_time_in_millis = staticmethod(lambda: 60_000)

handler = importlib.import_module(given["module"]).lambda_handler
answers = [handler(event, Context()) for event in given["events"]]
specs = {name: getattr(module, "__spec__", None) for name, module in list(sys.modules.items())}
loaded = {name: (spec and spec.origin, spec and spec.cached) for name, spec in specs.items()}
print(json.dumps({"answers": answers, "loaded": loaded}))
"""


@dataclass(frozen=True)
class Done:
    """What became of the events.

    Attributes:
        answers: the handler's, in order.
        loaded: by name of a module, its file and the file of its bytecode; None where there is none.
    """

    answers: list[Any]
    loaded: Mapping[str, tuple[str | None, str | None]]

    def among(self, names: Sequence[str]) -> list[str]:
        """Return the loaded modules that names stand for, as the table in test_imports does."""
        return sorted(
            module
            for module in self.loaded
            if any(module == name or module.startswith(name if name.endswith(".") else f"{name}.") for name in names)
        )


def find_python(version: tuple[int, int]) -> str:
    """Return a Python of a version, with pip; never an environment, which may have none.

    Raises:
        LookupError: there is none; the sentence says what to install.
    """
    name = ".".join(map(str, version))
    pyenvs = (Path.home() / ".pyenv", Path(os.environ.get("PYENV_ROOT", "/nonexistent")))
    candidates = [sys.executable, shutil.which(f"python{name}")]
    candidates += [str(found) for pyenv in pyenvs for found in pyenv.glob(f"versions/{name}*/bin/python{name}")]
    asked = f"import sys; print(sys._base_executable if sys.version_info[:2] == {version} else '')"
    for candidate in filter(None, candidates):
        answer = subprocess.run([candidate, "-c", asked], capture_output=True, text=True, check=False)
        if answer.returncode == 0 and (found := answer.stdout.strip()):
            return found
    raise LookupError(f"the functions run on Python {name}, and none is here: install it (pyenv install {name})")


def run_handler(
    python: Sequence[str],
    path: Sequence[Path],
    module: str,
    events: Sequence[Mapping[str, Any]],
    environment: Mapping[str, str],
) -> Done:
    """Import a handler and give it events.

    Args:
        python: the interpreter, with its options.
        path: where modules are found, besides where the interpreter looks itself.
        module: the handler's.
        events: may have `trace`, the trace header that Lambda would set for it.
        environment: of the process.
    """
    result = json.loads(run_program(python, _PROGRAM, path, {"module": module, "events": events}, environment)[-1])
    return Done(result["answers"], {name: (file, cached) for name, (file, cached) in result["loaded"].items()})


def run_program(
    python: Sequence[str], program: str, path: Sequence[Path], given: object, environment: Mapping[str, str]
) -> list[str]:
    """Run a program that reads JSON, and return the lines that it printed.

    Args:
        python: the interpreter, with its options.
        program: finds `path`, as JSON, in its first argument, and `given` on its input.
        path: where it is to find modules.
        given: anything JSON can tell.
        environment: of the process.
    """
    done = subprocess.run(
        [*python, "-c", program, json.dumps([str(folder) for folder in path])],
        input=json.dumps(given),
        env=dict(environment),
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
