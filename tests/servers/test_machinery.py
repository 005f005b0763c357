"""What builds and starts the test servers: quick when there is nothing to do, clear when something is wrong."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.servers import s3
from tests.servers.build import main as build
from tests.servers.golang import GO_SERVERS, go_binary
from tests.servers.process import ServerFailed, ServerUnavailable, free_port, running


def test_building_again_is_quick() -> None:
    for name in GO_SERVERS:
        go_binary(name)  # a missing one names the command here, instead of being built within a test
    started = time.monotonic()
    assert build([]) == 0
    assert time.monotonic() - started < 30


def test_a_server_that_is_not_built_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LANDFALL_CACHE", str(tmp_path))
    with pytest.raises(ServerUnavailable, match=r"run: python -m tests\.servers\.build minio"), s3.minio():
        pass


def test_a_server_that_fails_shows_its_log(tmp_path: Path) -> None:
    command = ["/bin/sh", "-c", "echo no such luck; exit 3"]
    with (
        pytest.raises(ServerFailed, match=r"(?s)exited with 3.*no such luck"),
        running("unlucky", command, directory=tmp_path, ready=lambda: False),
    ):
        pass


def test_a_server_that_never_answers_is_given_up_and_its_family_ends(tmp_path: Path) -> None:
    port, pids = free_port(), tmp_path / "pids"

    def ready() -> bool:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True

    # A child in a session of its own, as sshd's are: killing the group alone would leave it behind.
    script = f"setsid sleep 100 & echo $! > {pids}; exec sleep 100"
    with (
        pytest.raises(ServerFailed, match=r"did not happen within .*Connection refused"),
        running("mute", ["/bin/sh", "-c", script], directory=tmp_path, ready=ready, timeout=3),
    ):
        pass
    assert gone(int(pids.read_text()))


def test_a_test_run_that_is_killed_leaves_no_server_behind(tmp_path: Path) -> None:
    run = """if True:
        import os, pathlib, signal, sys
        from tests.servers.process import running
        directory = pathlib.Path(sys.argv[1])
        script = "sleep 100 & echo $$ $! > pids.new; mv pids.new pids; exec sleep 100"
        with running("server", ["/bin/sh", "-c", script], directory=directory, ready=(directory / "pids").exists):
            os.kill(os.getpid(), signal.SIGKILL)
    """
    root = Path(__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", run, tmp_path], cwd=root, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    for pid in (tmp_path / "pids").read_text().split():
        assert gone(int(pid))


def gone(pid: int) -> bool:
    """Tell whether a process has ended within a few seconds, its parent's knowledge of that aside."""
    status = Path(f"/proc/{pid}/status")
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            if "State:\tZ" in status.read_text():
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False
