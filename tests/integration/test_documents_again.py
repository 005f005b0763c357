"""write-documents beside what happens to its WorkPlacements meanwhile, and after what it could not do (failures 19)."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio

from shared.deadline import Deadline
from shared.errors import StoreUnavailable
from shared.messages import Reference, Verdict
from shared.plan import Edit, Outcome
from shared.queues import Outgoing, Queues
from shared.reconcile.connections import Connections
from shared.reconcile.deliveries import write_documents
from shared.reconcile.reports import report
from shared.settings import Settings
from shared.writers.memory import MemoryWriter
from tests.integration.kubernetes_proxy import Answer, Asked, Forward, KubernetesProxy, kubernetes_proxy
from tests.integration.platform_team import API_VERSION, GROUP, Platform
from tests.integration.test_documents import packed
from tests.servers.kubernetes import KubernetesApi

pytestmark = pytest.mark.asyncio(loop_scope="module")

PLACEMENTS = f"{GROUP}/namespaces/default/workplacements"
FINALIZERS = [
    "finalizers.workplacement.kratix.io/repo-cleanup",
    "finalizers.workplacement.kratix.io/kratix-dot-files-cleanup",
]


class Store(MemoryWriter):
    """A State Store that something happens beside.

    Attributes:
        meanwhile: happens once, when the next write is on its way and has not arrived.
        batches: how many edits each changeset had.
    """

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    meanwhile: Callable[[], object] | None = None

    async def write(self, edits: Sequence[Edit], deadline: Deadline) -> dict[str, Outcome]:
        self.batches.append(len(edits))
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await asyncio.to_thread(meanwhile)
        return await super().write(edits, deadline)


class Sent(Queues):
    """Queues that keep what is sent."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.messages: list[Outgoing] = []

    async def send(self, outgoing: Iterable[Outgoing], deadline: Deadline) -> dict[str, Exception]:
        self.messages += outgoing
        return {}


@dataclass
class Delivery:
    """write-documents and status-report, each run by hand."""

    connections: Connections
    platform: Platform
    store: Store
    proxy: KubernetesProxy
    queues: Sent = field(init=False)

    def __post_init__(self) -> None:
        self.connections.queues = self.queues = Sent(self.connections.settings)

    async def write(self, *names: str, kind: str = "WorkPlacement") -> list[Outgoing]:
        """Deliver a batch; return what was sent."""
        namespace = "default" if kind == "WorkPlacement" else ""
        messages = {name: Reference(kind=kind, namespace=namespace, name=name) for name in names}
        self.queues.messages = []
        assert await write_documents(messages, self.connections, Deadline.after(60)) == {}
        return self.queues.messages

    async def report(self, sent: Iterable[Outgoing]) -> None:
        """Report the verdicts among what was sent."""
        verdicts = {str(at): item.message for at, item in enumerate(sent) if isinstance(item.message, Verdict)}
        assert await report(verdicts, self.connections, Deadline.after(60)) == {}

    async def settle(self, mode: str, *names: str, content: bytes = b"1") -> dict[str, bytes]:
        """Declare a Destination, and WorkPlacements that are written; return the files."""
        self.platform.destination("worker-1", "bucket/default", filepath={"mode": mode})
        for name in names:
            self.place(name, content)
        await self.report(await self.write(*names))
        return dict(self.store.files)

    def place(self, name: str, content: bytes, promise: str = "") -> None:
        """Create or change a WorkPlacement."""
        workloads = [{"filepath": f"{name}.yaml", "content": packed(content)}]
        labels = {"kratix.io/targetDestinationName": "worker-1"}
        spec = {
            "targetDestinationName": "worker-1",
            "promiseName": promise or name,
            "id": "5058f",
            "workloads": workloads,
        }
        metadata = {"name": name, "labels": labels, "finalizers": FINALIZERS}
        obj = {"apiVersion": API_VERSION, "kind": "WorkPlacement", "metadata": metadata, "spec": spec}
        self.platform._apply(PLACEMENTS, name, obj)

    def remove(self, name: str) -> None:
        """Let a WorkPlacement be gone, as another function has removed its files and released it."""
        patch: dict[str, Any] = {"metadata": {"finalizers": []}}
        path = f"{PLACEMENTS}/{name}"
        self.platform.api.call("PATCH", path, patch, content_type="application/merge-patch+json")
        self.platform.api.call("DELETE", path)

    def status(self, name: str) -> dict[str, Any]:
        return dict((self.platform.object("workplacements", name) or {}).get("status") or {})


@pytest_asyncio.fixture(loop_scope="module")
async def delivery(cluster: KubernetesApi, platform: Platform) -> AsyncIterator[Delivery]:
    store = Store()
    async with kubernetes_proxy(cluster) as proxy:
        settings = Settings(kubeconfig=cluster.write_kubeconfig(cluster.token, url=proxy.url))
        async with Connections(settings, opener=lambda *_: store) as connections:
            platform.bucket_store("default", endpoint="nowhere", bucketName="b", authMethod="IAM")
            yield Delivery(connections, platform, store, proxy)


def words(sent: Iterable[Outgoing]) -> list[tuple[str, str, str]]:
    """Return what was sent in short: the queue, the name, and a verdict's status or a reference's attempt."""
    found: list[tuple[str, str, str]] = []
    for item in sent:
        if isinstance(item.message, Verdict):
            found.append((item.queue, item.message.reference.name, item.message.status or "finalizers"))
        else:
            assert isinstance(item.message, Reference)
            found.append((item.queue, item.message.name, f"attempt {item.message.attempt}"))
    return sorted(found)


@pytest.mark.parametrize("mode", ["none", "nestedByMetadata"])
async def test_what_a_store_that_is_away_failed_is_tried_again_in_every_mode(delivery: Delivery, mode: str) -> None:
    delivery.platform.destination("worker-1", "bucket/default", filepath={"mode": mode})
    delivery.place("a", b"1")
    delivery.store.failure = StoreUnavailable("out of order")
    sent = await delivery.write("a")
    assert words(sent) == [("documents", "default", "attempt 1"), ("status", "a", "False")]
    delivery.store.failure = None
    await delivery.report(sent)
    assert words(await delivery.write("default", kind="BucketStateStore")) == [("status", "a", "True")]


async def test_the_version_is_of_what_is_written_now_though_a_verdict_was_lost_or_nothing_had_to_be_written(
    delivery: Delivery,
) -> None:
    platform = delivery.platform
    platform.destination("worker-1", "bucket/default")
    delivery.place("a", b"1")
    await delivery.report(await delivery.write("a"))
    first = delivery.status("a")["versionID"]
    delivery.place("a", b"2")
    await delivery.write("a")  # and its verdict is lost
    (verdict,) = await delivery.write("a")
    assert isinstance(verdict.message, Verdict)
    second = verdict.message.fields.get("versionID")
    assert second not in {None, first}
    await delivery.report([verdict])
    assert delivery.status("a")["versionID"] == second
    assert await delivery.write("a") == [], "all is said"
    delivery.store.failure = StoreUnavailable("out of order")
    await delivery.report(await delivery.write("a"))
    delivery.store.failure = None
    await delivery.report(await delivery.write("a"))
    assert delivery.status("a")["versionID"] == second
    words_ = "successfully written to Destination: worker-1 with versionID"
    events = platform.events("a", "WorkPlacement")
    told = {message: count for _, reason, message, count in events if reason == "WorkloadsWrittenToStateStore"}
    assert told == {f"{words_}: {first}": 1, f"{words_}: {second}": 2}


MODES = ["nestedByMetadata", "none", "aggregatedYAML"]


@pytest.mark.parametrize("mode", MODES)
async def test_what_is_written_for_a_placement_that_is_gone_by_then_goes_and_its_neighbours_stay(
    delivery: Delivery, mode: str
) -> None:
    before = await delivery.settle(mode, "b")
    delivery.place("a", b"late")
    delivery.store.meanwhile = lambda: delivery.remove("a")
    sent = await delivery.write("a")
    assert delivery.store.files == before
    assert [item for item in words(sent) if item[0] == "documents"] == []
    delivery.remove("b")
    delivery.place("c", b"late")
    delivery.store.files.clear()
    delivery.store.meanwhile = lambda: delivery.remove("c")
    await delivery.write("c")
    assert delivery.store.files == {}, "the last one"


@pytest.mark.parametrize("mode", MODES)
async def test_what_changed_while_it_was_written_is_written_again(delivery: Delivery, mode: str) -> None:
    platform = delivery.platform
    await delivery.settle(mode, "b")
    delivery.place("a", b"1")
    delivery.store.meanwhile = lambda: delivery.place("a", b"2")
    assert ("documents", "a", "attempt 0") in words(await delivery.write("a"))
    assert words(await delivery.write("a")) == [("status", "a", "True")]
    assert any(b"2" in content for content in delivery.store.files.values())
    delivery.place("a", b"3")
    delivery.store.meanwhile = lambda: platform.delete_object("workplacements", "a")
    assert ("documents", "a", "attempt 0") in words(await delivery.write("a"))
    assert words(await delivery.write("a")) == [("status", "a", "finalizers")]
    assert not any(b"3" in content for content in delivery.store.files.values())


@pytest.mark.parametrize("mode", MODES)
async def test_what_was_created_again_under_its_name_meanwhile_has_its_own_files_in_the_end(
    delivery: Delivery, mode: str
) -> None:
    def create_again() -> None:
        delivery.remove("a")
        delivery.place("a", b"new", promise="other")

    await delivery.settle(mode, "b")
    delivery.place("a", b"old")
    delivery.store.meanwhile = create_again
    assert ("documents", "a", "attempt 0") in words(await delivery.write("a"))
    await delivery.write("a")
    delivery.store.meanwhile = None
    late = dict(delivery.store.files)
    assert not any(b"old" in content for content in late.values())
    delivery.store.files.clear()
    await delivery.write("default", kind="BucketStateStore")
    assert delivery.store.files == late


async def test_in_mode_aggregated_yaml_who_came_meanwhile_is_written_with_the_others(delivery: Delivery) -> None:
    await delivery.settle("aggregatedYAML", "a")
    delivery.place("a", b"2")
    delivery.store.meanwhile = lambda: delivery.place("b", b"1")
    assert ("documents", "b", "attempt 0") in words(await delivery.write("a"))
    assert ("documents", "a", "attempt 0") not in words(await delivery.write("b"))
    assert delivery.store.files == {"worker-1/aggregated.yaml": b"2\n---\n1"}
    delivery.place("a", b"3")
    delivery.store.meanwhile = lambda: delivery.remove("b")
    await delivery.write("a")
    assert delivery.store.files == {"worker-1/aggregated.yaml": b"3"}, "a neighbour that is gone"


async def test_a_directory_that_another_placement_has_by_then_is_left_to_that_one(delivery: Delivery) -> None:
    def replace() -> None:
        delivery.remove("a")
        delivery.place("b", b"b", promise="a")

    await delivery.settle("nestedByMetadata")
    delivery.place("a", b"late")
    delivery.store.meanwhile = replace
    assert ("documents", "b", "attempt 0") in words(await delivery.write("a"))
    await delivery.write("b")
    assert delivery.store.files == {"worker-1/dependencies/a/5058f/b.yaml": b"b"}


@pytest.mark.parametrize(("cleanup", "left"), [("all", 0), ("none", 1)])
async def test_a_destination_that_went_with_all_its_files_gets_none_back(
    delivery: Delivery, cleanup: str, left: int
) -> None:
    def go() -> None:
        delivery.remove("a")
        delivery.platform.delete("destinations", "worker-1")

    delivery.platform.destination("worker-1", "bucket/default", cleanup=cleanup)
    delivery.place("a", b"late")
    delivery.store.meanwhile = go
    await delivery.write("a")
    assert len(delivery.store.files) == left


@pytest.mark.parametrize(("count", "call"), [(1, "get workplacements"), (30, "list workplacements")])
async def test_the_second_look_is_one_call_and_only_where_something_was_written(
    delivery: Delivery, count: int, call: str
) -> None:
    names = [f"a-{number}" for number in range(count)]
    await delivery.settle("nestedByMetadata", *names)
    delivery.proxy.reset()
    assert await delivery.write(*names) == []
    unchanged = delivery.proxy.calls
    delivery.store.files.clear()
    delivery.proxy.reset()
    assert await delivery.write(*names) == []
    assert delivery.proxy.calls - unchanged == {call: 1}
    assert len(delivery.store.files) == count


async def test_where_the_second_look_fails_everything_of_the_store_is_written_once_more(delivery: Delivery) -> None:
    await delivery.settle("nestedByMetadata", "a")
    delivery.store.files.clear()

    async def fault(asked: Asked, forward: Forward) -> Answer | None:
        looks = delivery.proxy.calls["get workplacements"] > 1
        return Answer.error(403, "Forbidden", "not now") if looks and asked.is_("get", "workplacements") else None

    delivery.proxy.reset()
    delivery.proxy.fault = fault
    assert words(await delivery.write("a")) == [("documents", "default", "attempt 0")]
    delivery.proxy.reset()
    assert await delivery.write("default", kind="BucketStateStore") == []


@pytest.mark.parametrize(
    ("mode", "room", "batches"),
    [
        ("nestedByMetadata", 1000, [5]),
        ("nestedByMetadata", 10, [2, 2, 1]),
        ("nestedByMetadata", 3, [1, 1, 1, 1, 1]),
        ("none", 1000, [5]),
        ("none", 70, [2, 2, 1]),  # a record is 25 bytes
        ("aggregatedYAML", 1000, [1]),
    ],
)
async def test_a_batch_that_is_larger_than_memory_is_written_in_parts_and_any_other_as_one(
    delivery: Delivery, monkeypatch: pytest.MonkeyPatch, mode: str, room: int, batches: list[int]
) -> None:
    monkeypatch.setattr("shared.reconcile.placement_writes.ROOM_BYTES", room)
    names = "abcde"
    files = await delivery.settle(mode, *names, content=b"12345")
    assert delivery.store.batches == batches
    monkeypatch.undo()
    delivery.store.files.clear()
    await delivery.write(*names)
    assert delivery.store.files == files
    assert all(delivery.status(name)["versionID"] for name in names)
    monkeypatch.setattr("shared.reconcile.placement_writes.ROOM_BYTES", room)
    delivery.platform.delete_object("workplacements", "a")
    for name in names[1:]:
        delivery.place(name, b"54321")
    await delivery.report(await delivery.write(*names))
    written = dict(delivery.store.files)
    delivery.store.files.clear()
    monkeypatch.undo()
    await delivery.write("default", kind="BucketStateStore")
    assert delivery.store.files == written
