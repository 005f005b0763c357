"""A deployed stack on moto and a real API server, put right after each test."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.infra.checks.world import World, deployed
from tests.servers.kubernetes import KubernetesApi, kubernetes_api


@pytest.fixture(scope="module")
def here(transformed: dict[str, Any]) -> Iterator[World]:
    """The stack, in the order in which `make smoke` should find it."""
    with deployed(transformed) as found:
        yield found


@pytest.fixture(autouse=True)
def _as_it_was(here: World) -> Iterator[None]:
    yield
    here.put_right()


@pytest.fixture(scope="module")
def bare() -> Iterator[KubernetesApi]:
    """An API server with nothing of ours."""
    with kubernetes_api() as api:
        yield api
