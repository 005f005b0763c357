"""The template as CloudFormation would carry it out, and a cluster with nothing of ours in it."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.infra.played import Played
from tests.servers.process import ServerUnavailable

ROOT = Path(__file__).parents[2]
SAM = ROOT / ".venv-sam-{}.{}".format(*sys.version_info) / "bin"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Show what the functions said where a test of the whole flow fails."""
    outcome: Any = yield
    report = outcome.get_result()
    at_work = getattr(item, "funcargs", {}).get("at_work")
    if report.failed and isinstance(at_work, Played):
        said = [line for line in at_work.log.tail(400) if '"_aws"' not in line]  # no metrics
        report.sections.append(("the functions' log", "\n".join(said[-60:])))


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
