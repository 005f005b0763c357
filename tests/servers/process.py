"""Starts one server process, waits until it is ready and takes its whole family down at the end."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

# Below the range that kernels hand to outgoing connections, so nobody's client socket can take a port between our
# choosing it and the server's binding it.
_PORTS = range(20000, 32000)
_LOG_LINES = 40
# One lock a port, held until this process ends. Test workers and other checkouts choose ports at the same time, and a
# port that another one has chosen looks free until its server listens. Abstract names leave no files behind.
_LOCK = "\0landfall-test-port-{}"
_locks: list[socket.socket] = []

# Becomes the server, beside a watcher that reads our end of a pipe: when the test run is killed outright, the pipe
# closes and the watcher kills the server's whole process group, so that nothing is left behind.
_RUN = 'exec 3<&0; (read -r _ <&3; kill -9 0) & exec "$@" 3<&- </dev/null'


class ServerUnavailable(RuntimeError):
    """A server cannot be had on this machine; the message says what to run."""


class ServerFailed(RuntimeError):
    """A server was started and did not become ready, or refused one of our set-up calls."""


@dataclass(frozen=True)
class ServerProcess:
    """A running server."""

    name: str
    pid: int
    log: Path


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on; no process gets it again before this one has ended."""
    for port in random.sample(_PORTS, 500):
        lock = socket.socket(socket.AF_UNIX)
        try:
            lock.bind(_LOCK.format(port))
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            lock.close()
            continue
        _locks.append(lock)
        return port
    raise ServerFailed("no free port on 127.0.0.1 between 20000 and 32000")


def log_tail(log: Path, lines: int = _LOG_LINES) -> str:
    """Return the last lines of a log file."""
    try:
        text = log.read_text(errors="replace")
    except OSError as error:
        return f"(no log: {error})"
    return "\n".join(text.splitlines()[-lines:]) or "(the log is empty)"


# Not /dev/null itself: git that writes to its configuration puts a new file in its place, which root may.
_NO_FILE = os.path.join(os.devnull, "none")  # noqa: PTH118 -- text for an environment


def private_environment(**extra: str) -> dict[str, str]:
    """Return our environment without proxies, AWS settings and the person's git configuration, plus `extra`."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.lower().endswith("_proxy") and not key.startswith(("AWS_", "GIT_", "MINIO_", "VGW_", "ETCD_"))
    }
    return {**kept, "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": _NO_FILE, **extra}


def wait_until(
    what: str, ready: Callable[[], bool], *, timeout: float, failure: Callable[[], str | None] = lambda: None
) -> None:
    """Poll `ready` (an OSError means not yet) until it is true; raise ServerFailed at the time-out or `failure`."""
    deadline = time.monotonic() + timeout
    pause, last = 0.02, ""
    while True:
        try:
            if ready():
                return
        except OSError as error:
            last = f" (last: {error})"
        if reason := failure():
            raise ServerFailed(f"{what}: {reason}")
        if time.monotonic() > deadline:
            raise ServerFailed(f"{what} did not happen within {timeout:.0f} s{last}")
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)


@contextlib.contextmanager
def running(
    name: str,
    command: Sequence[object],
    *,
    directory: Path,
    ready: Callable[[], bool],
    env: Mapping[str, str] | None = None,
    timeout: float = 90.0,
) -> Iterator[ServerProcess]:
    """Run a server with its log in `directory`/`name`.log until the block ends."""
    log = directory / f"{name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            ["/bin/sh", "-c", _RUN, "sh", *map(str, command)],
            cwd=directory,
            env=private_environment() if env is None else dict(env),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def exited() -> str | None:
        return None if process.poll() is None else f"it exited with {process.returncode}"

    try:
        try:
            wait_until(f"{name} ready", ready, timeout=timeout, failure=exited)
        except ServerFailed as error:
            raise ServerFailed(f"{error}\nlast lines of {log.name}:\n{log_tail(log)}") from error
        yield ServerProcess(name, process.pid, log)
    finally:
        _end_family(process)


def _end_family(process: subprocess.Popen[bytes]) -> None:
    """Kill the process, its group and its descendants: data is thrown away, so nobody needs to be asked."""
    # Descendants first, while they can still be traced: sshd gives each connection a session of its own.
    for pid in _descendants(process.pid):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    if process.stdin:
        process.stdin.close()
    process.wait()


def _descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            # The command's name, in parentheses, may hold spaces: count from its end.
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found, queue = [], [root]
    while queue:
        for child in children.get(queue.pop(), []):
            found.append(child)
            queue.append(child)
    return found
