"""Runs functions as Lambda does: long-lived processes, one event at a time each, ended when their time is over."""

import asyncio
import contextlib
import json
import os
import struct
import sys
import time
import uuid
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from infra.local.template import ROOT, Function

_CONTAINER: Final = Path(__file__).with_name("container.py")
_INIT_SECONDS: Final = 60.0  # generous: a machine that compiles every import for the first time
_STOP_SECONDS: Final = 2.0
_LONGEST_LINE: Final = 16 * 1024 * 1024
_TAIL_LINES: Final = 400


class FunctionFailed(Exception):
    """An invocation ended without an answer: the handler raised, the process died, or its time was over."""


class Log:
    """What the functions print: into a file, the last lines in memory, and to the console if asked.

    Attributes:
        path: of the file.
    """

    def __init__(self, path: Path, *, echo: bool = False) -> None:
        self.path = path
        self._file = path.open("a", buffering=1)
        self._echo = echo
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)

    def write(self, name: str, line: str) -> None:
        """Take one line of a function."""
        text = f"{name}: {line}"
        self._tail.append(text)
        self._file.write(text + "\n")
        if self._echo:
            print(text, file=sys.stderr)

    def tail(self, lines: int, name: str = "") -> list[str]:
        """Return the last lines, of one function if it is named."""
        return [line for line in self._tail if line.startswith(name)][-lines:]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Worker:
    """One process of a function: a container, in Lambda's terms.

    After it has ended, of itself or because its time was over, the next invocation starts a new one.
    """

    def __init__(self, function: Function, environment: Mapping[str, str], log: Log) -> None:
        self._function = function
        self._environment = environment
        self._log = log
        self._process: Process | None = None
        self._logging: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Of the process; None while there is none."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start the process and import the handler; nothing happens where that is done.

        Raises:
            FunctionFailed: the handler cannot be imported.
        """
        if self._process is not None:
            return
        # -P: our own folder must not shadow what the handler imports.
        starting = asyncio.ensure_future(
            asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                _CONTAINER,
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                env=self._environment,
                cwd=ROOT,
                start_new_session=True,  # Ctrl-C is for the runtime, which ends us in order
                limit=_LONGEST_LINE,
            )
        )
        try:
            self._process = await asyncio.shield(starting)
        except asyncio.CancelledError:  # a process that is half started is nobody's, and outlives its loop
            self._process = await starting
            await self._kill()
            raise
        self._logging = asyncio.create_task(self._copy_log(self._process))
        function = self._function
        hello = {
            "path": [str(function.folder), str(ROOT)],
            "handler": function.handler,
            "name": f"landfall-{function.name}",
            "arn": function.arn,
            "memory_mb": function.memory_mb,
            "timeout_seconds": function.timeout_seconds,
        }
        await self._exchange(hello, _INIT_SECONDS, "was not imported")

    async def invoke(self, event: object) -> Any:
        """Return what the handler answers to an event.

        Raises:
            FunctionFailed: it did not answer.
        """
        await self.start()
        request = {"id": str(uuid.uuid4()), "event": event}
        return (await self._exchange(request, self._function.timeout_seconds, "timed out")).get("result")

    async def stop(self) -> None:
        """End the process: politely, then not."""
        if self._process is None:
            return
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            pass
        finally:
            await self._kill()

    async def _exchange(self, value: Mapping[str, object], seconds: float, what: str) -> dict[str, Any]:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise FunctionFailed(f"{self._function.name} has no process")
        body = json.dumps(value).encode()
        done = False
        try:
            async with asyncio.timeout(seconds):
                process.stdin.write(struct.pack(">I", len(body)) + body)
                await process.stdin.drain()
                size = struct.unpack(">I", await process.stdout.readexactly(4))[0]
                answer: dict[str, Any] = json.loads(await process.stdout.readexactly(size))
            done = "error" not in answer or "event" in value  # a process that could not import is of no use
        except TimeoutError:
            raise FunctionFailed(f"{self._function.name} {what} after {seconds:g} seconds") from None
        except (asyncio.IncompleteReadError, OSError):
            status = await self._status(process)
            raise FunctionFailed(f"{self._function.name} ended without an answer ({status})") from None
        finally:
            if not done:
                await self._kill()
        if error := answer.get("error"):
            raise FunctionFailed(f"{self._function.name}: {error['errorType']}: {error['errorMessage']}")
        return answer

    async def _status(self, process: Process) -> str:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_SECONDS):
                return f"exit status {await process.wait()}"
        return "it closed its pipe"

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        if self._logging is not None:
            await self._logging

    async def _copy_log(self, process: Process) -> None:
        if process.stderr is None:
            return
        try:
            while line := await process.stderr.readline():
                self._log.write(self._function.name, line.decode(errors="replace").rstrip("\n"))
        except ValueError:
            self._log.write(self._function.name, "a line over 16 MiB was dropped, and all after it")


class FunctionPool:
    """A function with as many processes as may run at once.

    Attributes:
        function: what the template says about it.
        invocations: how many have begun.
        failures: how many ended without an answer.
        at_work: those processes that have an event now, with the moment (`time.monotonic`) at which it came.
    """

    def __init__(self, function: Function, environment: Mapping[str, str], log: Log, size: int = 1) -> None:
        self.function = function
        self.invocations = self.failures = 0
        self.at_work: dict[Worker, float] = {}
        self._log = log
        self._workers = [Worker(function, environment, log) for _ in range(size)]
        self._idle: asyncio.LifoQueue[Worker] = asyncio.LifoQueue()
        for worker in self._workers:
            self._idle.put_nowait(worker)

    async def prewarm(self) -> None:
        """Start every process.

        Raises:
            FunctionFailed: the handler cannot be imported.
        """
        await asyncio.gather(*(worker.start() for worker in self._workers))

    async def invoke(self, event: object) -> Any:
        """Return what the handler answers, from whichever process is free first.

        Raises:
            FunctionFailed: it did not answer.
        """
        worker = await self._idle.get()
        self.invocations += 1
        self.at_work[worker] = time.monotonic()
        try:
            return await worker.invoke(event)
        except FunctionFailed as failure:
            self.failures += 1
            self.note(f"invocation failed: {failure}")
            raise
        finally:
            self.at_work.pop(worker, None)
            self._idle.put_nowait(worker)

    def note(self, text: str) -> None:
        """Write a line of the runtime's own into the function's log."""
        self._log.write(self.function.name, text)

    async def stop(self) -> None:
        """End every process."""
        await asyncio.gather(*(worker.stop() for worker in self._workers))


def function_environment(base: Mapping[str, str], variables: Mapping[str, str]) -> dict[str, str]:
    """Return a function's environment: the caller's own, and on top of it the function's variables.

    Args:
        base: the caller's environment; AWS variables in it are kept, since State Stores with authMethod IAM use them.
        variables: of the function.
    """
    kept = {name: value for name, value in base.items() if name != "PYTHONDONTWRITEBYTECODE"}
    has_identity = any(
        base.get(name)
        for name in (
            "AWS_ACCESS_KEY_ID",
            "AWS_PROFILE",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        )
    )
    if not has_identity and not (Path(base.get("HOME", "/")) / ".aws").is_dir():
        # SQS's client signs its calls with something, and must not look for a metadata service first.
        kept |= {"AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}
    kept.setdefault("AWS_REGION", base.get("AWS_DEFAULT_REGION") or "us-east-1")
    kept.setdefault("AWS_DEFAULT_REGION", kept["AWS_REGION"])
    kept.setdefault("POWERTOOLS_METRICS_DISABLED", "true")
    return {**kept, **variables, "PYTHONUNBUFFERED": "1"}


def caller_environment() -> dict[str, str]:
    """Return a copy of this process's environment."""
    return dict(os.environ)
