"""status-report alone, on a real API server: in which order it writes, and what it does with repeats.

See docs/contract.md#destination-conditions.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from shared import conditions
from shared.deadline import Deadline
from shared.errors import StoreUnavailable
from shared.messages import Reference, Verdict
from shared.reconcile.connections import Connections
from shared.reconcile.reports import report
from shared.resources import Destination
from shared.settings import Settings
from tests.integration.by_hand import Sent
from tests.integration.kubernetes_proxy import kubernetes_proxy
from tests.integration.platform_team import Platform
from tests.servers.kubernetes import KubernetesApi

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module")
async def connections(cluster: KubernetesApi) -> AsyncIterator[Connections]:
    async with Connections(Settings(kubeconfig=cluster.kubeconfig)) as opened:
        yield opened


async def test_conditions_of_a_batch_wait_for_no_event(platform: Platform, cluster: KubernetesApi) -> None:
    verdicts: dict[str, Verdict] = {}
    for number in range(40):
        name = f"worker-{number}"
        platform.destination(name, "bucket/nowhere")
        obj = platform.get(name)
        assert obj is not None
        reference = Reference(kind="Destination", name=name, uid=obj["metadata"]["uid"], generation=1)
        verdicts[name] = conditions.destination_ready(reference, Destination.parse(obj))
    async with kubernetes_proxy(cluster) as proxy:
        kubeconfig = cluster.write_kubeconfig(cluster.token, url=proxy.url)
        async with Connections(Settings(kubeconfig=kubeconfig)) as connections:
            assert await report(verdicts, connections, Deadline.after(60)) == {}
        writes = [asked.resource for asked in proxy.asked if asked.verb in {"patch", "create"}]
    assert writes == ["destinations/status"] * 40 + ["events"] * 40


async def test_100_retries_of_one_failure_are_one_event_with_a_count_and_ready_adds_one_for_good(
    platform: Platform, connections: Connections
) -> None:
    platform.destination("worker-1", "bucket/nowhere")
    obj = platform.get("worker-1")
    assert obj is not None
    destination = Destination.parse(obj)
    reference = Reference(kind="Destination", name="worker-1", uid=obj["metadata"]["uid"], generation=1)
    why = StoreUnavailable("bucket b at host did not answer within 20 s")

    def failed(number: int) -> dict[str, Verdict]:
        verdict = conditions.destination_failed(reference, destination.spec.state_store_ref, why)
        return {f"message-{number}": verdict}

    connections.queues = Sent(connections.settings)  # what turned is decided once more
    for number in range(95):
        assert await report(failed(number), connections, Deadline.after(60)) == {}
    # And some at the same time, as several containers do it.
    results = await asyncio.gather(*(report(failed(n), connections, Deadline.after(60)) for n in range(95, 100)))
    assert results == [{}] * 5
    message = f"Failed to write test documents to State Store: {why}"
    mine = [event for event in platform.events("worker-1") if event[2] == message]
    assert mine == [("Warning", "DestinationNotReady", message, 100)]

    now = platform.get("worker-1")
    assert now is not None
    ready = conditions.destination_ready(reference, destination).seeing(now)
    for number in range(10):
        assert await report({f"ready-{number}": ready}, connections, Deadline.after(60)) == {}
    assert ("Normal", "DestinationReady", "Destination is Ready", 1) in platform.events("worker-1")
