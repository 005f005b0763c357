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
    """

    meanwhile: Callable[[], object] | None = None

    async def write(self, edits: Sequence[Edit], deadline: Deadline) -> dict[str, Outcome]:
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

    def place(self, name: str, content: bytes) -> None:
        """Create or change a WorkPlacement."""
        workloads = [{"filepath": f"{name}.yaml", "content": packed(content)}]
        labels = {"kratix.io/targetDestinationName": "worker-1"}
        spec = {"targetDestinationName": "worker-1", "promiseName": name, "id": "5058f", "workloads": workloads}
        metadata = {"name": name, "labels": labels, "finalizers": FINALIZERS}
        obj = {"apiVersion": API_VERSION, "kind": "WorkPlacement", "metadata": metadata, "spec": spec}
        self.platform._apply(PLACEMENTS, name, obj)

    def status(self, name: str) -> dict[str, Any]:
        return dict((self.platform.object("workplacements", name) or {}).get("status") or {})


@pytest_asyncio.fixture(loop_scope="module")
async def delivery(cluster: KubernetesApi, platform: Platform) -> AsyncIterator[Delivery]:
    store = Store()
    settings = Settings(kubeconfig=cluster.kubeconfig)
    async with Connections(settings, opener=lambda *_: store) as connections:
        platform.bucket_store("default", endpoint="nowhere", bucketName="b", authMethod="IAM")
        yield Delivery(connections, platform, store)


def words(sent: Iterable[Outgoing]) -> list[tuple[str, str, str]]:
    """Return what was sent in short: the queue, the name, and a verdict's status or what a reference says of itself."""
    found: list[tuple[str, str, str]] = []
    for item in sent:
        if isinstance(item.message, Verdict):
            found.append((item.queue, item.message.reference.name, item.message.status or "finalizers"))
        else:
            assert isinstance(item.message, Reference)
            found.append((item.queue, item.message.name, f"{item.message.why} {item.message.attempt}".strip()))
    return sorted(found)


@pytest.mark.parametrize("mode", ["none", "nestedByMetadata"])
async def test_what_a_store_that_is_away_failed_is_tried_again_in_every_mode(delivery: Delivery, mode: str) -> None:
    delivery.platform.destination("worker-1", "bucket/default", filepath={"mode": mode})
    delivery.place("a", b"1")
    delivery.store.failure = StoreUnavailable("out of order")
    sent = await delivery.write("a")
    assert words(sent) == [("documents", "default", "retry 1"), ("status", "a", "False")]
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
