"""What every test may ask for."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.platform_team import Platform
from tests.servers.kubernetes import KubernetesApi

pytest_plugins = ["tests.servers.fixtures", "tests.reporting"]

CRDS = Path(__file__).parents[1] / "infra" / "kubernetes" / "crds"


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
