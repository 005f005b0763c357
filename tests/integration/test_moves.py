"""What moves leaves nothing of ours behind: pipeline label, promise, filename, path, State Store.

See docs/failure-modes.md#46-moves.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from shared.deadline import Deadline
from shared.messages import Reference
from shared.queues import Outgoing
from shared.reconcile.cleanup import clean_up
from shared.reconcile.connections import Connections
from shared.settings import Settings
from tests.integration.by_hand import PLACEMENTS
from tests.integration.kubernetes_proxy import Answer, Asked, Forward, kubernetes_proxy
from tests.integration.platform_team import GROUP, Platform
from tests.integration.test_documents_again import Delivery, Store
from tests.servers.kubernetes import KubernetesApi

pytestmark = pytest.mark.asyncio(loop_scope="module")

DESTINATIONS = f"{GROUP}/destinations"
MODES = ["nestedByMetadata", "none", "aggregatedYAML"]


class Moving(Delivery):
    """Several buckets, and all functions run by hand until nothing is left to do."""

    stores: dict[str, Store]

    def files(self) -> dict[str, bytes]:
        """Return what all buckets hold, by bucket and path."""
        return {f"{bucket}:{path}": text for bucket, store in self.stores.items() for path, text in store.files.items()}

    async def settle_all(self, *names: str) -> None:
        """Deliver all Destinations and WorkPlacements, and what follows from them, until nothing follows."""
        sent = await self.canaries(*(name for name in ("worker-1", "worker-2") if self.exists("destinations", name)))
        sent += await self.write(*names) if names else []
        await self.follow(sent)

    async def remove(self, *names: str) -> None:
        """Delete Destinations, and deliver what follows until nothing follows; their WorkPlacements are told, too."""
        for name in names:
            self.platform.delete("destinations", name)
        for _ in range(4):
            await self.follow([Outgoing("cleanup", Reference(kind="Destination", name=name)) for name in names])
            if self.exists("workplacements", "a"):
                await self.follow(await self.write("a"))

    async def follow(self, sent: list[Outgoing]) -> None:
        """Deliver what was sent and what follows from it, until nothing follows but what is tried again later."""
        for _ in range(10):
            following = await self.report(sent)
            for item in sent:
                following += await self.deliver(item)
            if not following:
                return
            sent = following
        raise AssertionError("it never ends")

    async def deliver(self, item: Outgoing) -> list[Outgoing]:
        """Deliver one reference."""
        if not isinstance(item.message, Reference) or item.message.attempt:
            return []
        if item.queue == "cleanup":
            self.queues.messages = []
            assert await clean_up({"m": item.message}, self.connections, Deadline.after(60)) == {}
            return self.queues.messages
        if item.queue == "documents" and item.message.kind == "WorkPlacement":
            return await self.write(item.message.name)
        if item.queue == "canary" and item.message.kind == "Destination":
            return await self.canaries(item.message.name)
        return []

    def exists(self, kind: str, name: str) -> bool:
        if kind == "destinations":
            return self.platform.api.request("GET", f"{DESTINATIONS}/{name}").status == 200
        return self.platform.object(kind, name) is not None

    def patch(self, path: str, patch: dict[str, Any]) -> None:
        self.platform.api.call("PATCH", path, patch, content_type="application/merge-patch+json")


@pytest_asyncio.fixture(loop_scope="module")
async def moving(cluster: KubernetesApi, platform: Platform) -> AsyncIterator[Moving]:
    stores: dict[str, Store] = defaultdict(Store)
    async with kubernetes_proxy(cluster) as proxy:
        settings = Settings(kubeconfig=cluster.write_kubeconfig(cluster.token, url=proxy.url))
        async with Connections(settings, opener=lambda store, *_: stores[store.spec.bucket_name]) as connections:
            for name in ("b", "c"):
                platform.bucket_store(f"store-{name}", endpoint="nowhere", bucketName=name, authMethod="IAM")
            made = Moving(connections, platform, stores["b"], proxy)
            made.stores = stores
            yield made


def documents(moving: Moving) -> list[str]:
    return sorted(name for name in moving.files() if "kratix-canary" not in name)


@pytest.mark.parametrize("change", ["pipeline", "promise", "pipeline-and-back"])
async def test_a_placement_that_gets_another_directory_leaves_none_behind(moving: Moving, change: str) -> None:
    platform = moving.platform
    platform.destination("worker-1", "bucket/store-b", cleanup="none")
    moving.place("a", b"1")
    moving.place("other", b"x")
    await moving.settle_all("a", "other")
    moving.store.files["worker-1/dependencies/stranger/f.yaml"] = b"a stranger's"
    if change == "promise":
        moving.place("a", b"1", promise="renamed")
    else:
        moving.patch(f"{PLACEMENTS}/a", {"metadata": {"labels": {"kratix.io/pipeline-name": "second"}}})
    await moving.settle_all("a")
    expected = {"promise": "renamed/5058f/a.yaml", "pipeline": "a/second/5058f/a.yaml"}.get(change)
    if change == "pipeline-and-back":
        moving.patch(f"{PLACEMENTS}/a", {"metadata": {"labels": {"kratix.io/pipeline-name": None}}})
        await moving.settle_all("a")
        expected = "a/5058f/a.yaml"
    assert documents(moving) == sorted(
        [
            f"b:worker-1/dependencies/{expected}",
            "b:worker-1/dependencies/other/5058f/other.yaml",
            "b:worker-1/dependencies/stranger/f.yaml",
        ]
    )
    platform.delete_object("workplacements", "a")
    await moving.settle_all("a")
    assert not moving.exists("workplacements", "a")
    assert not any("a.yaml" in name for name in documents(moving))


async def test_two_placements_that_change_places_each_have_their_own_files(moving: Moving) -> None:
    moving.platform.destination("worker-1", "bucket/store-b")
    moving.place("a", b"of a", promise="first")
    moving.place("b", b"of b", promise="second")
    await moving.settle_all("a", "b")
    moving.place("a", b"of a", promise="second")
    moving.place("b", b"of b", promise="first")
    for names in (["a"], ["b"], ["a", "b"]):
        await moving.settle_all(*names)
    found = {name: text for name, text in moving.files().items() if "canary" not in name}
    assert found["b:worker-1/dependencies/second/5058f/a.yaml"] == b"of a"
    assert found["b:worker-1/dependencies/first/5058f/b.yaml"] == b"of b"
    assert len(found) == 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("spec", "root"),
    [
        ({"path": "elsewhere"}, "b:elsewhere"),
        ({"path": "worker-1/inside"}, "b:worker-1/inside"),
        ({"stateStoreRef": {"kind": "BucketStateStore", "name": "store-c"}}, "c:worker-1"),
    ],
    ids=["path", "path inside the old one", "store"],
)
async def test_a_destination_that_moves_takes_all_its_files_along(
    moving: Moving, mode: str, spec: dict[str, Any], root: str
) -> None:
    platform = moving.platform
    platform.destination("worker-1", "bucket/store-b", cleanup="all", filepath={"mode": mode})
    platform.destination("worker-2", "bucket/store-b", path="worker-1/nested", cleanup="all")
    moving.place("a", b"1")
    await moving.settle_all("a")
    before = moving.files()
    moving.store.files["README.md"] = b"the team's"
    moving.patch(f"{DESTINATIONS}/worker-1", {"spec": spec})
    await moving.settle_all("a")
    nested = {name: text for name, text in before.items() if name.startswith("b:worker-1/nested/")}
    assert nested, "the other Destination's"
    own = {name.replace("b:worker-1", root, 1): text for name, text in before.items() if name not in nested}
    if mode == "none":
        own = {
            name: text.replace(b"worker-1/", b"elsewhere/") if spec.get("path") == "elsewhere" else text
            for name, text in own.items()
        }
        if spec.get("path") == "worker-1/inside":
            own = {name: text.replace(b"- worker-1/", b"- worker-1/inside/") for name, text in own.items()}
    assert moving.files() == {**own, **nested, "b:README.md": b"the team's"}
    await moving.remove("worker-1", "worker-2")
    assert moving.files() == {"b:README.md": b"the team's"}
    assert not moving.exists("destinations", "worker-1")


async def test_a_destination_deleted_in_the_middle_of_a_move_leaves_nothing_at_either_place(moving: Moving) -> None:
    platform = moving.platform
    platform.destination("worker-1", "bucket/store-b", cleanup="all")
    await moving.settle_all()
    ref = {"kind": "BucketStateStore", "name": "store-c"}
    moving.patch(f"{DESTINATIONS}/worker-1", {"spec": {"stateStoreRef": ref}})
    await moving.canaries("worker-1")  # and the cleanup of the old place is still on its way
    assert {name.split(":")[0] for name in moving.files()} == {"b", "c"}
    await moving.remove("worker-1")
    assert moving.files() == {}
    assert not moving.exists("destinations", "worker-1")


async def test_a_destination_that_leaves_its_files_says_so_when_it_moves(moving: Moving) -> None:
    platform = moving.platform
    platform.destination("worker-1", "bucket/store-b", cleanup="none")
    await moving.settle_all()
    before = moving.files()
    moving.patch(f"{DESTINATIONS}/worker-1", {"spec": {"path": "elsewhere"}})
    await moving.settle_all()
    assert moving.files() == before | {name.replace("worker-1", "elsewhere"): text for name, text in before.items()}
    said = [message for _, reason, message, _ in platform.events("worker-1") if reason == "FilesLeftBehind"]
    assert said == [
        "path 'worker-1' of BucketStateStore/store-b keeps the files of this Destination, as cleanup is none"
    ]
    await moving.settle_all()
    assert [count for _, reason, _, count in platform.events("worker-1") if reason == "FilesLeftBehind"] == [1]


async def test_another_name_for_the_one_file_leaves_no_old_one(moving: Moving) -> None:
    platform = moving.platform
    platform.destination("worker-1", "bucket/store-b", filepath={"mode": "aggregatedYAML", "filename": "old.yaml"})
    moving.place("a", b"1")
    await moving.settle_all("a")
    path = f"{DESTINATIONS}/worker-1"
    moving.patch(path, {"spec": {"filepath": {"mode": "aggregatedYAML", "filename": "new.yaml"}}})
    await moving.settle_all("a")
    assert documents(moving) == ["b:worker-1/new.yaml"]


async def test_what_is_remembered_is_where_it_is_and_no_way_to_it(moving: Moving) -> None:
    platform = moving.platform
    platform.destination("worker-1", "bucket/store-b", cleanup="all")
    await moving.settle_all()
    annotations = platform.api.call("GET", f"{DESTINATIONS}/worker-1")["metadata"]["annotations"]
    assert annotations["landfall.kratix.io/locations"] == (
        '[{"kind":"BucketStateStore","namespace":"","name":"store-b",'
        '"where":[["endpoint","nowhere"],["bucketName","b"],["insecure",false]],"root":"worker-1"}]'
    )


async def test_a_destination_whose_annotation_is_refused_fails_alone(moving: Moving) -> None:
    for name in ("worker-1", "worker-2"):
        moving.platform.destination(name, "bucket/store-b", cleanup="all")
    await moving.settle_all()
    for name in ("worker-1", "worker-2"):
        moving.patch(f"{DESTINATIONS}/{name}", {"spec": {"path": f"moved/{name}"}})
    await moving.canaries("worker-1", "worker-2")

    async def refuse(asked: Asked, forward: Forward) -> Answer | None:
        refused = asked.is_("patch", "destinations") and asked.name == "worker-1"
        return Answer.error(422, "Invalid", "annotations may not change") if refused else None

    moving.proxy.fault = refuse
    references = {name: Reference(kind="Destination", name=name) for name in ("worker-1", "worker-2")}
    failures = await clean_up(references, moving.connections, Deadline.after(60))
    assert failures.keys() == {"worker-1"}
    assert "annotations may not change" in str(failures["worker-1"])
    assert {name.split("/")[0] for name in moving.files()} == {"b:moved"}
