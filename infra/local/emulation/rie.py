"""Functions under the runtime interface emulator: Lambda's runtime API and its real client, without a container."""

import asyncio
import contextlib
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp

from infra.local.embedded.s3 import free_ports
from infra.local.emulation.commands import CannotInvoke, InvocationFailed, last_lines
from infra.local.template import REGION, Function

_START_SECONDS: Final = 20.0
_PATH: Final = "/2015-03-31/functions/function/invocations"


@dataclass(frozen=True)
class Emulator:
    """What is needed to run artifacts without a container.

    Attributes:
        binary: the emulator.
        python: of the functions' version.
        client: folder with awslambdaric.
    """

    binary: Path
    python: Path
    client: Path

    async def invoke(self, function: Function, artifact: Path, event: str, variables: Mapping[str, str]) -> Any:
        """Return what a function out of its artifact answers to an event.

        Nothing else is there to import: no site-packages, and no folder but the artifact's and the client's.

        Args:
            function: of the template.
            artifact: its folder, as `make artifacts` builds it.
            event: JSON.
            variables: of the function's environment.

        Raises:
            InvocationFailed: the function failed.
            CannotInvoke: the emulator does not start.
        """
        async with self._started(function, artifact, variables) as (url, log):
            timeout = aiohttp.ClientTimeout(total=function.timeout_seconds + _START_SECONDS)
            async with aiohttp.ClientSession(timeout=timeout) as session, session.post(url, data=event) as response:
                answer = await response.json(content_type=None)
        if isinstance(answer, dict) and "errorType" in answer:  # it has ended, so all that it printed is in the log
            raise InvocationFailed(f"{function.name} failed:\n{last_lines(log)}")
        return answer

    @asynccontextmanager
    async def _started(
        self, function: Function, artifact: Path, variables: Mapping[str, str]
    ) -> AsyncIterator[tuple[str, list[str]]]:
        address, api = (f"127.0.0.1:{port}" for port in free_ports(2))
        command: list[str | Path] = [
            self.binary,
            "--log-level",
            "error",
            "--runtime-interface-emulator-address",
            address,
        ]
        command += ["--runtime-api-address", api]
        command += [self.python, "-S", "-P", "-m", "awslambdaric", function.handler]
        environment = {
            "PATH": os.defpath,
            "PYTHONPATH": f"{artifact}{os.pathsep}{self.client}",
            "LAMBDA_TASK_ROOT": str(artifact),
            "AWS_LAMBDA_FUNCTION_NAME": f"landfall-{function.name}",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(function.memory_mb),
            "AWS_LAMBDA_FUNCTION_TIMEOUT": str(function.timeout_seconds),
            "AWS_LAMBDA_LOG_FORMAT": "JSON",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            **variables,
        }
        process = await asyncio.create_subprocess_exec(
            *command, cwd=artifact, env=environment, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, start_new_session=True
        )
        log: list[str] = []
        logging = asyncio.create_task(_copy(process.stdout, log))
        try:
            await _listens(address, process, log)
            yield f"http://{address}{_PATH}", log
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the function's process with it
            await process.wait()
            await logging


async def _copy(stream: asyncio.StreamReader | None, log: list[str]) -> None:
    while stream is not None and (line := await stream.readline()):
        log.append(line.decode(errors="replace").rstrip())


async def _listens(address: str, process: asyncio.subprocess.Process, log: list[str]) -> None:
    host, _, port = address.rpartition(":")
    for _ in range(int(_START_SECONDS / 0.02)):
        if process.returncode is not None:
            break
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.close()
            return
        await asyncio.sleep(0.02)
    raise CannotInvoke(f"the runtime interface emulator does not answer:\n{last_lines(log)}")
