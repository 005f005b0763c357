"""What a test run and a long command say of themselves in a log."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.progress import telling

ROOT = Path(__file__).parents[2]
CONFTEST = """
from tests import reporting

reporting.PROGRESS_SECONDS = 0.2
pytest_plugins = ["tests.reporting"]
"""
SUITES = {
    "suites/one/test_quick.py": "import pytest\n\n@pytest.mark.parametrize('n', range(3))\ndef test_one(n): pass\n",
    "suites/one/test_bad.py": "def test_bad(): assert False\n",
    "suites/two/test_slow.py": "import time\n\ndef test_slow(): time.sleep(1)\n",
    "suites/two/test_setup.py": "import pytest\n\n@pytest.fixture\ndef f(): 1/0\n\ndef test_setup(f): pass\n",
    "suites/three/test_out.py": (
        "import pytest\n\n@pytest.mark.skip('nothing is built; run: make it')\n"
        "@pytest.mark.parametrize('n', range(2))\n"
        "def test_out(n): pass\n\ndef test_in(record_property): record_property('measured', 'in 1.5 s')\n"
    ),
    "suites/test_top.py": "import pytest\n\n@pytest.mark.xfail(strict=True)\ndef test_top(): assert False\n",
}
FLOW = """
from types import SimpleNamespace
import pytest
from infra.local.workers import Log

@pytest.fixture
def runtime(tmp_path):
    log = Log(tmp_path / "functions.log")
    log.write("write-canary", "it wrote")
    log.write("write-canary", '{"_aws": "a metric"}')
    yield SimpleNamespace(log=log)
    log.close()

def test_good(runtime): pass
def test_bad(runtime): assert False
"""


def run(folder: Path, *arguments: str, suites: Mapping[str, str] = SUITES) -> str:
    """Run small suites with our reports, and return what a log would hold."""
    (folder / "conftest.py").write_text(CONFTEST)
    for name, text in suites.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--import-mode=importlib",
        "-p",
        "no:cacheprovider",
        *arguments,
        "suites",
    ]
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        command, cwd=folder, env={**own, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module", params=["0", "2"], ids=["in one process", "on two workers"])
def log(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return run(tmp_path_factory.mktemp("run"), "-n", request.param, "--dist=loadfile")


def test_a_log_sees_how_far_the_tests_are_and_each_failure_at_once(log: str) -> None:
    before, _, after = log.partition(" ERRORS ")
    assert re.search(r"^\[  0:0\d\] \d of 10 tests done(, \d failed)?: .*suites/two/test_slow.py", before, re.MULTILINE)
    assert "\nFAILED suites/one/test_bad.py::test_bad (call)\n" in before
    assert "\nFAILED suites/two/test_setup.py::test_setup (setup)\n" in before
    assert not re.search(r"^[.FEsx]+( +\[ *\d+%\])?$", before, re.MULTILINE), "no dots between the lines"
    assert re.search(r"=+ 1 failed, 5 passed, 2 skipped, 1 xfailed, (\d+ warnings?, )?1 error in \d", after)


def test_the_end_of_a_run_counts_each_suite_and_its_seconds(log: str) -> None:
    _, _, table = log.partition(" tests by suite ")
    assert re.search(r"^one +4 +0 s  \(3 passed, 1 failed\)$", table, re.MULTILINE)
    assert re.search(r"^two +2 +[1-9] s  \(1 passed, 1 error\)$", table, re.MULTILINE)
    assert re.search(r"^tests +1 +0 s  \(1 xfailed\)$", table, re.MULTILINE)
    assert re.search(r"^all +10 +[1-9] s$", table, re.MULTILINE)


def test_the_end_of_a_run_says_what_was_measured_and_what_did_not_run(log: str) -> None:
    assert re.search(r"^=+ measured =+\nin 1\.5 s\n=+ NOT RUN =+\n2 tests of ", log, re.MULTILINE)
    assert re.search(r"^2 tests of suites/three/test_out.py: nothing is built; run: make it$", log, re.MULTILINE)


def test_a_person_who_asks_for_another_form_gets_that(tmp_path: Path) -> None:
    verbose = run(tmp_path, "-v")
    assert "suites/one/test_quick.py::test_one[0] PASSED" in verbose
    assert "tests done" not in verbose


def test_a_failed_test_shows_what_the_functions_said_that_it_ran(tmp_path: Path) -> None:
    said = run(tmp_path, "-v", suites={"suites/test_flow.py": FLOW})
    assert said.count("the functions' log (runtime)") == 1
    assert said.count("write-canary: it wrote") == 1
    assert "_aws" not in said.partition("the functions' log")[2]


async def test_a_long_block_says_how_far_it_is_until_it_ends() -> None:
    said: list[str] = []
    steps = iter(range(1000))
    third = asyncio.Event()

    def say(line: str) -> None:
        said.append(line)
        if len(said) == 3:
            third.set()

    async with telling(lambda: f"step {next(steps)}", say, seconds=0.01):
        await third.wait()
    count = len(said)
    await asyncio.sleep(0.05)
    assert said[:3] == ["step 0", "step 1", "step 2"]
    assert len(said) == count


async def test_a_short_block_says_nothing() -> None:
    said: list[str] = []
    async with telling(lambda: "line", said.append):
        await asyncio.sleep(0)
    assert said == []
