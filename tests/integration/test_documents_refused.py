"""One item that a Git server refuses costs the others nothing: neither their documents nor their conditions."""

import pytest

from infra.local.runtime import LocalRuntime
from tests.integration.documents import all_ready, failed, written
from tests.integration.platform_team import Platform
from tests.integration.test_documents import group
from tests.integration.test_first_ready import READY, declare_repository
from tests.servers.git import GitServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

SECRETS = """#!/bin/sh
while read old new ref; do
  git grep -q AKIA "$new" -- && { echo 'GH013: push protection: secret found' >&2; exit 1; }
done
exit 0
"""
TEAM_C = """#!/bin/sh
while read old new ref; do
  [ -n "$(git ls-tree "$new" destinations/team-c)" ] && { echo 'team-c has no place here' >&2; exit 1; }
done
exit 0
"""


async def test_a_refused_work_placement_fails_alone_and_the_others_stay_true(
    runtime: LocalRuntime, platform: Platform, git_server: GitServer
) -> None:
    repository = git_server.create_repository(hooks={"pre-receive": SECRETS})
    declare_repository(platform, git_server, repository)
    platform.destination("worker-1", "git/default")
    await platform.wait_ready("worker-1")
    for name in ("one", "two"):
        platform.work(name, group({"f.yaml": b"fine\n"}), promise=name)
    await all_ready(platform, 2)
    platform.work("bad", group({"f.yaml": b"key: AKIAIOSFODNN7EXAMPLE\n"}), promise="bad")
    platform.work("three", group({"f.yaml": b"fine\n"}), promise="three")
    assert "GH013: push protection: secret found" in await failed(platform, "bad.worker-1-5058f")
    await written(platform, "three.worker-1-5058f")
    await runtime.idle()
    files, commits = repository.tree(), len(repository.commits())
    assert {path.split("/")[3] for path in files if path.endswith("/f.yaml")} == {"one", "two", "three"}
    before = {name: platform.conditions("workplacements", f"{name}.worker-1-5058f") for name in ("one", "two", "three")}

    await runtime.resync()
    await runtime.idle()
    assert (repository.tree(), len(repository.commits())) == (files, commits)
    assert {name: platform.conditions("workplacements", f"{name}.worker-1-5058f") for name in before} == before
    assert platform.ready("worker-1") == READY
    assert "GH013" in await failed(platform, "bad.worker-1-5058f")

    platform.work("one", group({"f.yaml": b"an update\n"}), promise="one")
    platform.work("bad", group({"f.yaml": b"mended\n"}), promise="bad")
    await written(platform, "bad.worker-1-5058f")
    await runtime.idle()
    own = "destinations/worker-1/dependencies"
    assert repository.tree() == files | {
        f"{own}/one/5058f/f.yaml": b"an update\n",
        f"{own}/bad/5058f/f.yaml": b"mended\n",
    }


async def test_a_refused_destination_fails_alone_and_its_state_store_is_well(
    runtime: LocalRuntime, platform: Platform, git_server: GitServer
) -> None:
    repository = git_server.create_repository(hooks={"pre-receive": TEAM_C})
    declare_repository(platform, git_server, repository)
    for name in ("team-a", "team-b", "team-c", "team-d"):
        platform.destination(name, "git/default")
    for name in ("team-a", "team-b", "team-d"):
        await platform.wait_ready(name)
    assert "team-c has no place here" in await platform.wait_reason("team-c", "StateStoreWriteFailed")
    await runtime.idle()
    await runtime.resync()
    await runtime.idle()
    assert [platform.ready(name)[0] for name in ("team-a", "team-b", "team-c", "team-d")] == [
        "True",
        "True",
        "False",
        "True",
    ]
    assert "True" in platform.store_ready("git/default")
    repository.set_hook("pre-receive", None)
    await runtime.resync()
    await platform.wait_ready("team-c")
    await runtime.idle()
