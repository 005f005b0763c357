"""Works become placements, and placements become files, in all three modes.

See docs/contract.md#paths, #documents, #scheduling.
"""

import base64
import gzip
from dataclasses import dataclass
from typing import Any

import pytest
import yaml

from infra.local.runtime import LocalRuntime
from shared.documents import CANARY_CONFIGMAP, CANARY_NAMESPACE
from tests.integration.platform_team import Platform
from tests.integration.test_first_ready import declare_bucket, declare_repository
from tests.servers.git import GitServer
from tests.servers.repository import Repository
from tests.servers.s3 import Minio

pytestmark = pytest.mark.asyncio(loop_scope="module")

CANARIES = {
    "dependencies/kratix-canary-namespace.yaml": CANARY_NAMESPACE,
    "resources/kratix-canary-configmap.yaml": CANARY_CONFIGMAP,
}
FLAT_CANARIES = {path.partition("/")[2]: content for path, content in CANARIES.items()}


def packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content)).decode()


def group(files: dict[str, bytes], id_: str = "5058f1af8388633f", **match: str) -> dict[str, Any]:
    selectors = [{"source": "promise", "matchLabels": match}] if match else []
    workloads = [{"filepath": path, "content": packed(content)} for path, content in files.items()]
    return {"id": id_, "directory": ".", "destinationSelectors": selectors, "workloads": workloads}


async def written(platform: Platform, name: str) -> None:
    await platform.until(
        lambda: (
            platform.condition("workplacements", name, "Ready")[:2] == ("True", "WorkloadsWrittenToTargetDestination")
        ),
        f"{name} written",
        seen=lambda: platform.conditions("workplacements", name),
    )


@dataclass
class Place:
    """A State Store of one of the two kinds, as whoever reads it sees it."""

    kind: str
    bucket: str
    minio: Minio
    repository: Repository

    def tree(self, prefix: str) -> dict[str, bytes]:
        """Return everything below a directory."""
        files = self.minio.objects(self.bucket) if self.kind == "bucket" else self.repository.tree()
        return {path.removeprefix(prefix): content for path, content in files.items() if path.startswith(prefix)}

    def put(self, path: str, content: bytes) -> None:
        """Write a file, as another writer does."""
        if self.kind == "bucket":
            self.minio.put(self.bucket, path, content)
        else:
            self.repository.commit_files({path: content})


@pytest.fixture(params=["bucket", "git"])
def place(request: pytest.FixtureRequest, platform: Platform, minio: Minio, git_server: GitServer) -> Place:
    """A State Store `default` of each kind, with path `destinations`."""
    repository = git_server.create_repository()
    declare_repository(platform, git_server, repository)
    return Place(request.param, declare_bucket(platform, minio), minio, repository)


async def test_a_dependency_and_a_resource_request_lie_where_kratix_puts_them(
    runtime: LocalRuntime, platform: Platform, place: Place
) -> None:
    def tree() -> dict[str, bytes]:
        return place.tree("destinations/dev/")

    platform.destination("worker-1", f"{place.kind}/default", path="dev", labels={"environment": "dev"})
    await platform.wait_ready("worker-1")
    platform.work("redis-deps", group({"crd.yaml": b"crd: 1\n", "sub/rbac.yaml": b"rbac: 1\n"}), promise="redis")
    platform.work(
        "redis-mine",
        group({"instance.yaml": b"redis: 1\n"}, environment="dev"),
        promise="redis",
        resource="mine",
        pipeline="instance-configure",
    )
    deps, mine = "redis-deps.worker-1-5058f", "redis-mine.worker-1-5058f"
    await written(platform, deps)
    await written(platform, mine)
    assert tree() == {
        **CANARIES,
        "dependencies/redis/5058f/crd.yaml": b"crd: 1\n",
        "dependencies/redis/5058f/sub/rbac.yaml": b"rbac: 1\n",
        "resources/default/redis/mine/instance-configure/5058f/instance.yaml": b"redis: 1\n",
    }
    await runtime.idle()
    assert platform.condition("works", "redis-deps", "Ready") == ("True", "AllWorkplacementsScheduled", "Ready")
    placement = platform.object("workplacements", deps)
    assert placement is not None
    if place.kind == "git":
        assert placement["status"]["versionID"] in {commit.sha for commit in place.repository.commits()}

    platform.work("redis-deps", group({"crd.yaml": b"crd: 2\n"}), promise="redis")
    await platform.until(lambda: tree().get("dependencies/redis/5058f/crd.yaml") == b"crd: 2\n", "updated", seen=tree)
    await platform.until(lambda: "dependencies/redis/5058f/sub/rbac.yaml" not in tree(), "removed", seen=tree)
    platform.delete_object("works", "redis-deps")
    platform.delete_object("works", "redis-mine")
    await platform.until(lambda: tree() == CANARIES, "only canaries", seen=tree)
    await platform.until(lambda: platform.object("workplacements", deps) is None, "placement gone")
    await platform.until(lambda: platform.object("works", "redis-deps") is None, "work gone")
    await runtime.idle()


async def test_mode_none_lies_flat_with_a_record(runtime: LocalRuntime, platform: Platform, place: Place) -> None:
    platform.destination("worker-1", f"{place.kind}/default", path="dev", filepath={"mode": "none"})
    platform.work("w", group({"a.yaml": b"a\n", "sub/b.yaml": b"b\n"}), promise="p")
    await written(platform, "w.worker-1-5058f")

    def tree() -> dict[str, bytes]:
        return place.tree("destinations/dev/")

    record = ".kratix/default-w.worker-1-5058f.yaml"
    await platform.wait_ready("worker-1")
    found = tree()
    state = {"apiVersion": "v1", "kind": "List", "items": [], "files": ["dev/a.yaml", "dev/sub/b.yaml"]}
    assert yaml.safe_load(found.pop(record)) == state
    assert found == {**FLAT_CANARIES, "a.yaml": b"a\n", "sub/b.yaml": b"b\n"}
    platform.work("w", group({"a.yaml": b"a2\n", "c.yaml": b"c\n"}), promise="p")
    await platform.until(lambda: "sub/b.yaml" not in tree() and tree().get("a.yaml") == b"a2\n", "updated", seen=tree)
    platform.work("other", group({"c.yaml": b"mine\n"}), promise="p")
    await platform.until(
        lambda: platform.condition("workplacements", "other.worker-1-5058f", "WriteSucceeded")[0] == "False",
        "refused",
        seen=lambda: (platform.conditions("workplacements", "other.worker-1-5058f"), tree()),
    )
    why = platform.condition("workplacements", "other.worker-1-5058f", "WriteSucceeded")[2]
    assert "other.worker-1-5058f" in why
    assert "w.worker-1-5058f" in why
    assert tree()["c.yaml"] == b"c\n"
    await platform.until(
        lambda: platform.condition("works", "other", "Ready")[1] == "WorkplacementsFailing",
        "the Work says so",
        seen=lambda: platform.conditions("works", "other"),
    )
    platform.delete_object("works", "w")
    await platform.until(lambda: "a.yaml" not in tree() and record not in tree(), "gone", seen=tree)
    await runtime.idle()


async def test_a_state_file_of_kratix_stays_until_a_document_changes(
    runtime: LocalRuntime, platform: Platform, place: Place
) -> None:
    platform.destination("worker-1", f"{place.kind}/default", path="dev", filepath={"mode": "none"})
    platform.work("w", group({"a.yaml": b"a\n", "b.yaml": b"b\n"}), promise="p")
    await written(platform, "w.worker-1-5058f")
    await platform.wait_ready("worker-1")
    await runtime.idle()
    path = "destinations/dev/.kratix/default-w.worker-1-5058f.yaml"
    place.put(path, b"files:\n- dev/a.yaml\n- dev/b.yaml\n")
    before, commits = place.tree(""), len(place.repository.commits())
    await runtime.resync()
    await runtime.idle()
    assert place.tree("") == before
    assert len(place.repository.commits()) == commits, "nothing has changed: no commit"

    platform.work("w", group({"a.yaml": b"a\n"}), promise="p")
    await platform.until(
        lambda: "destinations/dev/b.yaml" not in place.tree(""), "what it names and is not wanted goes"
    )
    await runtime.idle()
    state = {"apiVersion": "v1", "kind": "List", "items": [], "files": ["dev/a.yaml"]}
    assert yaml.safe_load(place.tree("")[path]) == state
    platform.delete_object("works", "w")
    await platform.until(lambda: path not in place.tree(""), "gone")
    await runtime.idle()


async def test_aggregated_yaml_is_one_file_of_all(runtime: LocalRuntime, platform: Platform, place: Place) -> None:
    platform.destination("worker-1", f"{place.kind}/default", path="/", filepath={"mode": "aggregatedYAML"})
    for name in ("b", "a"):
        platform.work(name, group({f"{name}1.yaml": name.encode(), f"{name}2.yaml": name.encode() * 2}), promise="p")
    for name in ("a", "b"):
        await written(platform, f"{name}.worker-1-5058f")

    def one() -> bytes | None:
        return place.tree("destinations/").get("aggregated.yaml")

    await platform.until(lambda: one() == b"a\n---\naa\n---\nb\n---\nbb", "aggregated", seen=one)
    platform.delete_object("works", "a")
    await platform.until(lambda: one() == b"b\n---\nbb", "without a", seen=one)
    platform.delete_object("works", "b")
    await platform.until(lambda: one() is None, "no file", seen=one)
    await platform.until(lambda: platform.object("workplacements", "b.worker-1-5058f") is None, "placement gone")
    await runtime.idle()
