"""A peer that is a command: its time from start to exit, its CPU time, and its peak memory."""

import asyncio
import os
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.benchmarks.controllers import peak_mb
from tests.benchmarks.harness import Round

_SAMPLE_SECONDS = 0.02


async def run(command: Sequence[object], *, env: Mapping[str, str], cwd: Path) -> Round:
    """Run a command to its end.

    Raises:
        RuntimeError: it failed; with what it printed.
    """
    return await asyncio.to_thread(_run, [str(part) for part in command], env, cwd)


def together(rounds: Sequence[Round]) -> Round:
    """Return commands that ran one after the other as one round."""
    figures = {
        "cpu_seconds": sum(each.figures["cpu_seconds"] for each in rounds),
        "peak_mb": max(each.figures["peak_mb"] for each in rounds),
    }
    return Round(sum(each.seconds for each in rounds), figures)


def _run(command: Sequence[str], env: Mapping[str, str], cwd: Path) -> Round:
    began = time.perf_counter()
    with (cwd / "output").open("w+b") as output:
        process = subprocess.Popen(
            command, cwd=cwd, env=dict(env), stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        peak = _Peak(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            said = output.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"{Path(command[0]).name} ended with {process.returncode}: {said}")
    return Round(seconds, {"cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_mb": peak.end()})


class _Peak:
    """Watches a process's memory from a thread; the kernel's own figure counts what it was forked from too."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._most = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> float:
        self._ended.set()
        self._thread.join()
        return self._most

    def _watch(self) -> None:
        while not self._ended.wait(_SAMPLE_SECONDS):
            try:
                self._most = max(self._most, peak_mb(self._pid))
            except (OSError, RuntimeError):  # it has just ended
                return
