"""`make demo` for people and for CI: what it shows, how it ends, and that nothing of it stays."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

READY = "Ready True TestDocumentsWritten Test documents written to State Store"
FILES = (
    "destinations/dev/dependencies/kratix-canary-namespace.yaml",
    "destinations/dev/resources/kratix-canary-configmap.yaml",
    "destinations/dev/dependencies/redis/5058f/namespace.yaml",
)
REQUEST = "destinations/dev/resources/default/redis/mine/instance-configure/5058f/mine.yaml"


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "infra.local", *arguments]
    own = {name: value for name, value in os.environ.items() if name not in {"KUBECONFIG", "PYTHONDONTWRITEBYTECODE"}}
    return subprocess.Popen(
        command, env=own | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    )


def children(pid: int) -> set[int]:
    """Return the process's children and theirs."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents[int(status.parent.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if Path(f"/proc/{pid}").exists()}


def said_by_a_kept_demo(process: subprocess.Popen[str]) -> str:
    """Return what a demo prints until it stays up, or ends."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("functions' log:"):
            break
    return "".join(lines)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    temporary = tmp_path_factory.mktemp("tmp")
    process = start("demo", TMPDIR=str(temporary))
    out, _ = process.communicate(timeout=90)
    assert process.returncode == 0, out
    assert list(temporary.iterdir()) == [], "the demo leaves nothing behind"
    yield out


def test_the_demo_ends_with_both_destinations_ready(output: str) -> None:
    assert re.search(rf"^Destination/worker-1 +{READY}$", output, re.MULTILINE)
    assert re.search(rf"^Destination/worker-1-git +{READY}$", output, re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        *((f"Work/{name}", "AllWorkplacementsScheduled") for name in ("redis", "redis-mine")),
        *(
            (f"WorkPlacement/{name}-5058f", "WorkloadsWrittenToTargetDestination")
            for name in ("redis.worker-1", "redis.worker-1-git", "redis-mine.worker-1-git")
        ),
    ],
)
def test_the_demo_ends_with_both_works_placed_and_written(output: str, name: str, words: str) -> None:
    assert re.search(rf"^{re.escape(name)} +Ready True {words} Ready$", output, re.MULTILINE)


def test_the_demo_lists_the_documents_of_both_stores_and_the_resource_request_in_one(output: str) -> None:
    for path in FILES:
        assert len(re.findall(rf"^  {re.escape(path)}$", output, re.MULTILINE)) == 2
    assert len(re.findall(rf"^  {re.escape(REQUEST)}$", output, re.MULTILINE)) == 1


def test_the_demo_shows_the_conditions_as_kubectl_would_and_the_commit(output: str) -> None:
    for line in ("Reason: +TestDocumentsWritten", "Status: +True", "Type: +Ready", "Last Transition Time: +2.+Z"):
        assert len(re.findall(rf"^    {line}$", output, re.MULTILINE)) == 2
    assert len(re.findall(r"^  Normal +DestinationReady +landfall +Destination is Ready$", output, re.MULTILINE)) == 2
    assert re.search(r"^    Update from: worker-1-git$", output, re.MULTILINE)
    assert "2 files changed, 13 insertions(+)" in output


def test_the_demo_ends_with_what_comes_next(output: str) -> None:
    last = output.rstrip().splitlines()[-3:]
    assert [line.split()[0] for line in last] == ["docs/agents.md", "make", "docs/deployment.md"]
    for page in ("docs/agents.md", "docs/deployment.md"):
        assert (Path(__file__).parents[2] / page).is_file()


def test_the_demo_tells_its_progress_in_plain_lines_where_there_is_no_terminal(output: str) -> None:
    assert "\x1b" not in output
    steps = r"^\[ +\d+\.\d s\] (Kubernetes API|S3 server|Git server|Functions|Ready) "
    assert len(re.findall(steps, output, re.MULTILINE)) == 11


def test_a_demo_whose_functions_cannot_work_fails_with_their_own_words() -> None:
    began = time.monotonic()
    process = start("demo", LANDFALL_MAX_FILE_BYTES="none")
    out, _ = process.communicate(timeout=90)
    assert process.returncode == 1
    assert time.monotonic() - began < 55, "it does not wait for what cannot come"
    assert "LANDFALL_MAX_FILE_BYTES" in out
    assert "Ready True" not in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_kept_demo_serves_kubectl_and_ends_without_a_trace(tmp_path: Path, number: int) -> None:
    process = start("demo", "--keep", TMPDIR=str(tmp_path))
    try:
        said = said_by_a_kept_demo(process)
        kubeconfig = re.search(r"^export KUBECONFIG=(\S+)", said, re.MULTILINE)
        assert kubeconfig is not None, said
        command = ["kubectl", f"--kubeconfig={kubeconfig[1]}", "get", "destinations"]
        got = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        assert re.search(r"^worker-1 +BucketStateStore +default +True ", got.stdout, re.MULTILINE), got
        family = children(process.pid)
        assert len(family) >= 6, "five functions and the S3 server"
        process.send_signal(number)
        rest, _ = process.communicate(timeout=20)
        assert (process.returncode, rest) == (0, "")
        assert alive(family) == set()
        assert list(tmp_path.iterdir()) == []
    finally:
        process.kill()


def test_an_interrupted_demo_takes_its_processes_along(tmp_path: Path) -> None:
    process = start("demo", TMPDIR=str(tmp_path))
    try:
        end = time.monotonic() + 30
        while len(family := children(process.pid)) < 5:
            assert time.monotonic() < end
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=20)
        assert process.returncode == 130
        assert "Traceback" not in out
        assert alive(family) == set()
    finally:
        process.kill()
