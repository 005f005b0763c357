"""Documents and placements follow what is now, whatever was changed by hand, moved or lost.

See docs/contract.md#deletion, #documents, #scheduling.
"""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator

import pytest

from infra.local.runtime import LocalRuntime
from tests.integration.documents import (
    all_ready,
    declare_store,
    failed,
    misplaced,
    placements,
    work_says,
    written,
)
from tests.integration.platform_team import Platform
from tests.integration.test_deletion import gone
from tests.integration.test_documents import CANARIES, group
from tests.integration.test_first_ready import declare_bucket, declare_repository
from tests.servers.git import GitServer
from tests.servers.s3 import Minio

pytestmark = pytest.mark.asyncio(loop_scope="module")

REPO_FINALIZER = "finalizers.workplacement.kratix.io/repo-cleanup"
DOT_FILES_FINALIZER = "finalizers.workplacement.kratix.io/kratix-dot-files-cleanup"


def nested(work: str, content: bytes = b"a\n", destination: str = "worker-1") -> dict[str, bytes]:
    """Return a Destination's files with a dependency's only document among them."""
    canaries = {f"{destination}/{path}": canary for path, canary in CANARIES.items()}
    return canaries | {f"{destination}/dependencies/{work}/5058f/a.yaml": content}


async def test_resync_brings_documents_back_and_leaves_strangers_files_alone(
    runtime: LocalRuntime, platform: Platform, minio: Minio, git_server: GitServer
) -> None:
    bucket, repository = declare_bucket(platform, minio), git_server.create_repository()
    declare_repository(platform, git_server, repository)
    modes = {"nested": "nestedByMetadata", "flat": "none", "one": "aggregatedYAML"}
    for kind in ("bucket", "git"):
        for name, mode in modes.items():
            platform.destination(f"{name}-{kind}", f"{kind}/default", path=name, filepath={"mode": mode})
    platform.work("w", group({"a.yaml": b"a\n", "b.yaml": b"b\n"}), promise="p")
    await all_ready(platform, 6)
    for kind in ("bucket", "git"):
        for name in modes:
            await platform.wait_ready(f"{name}-{kind}")
    await runtime.idle()
    before = {"bucket": minio.objects(bucket), "git": repository.tree()}
    root = "destinations/"
    own = f"{root}nested/dependencies/p/5058f"
    damage: dict[str, bytes | None] = {
        f"{own}/a.yaml": b"edited: by hand\n",
        f"{own}/b.yaml": None,
        f"{own}/ours.yaml": b"in a directory that we own\n",
        f"{root}flat/a.yaml": b"edited: by hand\n",
        f"{root}flat/b.yaml": None,
        f"{root}one/aggregated.yaml": b"edited: by hand\n",
    }
    strangers: dict[str, bytes] = {
        f"{root}nested/dependencies/p/other.yaml": b"1\n",
        f"{root}nested/mine/a.yaml": b"2\n",
        f"{root}flat/mine.yaml": b"3\n",
        f"{root}flat/.kratix/mine.yaml": b"4\n",
        f"{root}one/mine.yaml": b"5\n",
        "outside.yaml": b"6\n",
    }
    by_hand = {**damage, **strangers}
    repository.commit_files(by_hand)
    for path, content in by_hand.items():
        if content is None:
            minio.delete(bucket, path)
        else:
            minio.put(bucket, path, content)
    await runtime.resync()
    await runtime.idle()
    assert minio.objects(bucket) == before["bucket"] | strangers
    assert repository.tree() == before["git"] | strangers
    commits = len(repository.commits())
    await runtime.resync()
    await runtime.idle()
    assert len(repository.commits()) == commits, "what is as it should be costs no commit"
    repository.commit_files({f"{root}flat/.kratix/default-w.flat-git-5058f.yaml": b"files: 7\n"})
    await runtime.resync()
    assert ".kratix/" in await failed(platform, "w.flat-git-5058f"), "by a broken record nothing is deleted"
    repository.commit_files({f"{root}flat/.kratix/default-w.flat-git-5058f.yaml": None})
    await runtime.resync()
    await written(platform, "w.flat-git-5058f")
    assert repository.tree() == before["git"] | strangers
    await runtime.idle()


async def test_a_deleted_destination_takes_its_placements_along_and_none_comes_back(
    runtime: LocalRuntime, platform: Platform, minio: Minio, git_server: GitServer
) -> None:
    tree = declare_store(platform, "git", minio, git_server)
    for name in ("leaving", "staying"):
        platform.destination(name, "git/default", labels={"env": "dev"}, cleanup="all")
        await platform.wait_ready(name)
    platform.work("deps", group({"a.yaml": b"a\n"}), promise="p")
    await all_ready(platform, 2)
    platform.delete("destinations", "leaving")
    await gone(platform, "leaving")
    await runtime.idle()
    assert set(placements(platform)) == {"deps.staying-5058f"}
    assert tree() == nested("p", destination="staying")
    await work_says(platform, "deps", "AllWorkplacementsScheduled")


async def test_what_leaves_a_destination_whose_path_is_anothers_takes_nothing_of_that_one_along(
    runtime: LocalRuntime, platform: Platform, minio: Minio, git_server: GitServer
) -> None:
    tree = declare_store(platform, "git", minio, git_server)
    platform.destination("older", "git/default", path="worker-1")
    await platform.wait_ready("older")
    platform.work("deps", group({"a.yaml": b"a\n"}), promise="p")
    await written(platform, "deps.older-5058f")
    platform.destination("younger", "git/default", path="worker-1", cleanup="all")
    assert "cannot be written to" in await failed(platform, "deps.younger-5058f")
    assert tree() == nested("p")
    platform.delete("destinations", "younger")
    await gone(platform, "younger")
    await runtime.idle()
    assert set(placements(platform)) == {"deps.older-5058f"}
    assert tree() == nested("p")
    await work_says(platform, "deps", "AllWorkplacementsScheduled")


async def test_a_destination_that_goes_without_cleanup_leaves_its_placements_and_takes_them_up_again(
    runtime: LocalRuntime, platform: Platform, minio: Minio, git_server: GitServer
) -> None:
    tree = declare_store(platform, "bucket", minio, git_server)
    platform.destination("worker-1", "bucket/default")
    platform.work("deps", group({"a.yaml": b"a\n"}), promise="p")
    name = "deps.worker-1-5058f"
    await written(platform, name)
    await platform.wait_ready("worker-1")
    platform.delete("destinations", "worker-1")
    await misplaced(platform, name)
    await runtime.idle()
    assert tree() == nested("p")
    platform.destination("worker-1", "bucket/default")
    finalizers = (platform.object("workplacements", name) or {})["metadata"].get("finalizers")
    assert finalizers == [REPO_FINALIZER], "only what is being deleted loses one"
    await written(platform, name)
    platform.delete_object("works", "deps")
    await platform.until(lambda: platform.object("workplacements", name) is None, "placement gone")
    assert tree() == {f"worker-1/{path}": canary for path, canary in CANARIES.items()}
    await runtime.idle()


async def test_a_placement_of_a_destination_that_is_gone_can_be_deleted_even_where_events_were_lost(
    runtime: LocalRuntime, platform: Platform, minio: Minio, git_server: GitServer
) -> None:
    declare_store(platform, "bucket", minio, git_server)
    platform.destination("worker-1", "bucket/default", filepath={"mode": "none"})
    platform.work("deps", group({"a.yaml": b"a\n"}), promise="p")
    name = "deps.worker-1-5058f"
    await written(platform, name)
    placement = platform.object("workplacements", name)
    assert placement is not None
    assert set(placement["metadata"]["finalizers"]) == {REPO_FINALIZER, DOT_FILES_FINALIZER}
    await runtime.idle()
    await runtime.forwarder.stop()
    try:
        platform.delete("destinations", "worker-1")
        platform.delete_object("works", "deps")
        platform.delete_object("workplacements", name)
        await runtime.resync()
        await platform.until(lambda: platform.object("workplacements", name) is None, "placement gone")
        await platform.until(lambda: platform.object("works", "deps") is None, "Work gone")
        await runtime.idle()
    finally:
        runtime.forwarder.start()
    await runtime.idle()


@pytest.mark.parametrize("mode", ["nestedByMetadata", "none"])
async def test_a_placement_deleted_by_hand_comes_back_with_its_documents(
    runtime: LocalRuntime, platform: Platform, minio: Minio, git_server: GitServer, mode: str
) -> None:
    tree = declare_store(platform, "git", minio, git_server)
    platform.destination("worker-1", "git/default", filepath={"mode": mode})
    platform.work("deps", group({"a.yaml": b"a\n"}), promise="p")
    name = "deps.worker-1-5058f"
    await written(platform, name)
    await platform.wait_ready("worker-1")
    await runtime.idle()
    before, uid = tree(), (platform.object("workplacements", name) or {})["metadata"]["uid"]
    platform.delete_object("workplacements", name)
    await platform.until(
        lambda: (platform.object("workplacements", name) or {"metadata": {}})["metadata"].get("uid") not in {None, uid},
        "created again",
    )
    await written(platform, name)
    assert tree() == before
    await runtime.idle()


@pytest.mark.parametrize("mode", ["nestedByMetadata", "none", "aggregatedYAML"])
async def test_documents_go_to_a_destinations_new_path(
    runtime: LocalRuntime, platform: Platform, minio: Minio, git_server: GitServer, mode: str
) -> None:
    tree = declare_store(platform, "bucket", minio, git_server)
    platform.destination("worker-1", "bucket/default", path="old", filepath={"mode": mode})
    platform.work("deps", group({"a.yaml": b"a\n"}), promise="p")
    await written(platform, "deps.worker-1-5058f")
    await platform.wait_ready("worker-1")
    await runtime.idle()
    old = {path.removeprefix("old/"): content for path, content in tree().items()}
    if mode == "none":
        record = ".kratix/default-deps.worker-1-5058f.yaml"
        old[record] = old[record].replace(b"- old/a.yaml", b"- new/a.yaml")
    platform.destination("worker-1", "bucket/default", path="new")

    def new() -> dict[str, bytes]:
        found = tree()
        return {path.removeprefix("new/"): found[path] for path in found if path.startswith("new/")}

    await platform.until(lambda: new() == old, "everything at the new path", seen=new)
    await runtime.idle()
    platform.delete_object("works", "deps")
    await platform.until(lambda: platform.object("workplacements", "deps.worker-1-5058f") is None, "placement gone")
    assert len(new()) == 2, "only canaries"
    await runtime.idle()


async def test_groups_that_a_work_has_no_longer_go_with_their_files(
    runtime: LocalRuntime, platform: Platform, minio: Minio, git_server: GitServer
) -> None:
    tree = declare_store(platform, "git", minio, git_server)
    platform.destination("worker-1", "git/default")
    other = group({"b.yaml": b"b\n"}, "0ther0ther")
    platform.work("deps", group({"a.yaml": b"a\n"}), other, promise="p")
    await all_ready(platform, 2)
    assert tree()["worker-1/dependencies/p/0ther/b.yaml"] == b"b\n"
    platform.work("deps", group({"a.yaml": b"a\n"}), promise="p")
    await platform.until(lambda: set(placements(platform)) == {"deps.worker-1-5058f"}, "the other one gone")
    await platform.wait_ready("worker-1")
    assert tree() == nested("p")
    await runtime.idle()


@contextlib.asynccontextmanager
async def killed_at_work(runtime: LocalRuntime, *names: str) -> AsyncIterator[list[str]]:
    """Kill each of the functions once or twice, whenever it is at work; yield who has been killed."""
    killed: list[str] = []

    async def kill() -> None:
        while True:
            for name in names:
                for pid in {worker.pid for worker in runtime.functions[name].at_work}:
                    if pid and killed.count(name) < 2:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                            killed.append(name)
            await asyncio.sleep(0.05)

    task = asyncio.create_task(kill())
    try:
        yield killed
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("kind", ["bucket", "git"])
async def test_updates_of_a_work_while_functions_are_killed_end_in_its_last_documents(
    runtime: LocalRuntime, platform: Platform, minio: Minio, git_server: GitServer, kind: str
) -> None:
    tree = declare_store(platform, kind, minio, git_server)
    for number in (1, 2):
        platform.destination(f"worker-{number}", f"{kind}/default")
        await platform.wait_ready(f"worker-{number}")
    await runtime.idle()
    victims = {"on-work-change", "write-documents", "status-report"}
    end = time.monotonic() + 60
    round_ = 0
    async with killed_at_work(runtime, *victims) as killed:
        while round_ < 10 or not victims <= set(killed):
            assert time.monotonic() < end, f"killed so far: {killed}"
            round_ += 1
            files = {f"{n}.yaml": b"round: %d\n" % round_ for n in range(round_, round_ + 5)}
            await asyncio.to_thread(platform.work, "deps", group(files), promise="p")
            await asyncio.sleep(0.2)
    last = {f"dependencies/p/5058f/{n}.yaml": b"round: %d\n" % round_ for n in range(round_, round_ + 5)}
    expected = {f"worker-{n}/{path}": content for n in (1, 2) for path, content in (CANARIES | last).items()}
    await platform.until(lambda: tree() == expected, f"the documents of round {round_}", 60, tree)
    await all_ready(platform, 2)
    await work_says(platform, "deps", "AllWorkplacementsScheduled")
    assert await runtime.dead_letters() == {}
    await runtime.idle()
