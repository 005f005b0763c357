"""What every test may ask for."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.observability import flush_measured, metrics
from tests.integration.platform_team import Platform
from tests.servers.kubernetes import KubernetesApi

pytest_plugins = ["tests.servers.fixtures", "tests.reporting"]

ROOT = Path(__file__).parents[1]
CRDS = ROOT / "infra" / "kubernetes" / "crds"


# The tests that may come out otherwise on another Python (make compat): our own code and the libraries below it, from
# the pure modules to the writers on real servers; TLS, whose checks Python 3.13 made stricter; asyncio's time-outs and
# cancellation; processes and signals, as make demo and make run use them; and a Destination's whole way to Ready.
# The rest looks at the template, manifests and documents, which no Python changes, or repeats the flow in more
# situations. Every test module is imported all the same.
INTERPRETER = (
    "tests/unit/",
    "tests/contract/",
    "tests/functions/",
    "tests/infra/test_demo.py",
    "tests/infra/test_run.py",
    "tests/integration/test_bucket_faults.py",
    "tests/integration/test_bucket_network.py",
    "tests/integration/test_cluster_access.py",
    "tests/integration/test_first_ready.py",
    "tests/integration/test_flow_on_sqs.py",
    "tests/integration/test_forwarder.py",
    "tests/integration/test_git_transport.py",
    "tests/integration/test_kubernetes_calls.py",
)
# What they start is always the functions' own Python.
ANY_INTERPRETER = ("tests/functions/test_artifacts.py", "tests/functions/test_rie.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that depend on the interpreter."""
    for item in items:
        path = item.path.relative_to(ROOT).as_posix()
        if path.startswith(INTERPRETER) and path not in ANY_INTERPRETER:
            item.add_marker("interpreter")


@pytest.fixture(autouse=True)
def _nothing_measured_before() -> Iterator[None]:
    """Leave no metric to the next test: a handler's `log_metrics` clears them, a use case that is called alone not."""
    yield
    metrics.clear_metrics()
    flush_measured()


@pytest.fixture(scope="session")
def cluster(kubernetes_api: KubernetesApi) -> KubernetesApi:
    """A real API server that knows our kinds, and has the namespace of the Leases."""
    kubernetes_api.apply_crds(CRDS)
    made = kubernetes_api.request("POST", "/api/v1/namespaces", {"metadata": {"name": "landfall"}})
    assert made.status in {201, 409}, made
    return kubernetes_api


@pytest.fixture
def platform(cluster: KubernetesApi) -> Iterator[Platform]:
    """A cluster with nothing of ours in it, and nothing left in it afterwards."""
    with Platform.alone(cluster) as team:
        yield team
