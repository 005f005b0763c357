"""Placements follow labels, dry-run and Destinations that come and go (docs/contract.md#scheduling)."""

import pytest

from infra.local.runtime import LocalRuntime
from tests.integration.documents import MISPLACED, declare_store, labels, misplaced, placements, work_says, written
from tests.integration.platform_team import API_VERSION, GROUP, Platform
from tests.integration.test_documents import group
from tests.servers.git import GitServer
from tests.servers.s3 import Minio

pytestmark = pytest.mark.asyncio(loop_scope="module")

REPO_FINALIZER = "finalizers.workplacement.kratix.io/repo-cleanup"
DOT_FILES_FINALIZER = "finalizers.workplacement.kratix.io/kratix-dot-files-cleanup"


async def test_dependencies_follow_labels_and_a_resource_request_stays(
    runtime: LocalRuntime, platform: Platform, minio: Minio, git_server: GitServer
) -> None:
    tree = declare_store(platform, "bucket", minio, git_server)
    platform.destination("dev", "bucket/default", labels={"env": "dev"})
    platform.destination("prod", "bucket/default", labels={"env": "prod"})
    platform.work("deps", group({"a.yaml": b"a\n"}, env="dev"), promise="p")
    platform.work("mine", group({"r.yaml": b"r\n"}, env="dev"), promise="p", resource="mine")
    await written(platform, "deps.dev-5058f")
    await written(platform, "mine.dev-5058f")
    await runtime.idle()
    assert set(placements(platform)) == {"deps.dev-5058f", "mine.dev-5058f"}

    platform.destination("dev", "bucket/default", labels={"env": "prod"})
    platform.destination("prod", "bucket/default", labels={"env": "dev"})
    await misplaced(platform, "deps.dev-5058f")
    await misplaced(platform, "mine.dev-5058f")
    await written(platform, "deps.prod-5058f")
    for work in ("deps", "mine"):
        assert await work_says(platform, work, "Misplaced") == f"{MISPLACED} for workloadGroups: [5058f1af8388633f]"
    await runtime.idle()
    assert set(placements(platform)) == {"deps.dev-5058f", "deps.prod-5058f", "mine.dev-5058f"}
    words = "labels for destination: dev no longer match the expected labels, marking this workplacement as misplaced"
    assert ("Warning", "DestinationSelectorMismatch", words, 1) in platform.events("deps.dev-5058f", "WorkPlacement")
    assert "dev/dependencies/p/5058f/a.yaml" in tree(), "what is misplaced is not deleted"

    platform.destination("dev", "bucket/default", labels={"env": "dev"})
    for name in ("deps.dev-5058f", "mine.dev-5058f", "deps.prod-5058f"):
        await written(platform, name)
        assert "kratix.io/misplaced" not in labels(platform.object("workplacements", name))
    await work_says(platform, "deps", "AllWorkplacementsScheduled")
    await work_says(platform, "mine", "AllWorkplacementsScheduled")
    await runtime.idle()


async def test_works_wait_for_a_destination_and_new_ones_get_their_dependencies(
    runtime: LocalRuntime, platform: Platform, minio: Minio, git_server: GitServer
) -> None:
    tree = declare_store(platform, "git", minio, git_server)
    platform.work("deps", group({"a.yaml": b"a\n"}, env="dev"), promise="p")
    platform.work("mine", group({"r.yaml": b"r\n"}, env="dev"), promise="p", resource="mine")
    for work in ("deps", "mine"):
        why = await work_says(platform, work, "UnscheduledWorkloads")
        assert why == "No matching destination found for workloadGroups: [5058f1af8388633f]"
        assert platform.condition("works", work, "Ready") == ("False", "UnscheduledWorkloads", "Pending")
        obj = platform.object("works", work)
        assert obj is not None
        assert (obj["status"]["workPlacements"], obj["status"]["workPlacementsCreated"]) == (1, 0)
    platform.destination("first", "git/default", labels={"env": "dev"})
    await written(platform, "deps.first-5058f")
    await written(platform, "mine.first-5058f")
    platform.destination("second", "git/default", labels={"env": "dev"})
    await written(platform, "deps.second-5058f")
    await runtime.idle()
    assert set(placements(platform)) == {"deps.first-5058f", "deps.second-5058f", "mine.first-5058f"}
    assert tree()["second/dependencies/p/5058f/a.yaml"] == b"a\n"
    obj = platform.object("works", "deps")
    assert obj is not None
    assert (obj["status"]["workPlacements"], obj["status"]["workPlacementsCreated"]) == (1, 1)
    assert obj["metadata"]["finalizers"] == ["kratix.io/work-cleanup"]
    placement = platform.object("workplacements", "deps.second-5058f")
    assert placement is not None
    metadata = placement["metadata"]
    assert metadata["finalizers"] == [REPO_FINALIZER]
    (owner,) = metadata["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Work", "deps", obj["metadata"]["uid"])
    own = labels(placement)
    own.pop("landfall.kratix.io/directory")
    assert {name: value for name, value in own.items() if value} == {
        "kratix.io/work": "deps",
        "kratix.io/workload-group-id": "5058f1af8388633f",
        "kratix.io/targetDestinationName": "second",
    }


async def test_a_work_in_dry_run_goes_to_dry_run_destinations_and_nothing_else_does(
    runtime: LocalRuntime, platform: Platform, minio: Minio, git_server: GitServer
) -> None:
    declare_store(platform, "bucket", minio, git_server)
    platform.destination("real", "bucket/default", labels={"env": "dev"})
    platform.destination("dry", "bucket/default", labels={"kratix.io/dry-run": "true"})
    obj = {"apiVersion": API_VERSION, "kind": "Work", "metadata": {"name": "dry"}}
    obj["metadata"] = {"name": "dry", "labels": {"kratix.io/dry-run": "true"}}
    spec = {"promiseName": "p", "resourceName": "mine", "workloadGroups": [group({"a.yaml": b"a\n"}, env="dev")]}
    platform.api.call("POST", f"{GROUP}/namespaces/default/works", {**obj, "spec": spec})
    platform.work("deps", group({"a.yaml": b"a\n"}), promise="p")
    await written(platform, "dry.dry-5058f")
    await written(platform, "deps.real-5058f")
    await runtime.idle()
    assert set(placements(platform)) == {"dry.dry-5058f", "deps.real-5058f"}


async def test_a_resource_request_that_came_to_two_destinations_is_taken_back_from_one_of_them(
    runtime: LocalRuntime, platform: Platform, minio: Minio, git_server: GitServer
) -> None:
    """As two containers do that both schedule it, one of them before the second Destination was there."""
    tree = declare_store(platform, "git", minio, git_server)
    platform.destination("first", "git/default")
    platform.work("mine", group({"r.yaml": b"r\n"}), promise="p", resource="mine")
    await written(platform, "mine.first-5058f")
    platform.destination("second", "git/default")
    await platform.wait_ready("second")
    await runtime.idle()
    obj = placements(platform)["mine.first-5058f"]
    kept = ("labels", "annotations", "finalizers", "ownerReferences")
    metadata = {"name": "mine.second-5058f", **{name: obj["metadata"][name] for name in kept}}
    metadata["labels"] = {**labels(obj), "kratix.io/targetDestinationName": "second"}
    twin = {**obj, "metadata": metadata, "spec": {**obj["spec"], "targetDestinationName": "second"}, "status": {}}
    platform.api.call("POST", f"{GROUP}/namespaces/default/workplacements", twin)
    await written(platform, "mine.second-5058f")
    await runtime.idle()
    assert sum(path.endswith("r.yaml") for path in tree()) == 2
    await runtime.resync()
    await platform.until(lambda: len(placements(platform)) == 1, "one of them gone", seen=lambda: placements(platform))
    await runtime.idle()
    (name,) = placements(platform)
    own = name.removeprefix("mine.").removesuffix("-5058f")
    assert [path for path in tree() if path.endswith("r.yaml")] == [f"{own}/resources/default/p/mine/5058f/r.yaml"]
    assert platform.condition("workplacements", name, "Ready")[0] == "True"
    await work_says(platform, "mine", "AllWorkplacementsScheduled")
