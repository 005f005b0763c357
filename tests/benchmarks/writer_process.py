"""One of our writers in a process of its own, as in a function's container: warm or new, with its memory to itself.

The process reads lines of JSON and answers each with one: first what to write to, then what to write.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from shared.deadline import Deadline
from shared.plan import Edit, Written
from shared.resources import Secret, parse_state_store
from shared.settings import Settings
from shared.writers import open_writer
from shared.writers.base import Writer
from tests.benchmarks.controllers import peak_mb
from tests.benchmarks.harness import Round
from tests.benchmarks.servers import ROOT

_KB: Final = 1000
_DEADLINE_SECONDS: Final = 120.0
_PER_DIRECTORY: Final = 5


def documents(directory: str, count: int, *, flat: bool = False) -> dict[str, bytes]:
    """Return documents of 1 KB, no two alike, by path: five to a directory, or all in one."""
    found = {}
    for number in range(count):
        name = f"{directory}/" if flat else f"{directory}/p{number // _PER_DIRECTORY:04}/"
        path = f"{name}config-{number:05}.yaml"
        head = f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: config-{number}\ndata:\n  filler: "
        filler = hashlib.shake_256(path.encode()).hexdigest(_KB // 2)
        found[path] = f"{head}{filler[: _KB - len(head) - 1]}\n".encode()
    return found


class WriterProcess:
    """Our end of such a process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, **what: Any) -> dict[str, float]:
        """Have something done, and return the figures.

        Raises:
            RuntimeError: it was not done; the process has said why on its standard error.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(what).encode() + b"\n")
        await self._process.stdin.drain()
        answer = await self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the writer's process has ended: see its error above")
        figures: dict[str, float] = json.loads(answer)
        return figures

    async def round(self, **what: Any) -> Round:
        """Have something written, and return that as a round."""
        figures = await self.ask(**what)
        return Round(figures.pop("seconds"), figures)


@contextlib.asynccontextmanager
async def writer_process(
    store: Mapping[str, Any], secret: Mapping[str, str], settings: Mapping[str, Any]
) -> AsyncIterator[WriterProcess]:
    """Start a process that writes to a State Store, and end it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        __name__,
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    ours = WriterProcess(process)
    try:
        await ours.ask(store=store, secret=secret, settings=settings)
        yield ours
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()


class _Worker:
    def __init__(self, begin: Mapping[str, Any]) -> None:
        data = {key: value.encode() for key, value in begin["secret"].items()}
        self._secret = Secret.model_validate({"name": "keys", "namespace": "default", "data": data})
        self._store = parse_state_store(begin["store"])
        self._settings = Settings.model_validate(begin["settings"])
        self._writer = self._open()

    async def do(self, what: Mapping[str, Any]) -> dict[str, float]:
        """Write documents into a directory of their own; `reopen` forgets the client, connections and trees before."""
        if what.get("reopen"):
            await self._writer.close()
            self._writer = self._open()
        directory = what["directory"]
        files = documents(directory, what["files"], flat=what.get("flat", False))
        edit = Edit(id="one", label="Destination/one", root=directory, files=files, prune=frozenset({directory}))
        cpu, began = time.process_time(), time.perf_counter()
        outcome = (await self._writer.write([edit], Deadline.after(_DEADLINE_SECONDS)))["one"]
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        if not isinstance(outcome, Written):
            raise outcome
        return {"seconds": seconds, "cpu_seconds": cpu, "peak_mb": peak_mb(os.getpid())}

    def _open(self) -> Writer:
        return open_writer(self._store, self._secret, self._settings)


async def _serve() -> None:
    worker: _Worker | None = None
    while line := await asyncio.to_thread(sys.stdin.readline):
        what = json.loads(line)
        answer: dict[str, float] = {}
        if worker is None:
            worker = _Worker(what)
        else:
            answer = await worker.do(what)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(_serve())
