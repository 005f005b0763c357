"""A thousand messages for one State Store beside two hundred deletions there: all wait for one Lease, and none is lost.

A message that waits for its turn is sent again (`shared/reconcile/leases.py`). Only one that fails is given back to its
queue, which counts how often, and ends it in the dead-letter queue.
"""

import asyncio
import functools

import pytest

from infra.local.queues import MemoryQueues
from infra.local.runtime import LocalRuntime
from tests.integration.documents import all_ready, declare_store, is_ready, side_by_side
from tests.integration.platform_team import Platform, named
from tests.integration.test_documents import CANARIES, group
from tests.servers.git import GitServer
from tests.servers.s3 import Minio

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIVE, WORKS, LEAVING = 100, 10, 200


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["git", "bucket"])
async def test_a_burst_beside_deletions_brings_no_message_nearer_to_the_dead_letter_queue_and_starves_none(
    runtime: LocalRuntime, platform: Platform, minio: Minio, git_server: GitServer, kind: str
) -> None:
    repository = git_server.create_repository()
    tree = declare_store(platform, kind, minio, git_server, repository)
    live, leaving = list(named("live", LIVE)), list(named("leaving", LEAVING))
    await side_by_side(
        functools.partial(
            platform.destination, name, f"{kind}/default", labels={"to": name.split("-")[0]}, cleanup=cleanup
        )
        for names, cleanup in ((live, "none"), (leaving, "all"))
        for name in names
    )
    await platform.until(lambda: _ready(platform) == LIVE + LEAVING, "all Ready", 180, lambda: _ready(platform))
    await runtime.idle()
    assert isinstance(runtime.queues, MemoryQueues)
    queues = runtime.queues.queues.values()
    returned, commits = {queue.name: queue.returned for queue in queues}, len(repository.commits())

    works = list(named("deps", WORKS))
    documents = {name: {f"{name}.yaml": f"of: {name}\n".encode()} for name in works}
    created = side_by_side(
        functools.partial(platform.work, name, group(documents[name], to="live"), promise=name) for name in works
    )
    deleted = side_by_side(functools.partial(platform.delete, "destinations", name) for name in leaving)
    await asyncio.gather(created, deleted)
    await all_ready(platform, LIVE * WORKS, seconds=240)
    await platform.until(lambda: set(platform.destinations()) == set(live), "the deletions done", 240)
    await runtime.idle()

    assert {queue.name: queue.returned for queue in queues} == returned
    if kind == "git":
        commits = len(repository.commits()) - commits
        print(f"{LIVE * WORKS} WorkPlacements written and {LEAVING} Destinations deleted in {commits} commits")
        assert 2 <= commits <= 60
    expected = {f"{name}/{path}": data for name in live for path, data in CANARIES.items()}
    for name in live:
        for work in works:
            own = f"{name}/dependencies/{work}/5058f"
            expected |= {f"{own}/{path}": data for path, data in documents[work].items()}
    assert tree() == expected


def _ready(platform: Platform) -> int:
    return sum(map(is_ready, platform.destinations().values()))
