"""What every test may ask for."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.platform_team import Platform
from tests.servers.kubernetes import KubernetesApi

pytest_plugins = ["tests.servers.fixtures"]

CRDS = Path(__file__).parents[1] / "infra" / "kubernetes" / "crds"

_OUTCOMES = ("passed", "failed", "error", "skipped", "xfailed", "xpassed")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests ran in each suite, the folders below tests/."""
    suites: dict[str, Counter[str]] = {}
    for outcome in _OUTCOMES:
        for report in terminalreporter.stats.get(outcome, ()):
            parts = report.nodeid.split("::")[0].split("/")
            suites.setdefault(parts[1] if len(parts) > 2 else "tests", Counter())[outcome] += 1
    if not suites:
        return
    terminalreporter.section("tests by suite")
    for suite, counts in sorted(suites.items()):
        told = ", ".join(f"{counts[outcome]} {outcome}" for outcome in _OUTCOMES if counts[outcome])
        terminalreporter.line(f"{suite:<12} {counts.total():>5}  ({told})")
    terminalreporter.line(f"{'all':<12} {sum(counts.total() for counts in suites.values()):>5}")


@pytest.fixture(scope="session")
def cluster(kubernetes_api: KubernetesApi) -> KubernetesApi:
    """A real API server that knows our kinds."""
    kubernetes_api.apply_crds(CRDS)
    return kubernetes_api


@pytest.fixture
def platform(cluster: KubernetesApi) -> Iterator[Platform]:
    """A cluster with nothing of ours in it, and nothing left in it afterwards."""
    with Platform.alone(cluster) as team:
        yield team
