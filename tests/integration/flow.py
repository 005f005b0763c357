"""The whole flow with its seams laid bare: functions behind a Kubernetes proxy, and every queue message on record."""

import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest_asyncio

from infra.local.kubernetes_access import ClusterAccess
from infra.local.queues import MemoryQueues
from infra.local.runtime import LocalRuntime
from infra.local.sources import Message
from tests.integration.conftest import environment
from tests.integration.kubernetes_proxy import KubernetesProxy
from tests.servers.git import GitServer
from tests.servers.kubernetes import KubernetesApi


@contextlib.asynccontextmanager
async def running(
    cluster: KubernetesApi, git_server: GitServer, proxy: KubernetesProxy | None = None, **variables: str
) -> AsyncIterator[LocalRuntime]:
    """Run the flow; its functions see the cluster through the proxy, its forwarder directly."""
    kubeconfig = cluster.kubeconfig if proxy is None else cluster.write_kubeconfig(cluster.token, url=proxy.url)
    access = await ClusterAccess.from_kubeconfig(cluster.kubeconfig, None)
    try:
        async with LocalRuntime(
            kubeconfig=kubeconfig,
            access=access,
            environment={**environment(git_server), **variables},
            resync_seconds=0,
            first_redelivery_seconds=0.3,
        ) as runtime:
            yield runtime
    finally:
        await access.close()


def behind_proxy(**variables: str) -> Any:
    """Return a module's fixture `runtime`: the flow, its functions seeing the cluster through `api_proxy`."""

    @pytest_asyncio.fixture(scope="module", loop_scope="module")
    async def runtime(
        cluster: KubernetesApi, git_server: GitServer, api_proxy: KubernetesProxy
    ) -> AsyncIterator[LocalRuntime]:
        async with running(cluster, git_server, api_proxy, **variables) as running_:
            yield running_

    return runtime


@dataclass
class Tap:
    """What was sent to queues in memory since the tap was opened: by queue, in order, as text."""

    sent: dict[str, list[str]] = field(default_factory=dict)

    def of(self, queue: str) -> list[dict[str, Any]]:
        """Return the messages of one queue, read."""
        return [json.loads(body) for body in self.sent.get(queue, ())]

    def clear(self) -> None:
        """Forget what was sent so far."""
        self.sent.clear()


@contextlib.contextmanager
def tapped(runtime: LocalRuntime) -> Iterator[Tap]:
    """Listen to all queues of a runtime, whoever sends."""
    assert isinstance(runtime.queues, MemoryQueues)
    tap = Tap()

    def listen(id_: str, send: Callable[[Message, float], None]) -> Callable[[Message, float], None]:
        def listening(message: Message, delay_seconds: float = 0) -> None:
            tap.sent.setdefault(id_, []).append(message.body)
            send(message, delay_seconds)

        return listening

    for id_, queue in runtime.queues.queues.items():
        queue.__dict__["send"] = listen(id_, queue.send)
    try:
        yield tap
    finally:
        for queue in runtime.queues.queues.values():
            del queue.__dict__["send"]


async def put_on(runtime: LocalRuntime, queue: str, *messages: Mapping[str, Any]) -> None:
    """Put messages on a queue by hand."""
    await runtime.queues.send(queue, [json.dumps(message) for message in messages])


def invocations(runtime: LocalRuntime) -> dict[str, int]:
    """Return how often each function has been invoked."""
    return {name: pool.invocations for name, pool in runtime.functions.items()}
