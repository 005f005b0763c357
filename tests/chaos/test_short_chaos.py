"""The short form of `make chaos`: everything that it does, for twenty seconds."""

import os
import random
from pathlib import Path

import pytest

from tests.chaos.run import chaos
from tests.chaos.world import world
from tests.integration.platform_team import Platform
from tests.servers.git import GitServer
from tests.servers.proxy import Toxiproxy
from tests.servers.s3 import Minio


@pytest.mark.timeout(400)
async def test_after_twenty_seconds_of_chaos_and_one_resync_the_world_is_as_the_objects_say(
    platform: Platform, minio: Minio, git_server: GitServer, toxiproxy: Toxiproxy, tmp_path: Path
) -> None:
    seed = int(os.environ.get("SEED") or random.randrange(10**6))
    print(f"to repeat it: SEED={seed}")
    with world(platform.api, minio, git_server, toxiproxy) as shaken:
        report = await chaos(shaken, seconds=20, seed=seed, names=14, log=tmp_path / "functions.log")
    print(report)
    assert report.journal.operations.total() > 30, "too little was done to prove anything"
    assert report.journal.faults.total() > 20, "too little went wrong to prove anything"
    assert not report.differences, "\n".join(report.differences)
    assert len(report.rounds) == 1, "one resync must be enough"
