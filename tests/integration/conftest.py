"""The whole of Landfall beside real servers: one runtime for a module, one clean cluster for a test."""

import os
from collections.abc import AsyncIterator

import pytest_asyncio

from infra.local.runtime import LocalRuntime
from tests.integration.kubernetes_proxy import KubernetesProxy, kubernetes_proxy
from tests.servers.git import GitServer
from tests.servers.kubernetes import KubernetesApi


def environment(git_server: GitServer) -> dict[str, str]:
    """Return what the functions need to reach servers on this very machine."""
    return {
        "LANDFALL_ALLOWED_NETWORKS": "127.0.0.0/8,::1/128",
        "LANDFALL_CA_BUNDLE": str(git_server.ca),
        "LANDFALL_RETRY_DELAYS_SECONDS": "1,1,1,2,2,2,5,5,5",
        "LANDFALL_FIRST_SEEN_DELAY_SECONDS": "2",
        "LANDFALL_STORE_TIMEOUT_SECONDS": "5",
        "LANDFALL_STORE_DEADLINE_SECONDS": "20",
        "LANDFALL_RESERVE_SECONDS": "2",
        "AWS_ACCESS_KEY_ID": os.environ.get("AWS_ACCESS_KEY_ID", "local"),
        "AWS_SECRET_ACCESS_KEY": os.environ.get("AWS_SECRET_ACCESS_KEY", "local"),
        "AWS_REGION": "us-east-1",
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runtime(cluster: KubernetesApi, git_server: GitServer) -> AsyncIterator[LocalRuntime]:
    """The forwarder, the queues and the functions, as `make run` starts them."""
    async with LocalRuntime(
        kubeconfig=cluster.kubeconfig, environment=environment(git_server), resync_seconds=0
    ) as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api_proxy(cluster: KubernetesApi) -> AsyncIterator[KubernetesProxy]:
    """What is between the functions and the cluster, where a module's runtime is `flow.behind_proxy`."""
    async with kubernetes_proxy(cluster) as proxy:
        yield proxy
