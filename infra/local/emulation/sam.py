"""Functions as `sam build` makes them and `sam local invoke` runs them."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.local.emulation.commands import CannotInvoke, Done, InvocationFailed, run
from infra.local.emulation.engine import Engine
from infra.local.emulation.lambda_python import architecture
from infra.local.emulation.stage import KUBECONFIG
from infra.local.template import ROOT

# Where a function finds its own folder, the only one that SAM mounts.
KUBECONFIG_IN_FUNCTION = f"/var/task/{KUBECONFIG}"


class Sam:
    """SAM's two commands, in a folder of its own: what is deployed is built elsewhere, and has no kubeconfig in it.

    Attributes:
        template: that `sam local invoke` reads.
        variables: file for its `--env-vars`.
    """

    def __init__(self, command: Path, folder: Path, engine: Engine, base_image: str | None) -> None:
        self.template = folder / "build" / "template.yaml"
        self.variables = folder / "env.json"
        self._command = command
        self._folder = folder
        self._image = ["--skip-pull-image", "--invoke-image", base_image] if base_image else []
        direct = [*filter(None, os.environ.get("NO_PROXY", "").split(",")), "127.0.0.1", "localhost"]
        self._environment: Mapping[str, str] = {
            **engine.environment,
            "SAM_CLI_TELEMETRY": "0",
            "NO_PROXY": ",".join(direct),  # SAM talks to the container's port on this machine
        }

    async def build(self, python: Path) -> None:
        """Build the functions.

        Args:
            python: of their version.

        Raises:
            CannotInvoke: SAM failed.
        """
        environment = {**self._environment, "PYTHON": str(python), "ARCHITECTURE": architecture()}
        folders = ("--build-dir", self._folder / "build", "--cache-dir", self._folder / "cache")
        settings = ("--config-file", "infra/samconfig.toml", "--parameter-overrides", f"Architecture={architecture()}")
        done = await self._run("build", *settings, *folders, environment=environment)
        if done.status:
            raise CannotInvoke(f"sam build failed:\n{done.words}")

    def give(self, variables: Mapping[str, Mapping[str, str]], kubeconfig: Path) -> None:
        """Write the file for `--env-vars`, and put a kubeconfig where functions find it."""
        self.variables.write_text(json.dumps(variables, indent=2) + "\n")
        for function in self.template.parent.iterdir():
            if function.is_dir():
                shutil.copy(kubeconfig, function / KUBECONFIG)

    def arguments(self, function: str, event: Path) -> list[str]:
        """Return the arguments of `sam local invoke`.

        Args:
            function: its logical id.
            event: path of a file.
        """
        given = {"--event": event, "--env-vars": self.variables, "--template": self.template}
        options = [part for option, path in given.items() for part in (option, str(path.relative_to(ROOT)))]
        return ["local", "invoke", function, *options, *self._image]

    async def invoke(self, function: str, event: Path) -> Any:
        """Return what a function answers to an event.

        Raises:
            InvocationFailed: it failed, or gave no answer; with its log.
        """
        done = await self._run(*self.arguments(function, event), environment=self._environment)
        try:
            answer = json.loads(done.out)
        except ValueError:
            raise InvocationFailed(f"sam local invoke {function} gave no answer:\n{done.words}") from None
        if done.status or (isinstance(answer, dict) and "errorType" in answer):
            raise InvocationFailed(f"{function} failed:\n{done.words}")
        return answer

    async def _run(self, *arguments: str | Path, environment: Mapping[str, str]) -> Done:
        return await run(self._command, *arguments, environment=environment, cwd=ROOT)
