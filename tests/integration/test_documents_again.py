"""write-documents beside what happens to its WorkPlacements meanwhile, and after what it could not do.

See docs/failure-modes.md#19-deletion-orders.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
import pytest_asyncio

from shared.deadline import Deadline
from shared.errors import StoreUnavailable
from shared.messages import Reference, Verdict
from shared.plan import Edit, Outcome
from shared.queues import Outgoing
from shared.reconcile.canaries import write_canaries
from shared.reconcile.connections import Connections
from shared.reconcile.deliveries import write_documents
from shared.reconcile.reports import report
from shared.settings import Settings
from tests.contract.memory import MemoryWriter
from tests.integration.by_hand import FINALIZERS, PLACEMENTS, Sent
from tests.integration.kubernetes_proxy import KubernetesProxy, kubernetes_proxy
from tests.integration.platform_team import API_VERSION, Platform
from tests.integration.test_documents import packed
from tests.servers.kubernetes import KubernetesApi

Result = TypeVar("Result")

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Store(MemoryWriter):
    """A State Store that something happens beside.

    Attributes:
        meanwhile: happens once, when the next write is on its way and has not arrived.
        answers: what that returned.
        batches: how many edits each changeset had.
    """

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []
        self.answers: list[list[Outgoing]] = []

    meanwhile: Callable[[], list[Outgoing]] | None = None

    async def write(self, edits: Sequence[Edit], deadline: Deadline) -> dict[str, Outcome]:
        self.batches.append(len(edits))
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            self.answers.append(await asyncio.to_thread(meanwhile))
        return await super().write(edits, deadline)


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

    async def canaries(self, *names: str) -> list[Outgoing]:
        """Deliver a batch of Destinations to write-canary; return what was sent."""
        self.queues.messages = []
        messages = {name: Reference(kind="Destination", name=name) for name in names}
        assert await write_canaries(messages, self.connections, Deadline.after(60)) == {}
        return self.queues.messages

    async def report(self, sent: Iterable[Outgoing]) -> list[Outgoing]:
        """Report the verdicts among what was sent, one after the other; return what was sent in turn."""
        self.queues.messages = []
        for item in sent:
            if isinstance(item.message, Verdict):
                assert await report({"m": item.message}, self.connections, Deadline.after(60)) == {}
        return self.queues.messages

    def beside(self) -> "Delivery":
        """Return another container of the function, at the same State Stores."""
        settings = self.connections.settings.model_copy(update={"lease_wait_seconds": 0.1})
        return Delivery(Connections(settings, opener=lambda *_: self.store), self.platform, self.store, self.proxy)

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Let this container work in a loop of its own, and end it."""

        async def once() -> Result:
            try:
                return await work
            finally:
                await self.connections.close()

        return asyncio.run(once())

    def written(self, name: str) -> tuple[str, int]:
        """Return status and observed generation of a WorkPlacement's WriteSucceeded."""
        conditions = self.status(name).get("conditions") or ()
        return next((c["status"], c["observedGeneration"]) for c in conditions if c["type"] == "WriteSucceeded")

    async def settle(self, mode: str, *names: str, content: bytes = b"1") -> dict[str, bytes]:
        """Declare a Destination, and WorkPlacements that are written; return the files."""
        self.platform.destination("worker-1", "bucket/default", filepath={"mode": mode})
        for name in names:
            self.place(name, content)
        await self.report(await self.write(*names))
        return dict(self.store.files)

    def place(self, name: str, content: bytes, promise: str = "", destination: str = "worker-1") -> None:
        """Create or change a WorkPlacement."""
        workloads = [{"filepath": f"{name}.yaml", "content": packed(content)}]
        labels = {"kratix.io/targetDestinationName": destination}
        spec = {
            "targetDestinationName": destination,
            "promiseName": promise or name,
            "id": "5058f",
            "workloads": workloads,
        }
        metadata = {"name": name, "labels": labels, "finalizers": FINALIZERS}
        obj = {"apiVersion": API_VERSION, "kind": "WorkPlacement", "metadata": metadata, "spec": spec}
        self.platform._apply(PLACEMENTS, name, obj)

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
    assert words(sent) == [("documents", "a", "attempt 1"), ("status", "a", "False")]
    delivery.store.failure = None
    await delivery.report(sent)
    assert words(await delivery.write("default", kind="BucketStateStore")) == [("status", "a", "True")]


async def test_what_a_store_failed_together_is_tried_again_by_one_message_and_no_more_often_than_one(
    delivery: Delivery,
) -> None:
    delivery.platform.destination("worker-1", "bucket/default")
    names = [f"w{number}" for number in range(6)]
    for name in names:
        delivery.place(name, b"1")
    delivery.store.failure = StoreUnavailable("out of order")
    message = Reference(kind="Destination", name="worker-1")
    for attempt in (1, 2, 3):
        delivery.queues.messages = []
        assert await write_documents({"m": message}, delivery.connections, Deadline.after(60)) == {}
        (message,) = [item.message for item in delivery.queues.messages if isinstance(item.message, Reference)]
        assert sorted(each.name for each in message.each()) == names
        assert message.attempt == attempt
    delivery.store.failure = None
    delivery.queues.messages = []
    assert await write_documents({"m": message}, delivery.connections, Deadline.after(60)) == {}
    assert words(delivery.queues.messages) == [("status", name, "True") for name in names]


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
async def test_a_deletion_waits_for_the_write_that_is_under_way_and_then_leaves_nothing_of_it(
    delivery: Delivery, mode: str
) -> None:
    before = await delivery.settle(mode, "b")
    delivery.place("a", b"late")
    other = delivery.beside()

    def delete() -> list[Outgoing]:
        delivery.platform.delete_object("workplacements", "a")
        return other.run(other.write("a"))

    delivery.store.meanwhile = delete
    written = await delivery.write("a")
    (waiting,) = delivery.store.answers
    assert words(waiting) == [("documents", "a", "attempt 0")]
    (again,) = waiting
    assert isinstance(again.message, Reference)
    assert (again.message.hops, again.delay > 0) == (1, True)
    sent = await delivery.write("a")
    assert words(sent) == [("status", "a", "finalizers")]
    assert delivery.store.files == before
    await delivery.report([*written, *sent])  # the verdict of the write comes late, and is no longer about what is
    assert delivery.platform.object("workplacements", "a") is None


@pytest.mark.parametrize("mode", MODES)
async def test_what_changes_while_it_is_written_waits_and_is_written_then(delivery: Delivery, mode: str) -> None:
    await delivery.settle(mode, "b")
    delivery.place("a", b"1")
    other = delivery.beside()

    def change() -> list[Outgoing]:
        delivery.place("a", b"2")
        return other.run(other.write("a"))

    delivery.store.meanwhile = change
    first = await delivery.write("a")
    assert words(delivery.store.answers[0]) == [("documents", "a", "attempt 0")]
    second = await delivery.write("a")
    assert words(second) == [("status", "a", "True")]
    assert any(b"2" in content for content in delivery.store.files.values())
    await delivery.report(second)
    await delivery.report(first)  # in reverse
    assert delivery.written("a") == ("True", 2)


@pytest.mark.parametrize("before", [[], ["worker-2"]], ids=["alone", "with another"])
async def test_a_destination_that_moves_onto_the_path_of_another_is_refused_whatever_its_batch_knows(
    delivery: Delivery, before: list[str]
) -> None:
    for name in ("worker-1", "worker-2"):
        delivery.platform.destination(name, "bucket/default")
    await delivery.canaries("worker-1", "worker-2")
    files = dict(delivery.store.files)
    delivery.platform.destination("worker-2", "bucket/default", path="worker-1", initWorkloads={"enabled": False})
    sent = await delivery.canaries(*before, "worker-2")
    (verdict,) = [item.message for item in sent if isinstance(item.message, Verdict)]
    assert (verdict.reference.name, verdict.reason) == ("worker-2", "PathClash")
    assert delivery.store.files == files


async def test_a_store_that_is_written_keeps_no_other_store_waiting(delivery: Delivery) -> None:
    await delivery.settle("nestedByMetadata", "a")
    delivery.platform.bucket_store("other", endpoint="nowhere", bucketName="other", authMethod="IAM")
    delivery.platform.destination("worker-2", "bucket/other")
    delivery.place("a", b"2")
    delivery.place("b", b"1", destination="worker-2")
    other = delivery.beside()
    delivery.store.meanwhile = lambda: other.run(other.write("b"))
    await delivery.write("a")
    assert words(delivery.store.answers[0]) == [("status", "b", "True")]


async def test_a_message_that_waits_too_often_fails_and_comes_nearer_to_the_dead_letter_queue(
    delivery: Delivery,
) -> None:
    await delivery.settle("nestedByMetadata", "a")
    delivery.place("a", b"2")
    other = delivery.beside()
    tired = Reference(kind="WorkPlacement", namespace="default", name="a", hops=delivery.connections.settings.max_hops)
    failures: list[dict[str, Exception]] = []

    def wait() -> list[Outgoing]:
        failures.append(other.run(write_documents({"m": tired}, other.connections, Deadline.after(60))))
        return []

    delivery.store.meanwhile = wait
    await delivery.write("a")
    assert "has waited 200 times for Lease place-" in str(failures[0]["m"])


@pytest.mark.parametrize("reverse", [False, True], ids=["in order", "in reverse"])
async def test_a_late_failure_does_not_outlive_the_success_that_had_nothing_new_to_say(
    delivery: Delivery, reverse: bool
) -> None:
    await delivery.settle("nestedByMetadata", "a")
    delivery.store.failure = StoreUnavailable("out of order")
    failed = [item for item in await delivery.write("a") if item.queue == "status"]
    delivery.store.failure = None
    succeeded = await delivery.write("a")
    assert succeeded == [], "the object says it already"
    sent = await delivery.report([*succeeded, *failed] if reverse else [*failed, *succeeded])
    assert delivery.written("a")[0] == "False"
    assert ("documents", "a", "attempt 1") in words(sent), "what turned is decided once more"
    await delivery.report(await delivery.write("a"))
    assert delivery.written("a")[0] == "True"


@pytest.mark.parametrize(
    ("mode", "room", "batches"),
    [
        ("nestedByMetadata", 1000, [5]),
        ("nestedByMetadata", 10, [2, 2, 1]),
        ("nestedByMetadata", 3, [1, 1, 1, 1, 1]),
        ("none", 1000, [5]),
        ("none", 400, [2, 2, 1]),  # a state file is some 160 bytes
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
