"""What is recorded for people to read: Events on objects, and messages that no function can read.

See docs/contract.md#destination-conditions.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from infra.local.queues import MemoryQueues
from infra.local.runtime import LocalRuntime
from tests.integration.flow import running
from tests.integration.platform_team import Platform
from tests.integration.test_deletion import gone
from tests.integration.test_first_ready import declare_bucket
from tests.servers.git import GitServer
from tests.servers.kubernetes import KubernetesApi
from tests.servers.s3 import Minio

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runtime(cluster: KubernetesApi, git_server: GitServer) -> AsyncIterator[LocalRuntime]:
    async with running(cluster, git_server) as running_:
        yield running_


async def test_kubectl_describe_tells_what_happened(
    runtime: LocalRuntime, platform: Platform, minio: Minio, cluster: KubernetesApi
) -> None:
    kubectl = shutil.which("kubectl")
    assert kubectl, "kubectl is not installed: install it, people read Events with it"
    platform.destination("worker-1", "bucket/default")
    await platform.wait_reason("worker-1", "StateStoreNotFound")
    await runtime.idle()
    declare_bucket(platform, minio)
    await platform.wait_ready("worker-1")
    await runtime.idle()
    command = [kubectl, f"--kubeconfig={cluster.kubeconfig}", "describe", "destination", "worker-1"]
    described = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True, timeout=60)
    events = described.stdout[described.stdout.index("\nEvents:") :]
    print(events)
    lines = [re.split(r"\s{2,}", line.strip()) for line in events.splitlines()[4:]]
    # By the second is all that kubectl orders them.
    assert sorted((type_, reason, source, message) for type_, reason, _, source, message in lines) == [
        ("Normal", "DestinationReady", "landfall", "Destination is Ready"),
        ("Warning", "DestinationNotReady", "landfall", "BucketStateStore/default: not found"),
    ]


async def test_a_destination_that_stays_ready_records_no_further_event_however_often_it_is_looked_at(
    runtime: LocalRuntime, platform: Platform, minio: Minio
) -> None:
    declare_bucket(platform, minio)
    platform.destination("worker-1", "bucket/default")
    await platform.wait_ready("worker-1")
    for path in ("one", "two"):
        platform.destination("worker-1", "bucket/default", path=path)
        await runtime.idle()
        await runtime.resync()
        await runtime.idle()
    assert platform.ready("worker-1")[0] == "True"
    events = [event for event in platform.events("worker-1") if event[1] != "FilesLeftBehind"]
    assert events == [("Normal", "DestinationReady", "Destination is Ready", 1)]
    assert [event[3] for event in platform.events("default", "BucketStateStore")] == [1]


async def test_messages_that_nobody_can_read_go_alone_to_their_dead_letter_queues(
    runtime: LocalRuntime, platform: Platform, minio: Minio
) -> None:
    declare_bucket(platform, minio)
    await platform.wait_store("bucket/default", "StateStoreReady")
    poison = {
        "ChangesQueue": ['{"type": "ADDED", "object": {"kind": "Pod"}}', "not JSON"],
        "CanaryQueue": ['{"kind": "Destination"}', '{"kind": "Destination", "name": "x", "cluster": "elsewhere"}'],
        "CleanupQueue": ["[]"],
        "StatusQueue": ['{"reference": {}}'],
    }
    for queue, bodies in poison.items():
        await runtime.queues.send(queue, bodies)
    platform.destination("worker-1", "bucket/default", cleanup="all")
    await platform.wait_ready("worker-1")
    platform.delete("destinations", "worker-1")
    await gone(platform, "worker-1")
    assert isinstance(runtime.queues, MemoryQueues)
    aside = [queue for id_, queue in runtime.queues.queues.items() if "DeadLetter" in id_]
    await platform.until(lambda: sum(len(queue.messages) for queue in aside) == 6, "all of them put aside")
    assert await runtime.dead_letters() == {
        "changes-dead-letter": 2, "canary-dead-letter": 2, "cleanup-dead-letter": 1, "status-dead-letter": 1,
    }  # fmt: skip
    assert {name: pool.failures for name, pool in runtime.functions.items() if pool.failures} == {}
