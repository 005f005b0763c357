"""Bad documents fail alone, in words, and lose nobody a file.

See docs/contract.md#refusals, docs/failure-modes.md#7-items-of-a-batch, #8-file-against-directory, #25-paths-and-sizes.
"""

import base64
import gzip
from typing import Any

import pytest

from infra.local.runtime import LocalRuntime
from tests.integration.documents import declare_store, failed, work_says, written
from tests.integration.platform_team import Platform
from tests.integration.test_documents import CANARIES, FLAT_CANARIES, group, packed
from tests.servers.git import GitServer
from tests.servers.s3 import Minio

pytestmark = pytest.mark.asyncio(loop_scope="module")


def bomb() -> str:
    """Return 768 MiB of zeros in 1 MB of base64: gzip's most, as members that are joined."""
    member = gzip.compress(bytes(1 << 24))
    return base64.b64encode(member * 48).decode()


def workload(filepath: str, content: str = "") -> dict[str, str]:
    return {"filepath": filepath, "content": content or packed(b"a: 1\n")}


def raw(*workloads: dict[str, str]) -> dict[str, Any]:
    return {**group({}), "workloads": list(workloads)}


# Each with the words that its sentence must have: what is wrong, and what to do.
BAD = {
    "bomb": (raw(workload("bomb.yaml", bomb())), ("'bomb.yaml'", "inflates to over 16777216 bytes", "split")),
    "base64": (raw(workload("x.yaml", "%%%")), ("'x.yaml'", "is not base64", "write base64 of gzip")),
    "plain": (raw(workload("x.yaml", base64.b64encode(b"a: 1").decode())), ("'x.yaml'", "is not gzip", "write")),
    "cut": (
        raw(workload("x.yaml", base64.b64encode(gzip.compress(b"a" * 99)[:-9]).decode())),
        ("'x.yaml'", "is cut off", "write all"),
    ),
    "up": (raw(workload("../../other/x.yaml")), ("'..'", "workloads[0].filepath", "write the path itself")),
    "absolute": (raw(workload("/etc/x.yaml")), ("is absolute", "without the leading /")),
    "git": (raw(workload("a/.git/config")), ("'.git'", "choose another name")),
    "empty": (raw(workload("")), ("names no file", "write a file name")),
    "control": (raw(workload("a\nb.yaml")), ("control character", "remove it")),
    "way": (raw(workload("a"), workload("a/b.yaml")), ("'", "a/b.yaml", "needs a directory")),
    "twice": (raw(workload("a.yaml"), workload("./a.yaml")), ("is there twice", "rename")),
}


@pytest.mark.parametrize("kind", ["bucket", "git"])
async def test_bad_placements_among_good_ones_fail_alone_with_a_sentence_and_heal_when_they_are_mended(
    runtime: LocalRuntime, platform: Platform, minio: Minio, git_server: GitServer, kind: str
) -> None:
    tree = declare_store(platform, kind, minio, git_server)
    platform.destination("worker-1", f"{kind}/default")
    await platform.wait_ready("worker-1")
    good = [f"good-{number}" for number in range(5)]
    for name in (*good[:3], *BAD, *good[3:]):
        platform.work(name, BAD[name][0] if name in BAD else group({"a.yaml": b"good\n"}), promise=name)
    for name, (_, words) in BAD.items():
        why = await failed(platform, f"{name}.worker-1-5058f", seconds=60)
        assert all(word in why for word in words), f"{name}: {why}"
    for name in good:
        await written(platform, f"{name}.worker-1-5058f")
    expected = {f"worker-1/{path}": content for path, content in CANARIES.items()}
    expected |= {f"worker-1/dependencies/{name}/5058f/a.yaml": b"good\n" for name in good}
    assert tree() == expected
    for name in BAD:
        assert await work_says(platform, name, "WorkplacementsFailing") == (
            f"Workplacements failed to write: [{name}.worker-1-5058f]"
        )
    await runtime.idle()
    for name in BAD:
        (event,) = [e for e in platform.events(f"{name}.worker-1-5058f", "WorkPlacement") if e[0] == "Warning"]
        assert event[:2] == ("Warning", "FailedWriteToDestination")
        assert event[2].startswith("error writing to destination; check kubectl get destination for more info: ")
    assert platform.ready("worker-1")[0] == "True"
    for name in BAD:
        platform.work(name, group({"a.yaml": b"mended\n"}), promise=name)
    for name in BAD:
        await written(platform, f"{name}.worker-1-5058f")
        await work_says(platform, name, "AllWorkplacementsScheduled")
    assert tree() == expected | {f"worker-1/dependencies/{name}/5058f/a.yaml": b"mended\n" for name in BAD}
    await runtime.idle()


@pytest.mark.parametrize("kind", ["bucket", "git"])
async def test_a_bad_update_leaves_the_last_good_documents_and_a_bad_placement_can_be_deleted(
    runtime: LocalRuntime, platform: Platform, minio: Minio, git_server: GitServer, kind: str
) -> None:
    tree = declare_store(platform, kind, minio, git_server)
    platform.destination("worker-1", f"{kind}/default")
    for name in ("updated", "other"):
        platform.work(name, group({"a.yaml": b"good\n"}), promise=name)
        await written(platform, f"{name}.worker-1-5058f")
    platform.work("updated", BAD["bomb"][0], promise="updated")
    assert "inflates" in await failed(platform, "updated.worker-1-5058f")
    canaries = {f"worker-1/{path}": content for path, content in CANARIES.items()}
    others = {"worker-1/dependencies/other/5058f/a.yaml": b"good\n"}
    await platform.wait_ready("worker-1")
    assert tree() == canaries | others | {"worker-1/dependencies/updated/5058f/a.yaml": b"good\n"}
    platform.delete_object("works", "updated")
    await platform.until(lambda: platform.object("workplacements", "updated.worker-1-5058f") is None, "gone")
    assert tree() == canaries | others
    await runtime.idle()


@pytest.mark.parametrize("kind", ["bucket", "git"])
async def test_in_mode_none_a_path_has_one_owner_and_goes_to_the_next_when_that_one_goes(
    runtime: LocalRuntime, platform: Platform, minio: Minio, git_server: GitServer, kind: str
) -> None:
    tree = declare_store(platform, kind, minio, git_server)
    platform.destination("worker-1", f"{kind}/default", filepath={"mode": "none"})
    await platform.wait_ready("worker-1")
    platform.work("first", group({"shared.yaml": b"first\n", "first.yaml": b"1\n"}), promise="p")
    await written(platform, "first.worker-1-5058f")
    await runtime.idle()
    platform.work("second", group({"shared.yaml": b"second\n", "second.yaml": b"2\n"}), promise="p")
    platform.work("third", group({"third.yaml": b"3\n"}), promise="p")
    platform.work("under", group({"first.yaml/below.yaml": b"4\n"}), promise="p")
    platform.work("canary", group({"kratix-canary-namespace.yaml": b"mine\n"}), promise="p")
    platform.work("record", group({".kratix/default-first.worker-1-5058f.yaml": b"files: []\n"}), promise="p")
    why = await failed(platform, "second.worker-1-5058f")
    assert "'shared.yaml'" in why
    assert "default/second.worker-1-5058f" in why
    assert "default/first.worker-1-5058f" in why
    assert "first.yaml" in await failed(platform, "under.worker-1-5058f")
    assert "system's own" in await failed(platform, "canary.worker-1-5058f")
    assert "system's own" in await failed(platform, "record.worker-1-5058f")
    await written(platform, "third.worker-1-5058f")

    def files() -> dict[str, bytes]:
        found = {path.removeprefix("worker-1/"): content for path, content in tree().items()}
        return {path: content for path, content in found.items() if not path.startswith(".kratix/")}

    assert files() == FLAT_CANARIES | {"shared.yaml": b"first\n", "first.yaml": b"1\n", "third.yaml": b"3\n"}
    await runtime.idle()
    platform.delete_object("works", "first")
    await written(platform, "second.worker-1-5058f")
    await platform.until(lambda: platform.object("workplacements", "first.worker-1-5058f") is None, "first gone")
    await runtime.resync()  # what only the store knows to be in the way is looked at again by the schedule
    await written(platform, "under.worker-1-5058f")
    expected = {"shared.yaml": b"second\n", "second.yaml": b"2\n", "third.yaml": b"3\n"}
    assert files() == FLAT_CANARIES | expected | {"first.yaml/below.yaml": b"4\n"}
    await work_says(platform, "second", "AllWorkplacementsScheduled")
    await runtime.idle()


async def test_in_mode_aggregated_yaml_a_bad_placement_fails_alone(
    runtime: LocalRuntime, platform: Platform, minio: Minio, git_server: GitServer
) -> None:
    tree = declare_store(platform, "bucket", minio, git_server)
    platform.destination("worker-1", "bucket/default", filepath={"mode": "aggregatedYAML"})
    for name, wanted in (("a", group({"x": b"a"})), ("b", BAD["base64"][0]), ("c", group({"x": b"c"}))):
        platform.work(name, wanted, promise="p")
    assert "is not base64" in await failed(platform, "b.worker-1-5058f")
    for name in ("a", "c"):
        await written(platform, f"{name}.worker-1-5058f")
    assert tree()["worker-1/aggregated.yaml"] == b"a\n---\nc"
    platform.work("b", group({"x": b"b"}), promise="p")
    await written(platform, "b.worker-1-5058f")
    assert tree()["worker-1/aggregated.yaml"] == b"a\n---\nb\n---\nc"
    await runtime.idle()


async def test_in_mode_aggregated_yaml_a_bad_update_leaves_the_last_good_documents_until_it_is_mended_or_deleted(
    runtime: LocalRuntime, platform: Platform, minio: Minio, git_server: GitServer
) -> None:
    tree = declare_store(platform, "bucket", minio, git_server)
    platform.destination("worker-1", "bucket/default", filepath={"mode": "aggregatedYAML"})

    def one() -> bytes | None:
        return tree().get("worker-1/aggregated.yaml")

    for name in "abc":
        platform.work(name, group({"x": name.encode()}), promise="p")
        await written(platform, f"{name}.worker-1-5058f")
    platform.work("b", BAD["base64"][0], promise="p")
    assert "is not base64" in await failed(platform, "b.worker-1-5058f")
    platform.work("a", group({"x": b"a2"}), promise="p")
    why = await failed(platform, "a.worker-1-5058f")
    assert "'aggregated.yaml' is left as it is" in why
    assert "default/b.worker-1-5058f" in why
    platform.delete_object("works", "c")
    assert "left as it is" in await failed(platform, "c.worker-1-5058f")
    await runtime.idle()
    assert one() == b"a\n---\nb\n---\nc"
    platform.work("b", group({"x": b"b2"}), promise="p")
    for name in "ab":
        await written(platform, f"{name}.worker-1-5058f")
    await platform.until(lambda: platform.object("workplacements", "c.worker-1-5058f") is None, "c gone")
    assert one() == b"a2\n---\nb2"
    platform.work("b", BAD["base64"][0], promise="p")
    await failed(platform, "b.worker-1-5058f")
    platform.delete_object("works", "b")
    await platform.until(lambda: platform.object("workplacements", "b.worker-1-5058f") is None, "b gone")
    assert one() == b"a2"
    await runtime.idle()
