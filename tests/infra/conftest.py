"""The template as CloudFormation would carry it out, and a cluster with nothing of ours in it."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infra.artifacts import RUNTIME
from tests.functions.interpreter import find_python
from tests.servers.process import ServerUnavailable

ROOT = Path(__file__).parents[2]
SAM = ROOT / ".venv-sam-{}.{}".format(*sys.version_info) / "bin"
CYCLONEDX = ROOT / ".venv-release-{}.{}".format(*sys.version_info) / "bin" / "cyclonedx-py"
IMAGE = f"registry.example.com/platform/landfall-forwarder@sha256:{'5' * 64}"


@pytest.fixture(scope="session")
def transformed() -> dict[str, Any]:
    """What SAM's translator makes of template.yaml."""
    if not (SAM / "python").exists():
        raise ServerUnavailable(f"SAM is not in {SAM.parent.name}; run: make setup PYTHON={sys.executable}")
    command = [str(SAM / "python"), "-m", "infra.deployment.transform"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    template: dict[str, Any] = json.loads(done.stdout)
    return template


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release as `make release` makes it, once for all processes of a test run; read-only."""
    for tool in (SAM / "python", CYCLONEDX):
        if not tool.exists():
            raise ServerUnavailable(
                f"{tool.name} is not in {tool.parents[1].name}; run: make setup PYTHON={sys.executable}"
            )
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "dist"
    command = [str(SAM / "python"), "-m", "infra.release", "--python", find_python(RUNTIME)]
    command += ["--cyclonedx", str(CYCLONEDX), "--image", IMAGE, str(folder)]
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "SHA256SUMS").exists():  # what is written last
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            assert f"the forwarder's image is {IMAGE}\n" in done.stdout
    return folder
