"""Many documents and large ones, in one commit or one round of puts.

See docs/failure-modes.md#1-concurrent-pushes, #9-large-repositories, #11-keys-and-prefixes.
"""

import functools
import random
import time

import pytest

from infra.local.runtime import LocalRuntime
from tests.integration.documents import all_ready, declare_store, placements, side_by_side, work_says, written
from tests.integration.flow import invocations
from tests.integration.platform_team import Platform, named
from tests.integration.test_documents import CANARIES, group
from tests.servers.git import GitServer
from tests.servers.s3 import Minio

pytestmark = pytest.mark.asyncio(loop_scope="module")

WORKS, DESTINATIONS, FILES = 25, 20, 5


def documents_of(work: str) -> dict[str, bytes]:
    return {f"{work}-{number}.yaml": f"{work}: {number}\n".encode() * 20 for number in range(FILES)}


@pytest.mark.parametrize("kind", ["git", "bucket"])
async def test_500_placements_of_20_destinations_are_all_ready_and_no_file_is_lost(
    runtime: LocalRuntime, platform: Platform, minio: Minio, git_server: GitServer, kind: str
) -> None:
    repository = git_server.create_repository()
    tree = declare_store(platform, kind, minio, git_server, repository)
    destinations = list(named("worker", DESTINATIONS))
    works = list(named("deps", WORKS))
    await side_by_side(functools.partial(platform.destination, name, f"{kind}/default") for name in destinations)
    for name in destinations:
        await platform.wait_ready(name)
    await runtime.idle()
    commits, before = len(repository.commits()), invocations(runtime)
    began = time.monotonic()
    await side_by_side(
        functools.partial(platform.work, name, group(documents_of(name)), promise=name) for name in works
    )
    created = time.monotonic()
    await all_ready(platform, WORKS * DESTINATIONS, seconds=120)
    ready = time.monotonic()
    commits = len(repository.commits()) - commits
    invoked = {name: count - before[name] for name, count in invocations(runtime).items() if count > before[name]}
    print(
        f"{WORKS} Works created in {created - began:.1f} s, {WORKS * DESTINATIONS} placements on {kind} Ready after"
        f" {ready - began:.1f} s, {commits} commits, invocations {invoked}"
    )
    if kind == "git":
        assert 1 <= commits < 20
    expected = {f"{name}/{path}": content for name in destinations for path, content in CANARIES.items()}
    for destination in destinations:
        for work in works:
            own = f"{destination}/dependencies/{work}/5058f"
            expected |= {f"{own}/{path}": content for path, content in documents_of(work).items()}
    assert tree() == expected
    for work in works:
        await work_says(platform, work, "AllWorkplacementsScheduled")
    versions = {obj["status"]["versionID"] for obj in placements(platform).values()}
    if kind == "git":
        assert versions <= {commit.sha for commit in repository.commits()}
    await runtime.idle()


@pytest.mark.parametrize("kind", ["git", "bucket"])
async def test_placements_of_1000_files_make_a_destination_of_10000(
    runtime: LocalRuntime, platform: Platform, minio: Minio, git_server: GitServer, kind: str
) -> None:
    count = 10 if kind == "git" else 3  # a put an object takes its time
    tree = declare_store(platform, kind, minio, git_server)
    platform.destination("worker-1", f"{kind}/default")
    await platform.wait_ready("worker-1")
    files = {f"{number // 100:02}/file-{number:03}.yaml": b"number: %d\n" % number for number in range(1000)}
    began = time.monotonic()
    platform.work("deps-0", group(files), promise="deps-0")
    await written(platform, "deps-0.worker-1-5058f", seconds=90)
    one = time.monotonic()
    works = [f"deps-{number}" for number in range(count)]
    await side_by_side(functools.partial(platform.work, name, group(files), promise=name) for name in works[1:])
    await all_ready(platform, count, seconds=180)
    ten = time.monotonic()
    expected = {f"worker-1/{path}": content for path, content in CANARIES.items()}
    for name in works:
        expected |= {f"worker-1/dependencies/{name}/5058f/{path}": content for path, content in files.items()}
    assert tree() == expected
    changed = {path: content for path, content in files.items() if path != "00/file-000.yaml"}
    changed["00/file-001.yaml"] = b"number: one\n"
    update = time.monotonic()
    platform.work("deps-1", group(changed), promise="deps-1")
    del expected["worker-1/dependencies/deps-1/5058f/00/file-000.yaml"]
    expected["worker-1/dependencies/deps-1/5058f/00/file-001.yaml"] = b"number: one\n"

    def is_written() -> bool:
        conditions = platform.conditions("workplacements", "deps-1.worker-1-5058f")
        return any(c["type"] == "WriteSucceeded" and c["observedGeneration"] == 2 for c in conditions)

    await platform.until(is_written, "one changed and one removed", 60)
    updated = time.monotonic()
    assert tree() == expected
    print(
        f"{kind}: 1,000 files {one - began:.1f} s, {count - 1},000 more {ten - one:.1f} s,"
        f" one changed and one removed {updated - update:.1f} s"
    )
    await runtime.idle()


@pytest.mark.parametrize("kind", ["git", "bucket"])
async def test_an_object_of_900_kb_that_cannot_be_compressed_is_written_byte_for_byte(
    runtime: LocalRuntime, platform: Platform, minio: Minio, git_server: GitServer, kind: str
) -> None:
    tree = declare_store(platform, kind, minio, git_server)
    platform.destination("worker-1", f"{kind}/default")
    await platform.wait_ready("worker-1")
    content = random.Random(5).randbytes(675_000)  # 900 KB in base64
    began = time.monotonic()
    platform.work("deps", group({"large.bin": content}), promise="deps")
    await written(platform, "deps.worker-1-5058f")
    print(f"{kind}: 900 KB in {time.monotonic() - began:.1f} s")
    assert tree()["worker-1/dependencies/deps/5058f/large.bin"] == content
    await work_says(platform, "deps", "AllWorkplacementsScheduled")
    platform.delete_object("works", "deps")
    await platform.until(lambda: not placements(platform), "placement gone")
    assert tree() == {f"worker-1/{path}": canary for path, canary in CANARIES.items()}
    await runtime.idle()
