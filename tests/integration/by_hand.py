"""The use cases, each run by hand on a real API server behind a proxy: what a batch returns, sends and leaves."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.deadline import Deadline
from shared.messages import Reference, Verdict
from shared.queues import Outgoing, Queues
from shared.reconcile.canaries import write_canaries
from shared.reconcile.cleanup import clean_up
from shared.reconcile.connections import Connections
from shared.reconcile.deliveries import write_documents
from shared.reconcile.reports import report
from shared.reconcile.works import place_works
from shared.settings import Settings
from tests.contract.memory import MemoryWriter
from tests.integration.kubernetes_proxy import KubernetesProxy, kubernetes_proxy
from tests.integration.platform_team import API_VERSION, GROUP, Platform
from tests.integration.test_documents import packed
from tests.servers.kubernetes import KubernetesApi

PLACEMENTS = f"{GROUP}/namespaces/default/workplacements"
MERGE = "application/merge-patch+json"
FINALIZERS = (
    "finalizers.workplacement.kratix.io/repo-cleanup",
    "finalizers.workplacement.kratix.io/kratix-dot-files-cleanup",
)
EVERYTHING = Reference(kind="Destination", name="*")  # the message that means all Works

UseCase = Callable[[Mapping[str, Reference], Connections, Deadline], Awaitable[dict[str, Exception]]]
# What follows from on-destination-change, by queue.
FOLLOWS: Mapping[str, UseCase] = {"canary": write_canaries, "cleanup": clean_up, "documents": write_documents}


class Sent(Queues):
    """Queues that keep what is sent."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.messages: list[Outgoing] = []

    async def send(self, outgoing: Iterable[Outgoing], deadline: Deadline) -> dict[str, Exception]:
        self.messages += outgoing
        return {}


@dataclass
class ByHand:
    """The functions without queues: whoever tests says when each of them runs.

    Attributes:
        store: the one State Store, `bucket/default`, in memory.
    """

    connections: Connections
    platform: Platform
    proxy: KubernetesProxy
    store: MemoryWriter
    queues: Sent = field(init=False)

    def __post_init__(self) -> None:
        self.connections.queues = self.queues = Sent(self.connections.settings)

    async def run(self, use_case: UseCase, **messages: Reference) -> tuple[dict[str, Exception], list[Outgoing]]:
        """Run a use case; return why which messages come back, and what was sent."""
        self.queues.messages = []
        failures = await use_case(messages, self.connections, Deadline.after(60))
        return failures, self.queues.messages

    async def report(self, sent: Iterable[Outgoing]) -> dict[str, Exception]:
        """Report the verdicts among what was sent; return why which come back."""
        verdicts = {str(at): item.message for at, item in enumerate(sent) if isinstance(item.message, Verdict)}
        self.queues.messages = []
        return await report(verdicts, self.connections, Deadline.after(60))

    async def settle(self, sent: list[Outgoing]) -> None:
        """Run the functions that messages go to, and report, until nothing is left; not on-work-change."""
        while sent:
            assert await self.report([item for item in sent if item.queue == "status"]) == {}
            following: list[Outgoing] = list(self.queues.messages)
            for queue, use_case in FOLLOWS.items():
                messages = {str(at): item.message for at, item in enumerate(sent) if item.queue == queue}
                if messages:
                    failures, more = await self.run(use_case, **messages)  # type: ignore[arg-type]
                    assert failures == {}
                    following += more
            sent = following

    async def place(self, **messages: Reference) -> tuple[dict[str, Exception], list[Outgoing]]:
        """Run on-work-change and report what it found; return why which messages come back, and what it sent."""
        failures, sent = await self.run(place_works, **(messages or {"all": EVERYTHING}))
        assert await self.report(sent) == {}
        return failures, sent

    async def write(self, *names: str) -> list[Outgoing]:
        """Run write-documents for WorkPlacements and report what it found; return what it sent."""
        failures, sent = await self.run(write_documents, **{name: placement(name) for name in names})
        assert failures == {}
        assert await self.report(sent) == {}
        return sent

    def work(self, name: str, *groups: Mapping[str, Any], promise: str = "", **spec: Any) -> None:
        """Declare a Work that has our finalizer already."""
        self.platform.work(name, *groups, promise=promise or name, **spec)
        self.platform.work_finalizers(name, ["kratix.io/work-cleanup"])

    def placement(self, name: str, files: Mapping[str, bytes], destination: str = "worker-1", **spec: Any) -> None:
        """Declare a WorkPlacement, as made by hand."""
        workloads = [{"filepath": path, "content": packed(content)} for path, content in files.items()]
        spec = {"targetDestinationName": destination, "promiseName": name, "id": "5058f", "workloads": workloads} | spec
        labels = {"kratix.io/targetDestinationName": destination}
        metadata = {"name": name, "labels": labels, "finalizers": list(FINALIZERS)}
        obj = {"apiVersion": API_VERSION, "kind": "WorkPlacement", "metadata": metadata, "spec": spec}
        self.platform._apply(PLACEMENTS, name, obj)

    def placements(self) -> dict[str, dict[str, Any]]:
        """Return all WorkPlacements by name."""
        items = self.platform.api.call("GET", f"{GROUP}/workplacements")["items"]
        return {obj["metadata"]["name"]: obj for obj in items}

    def says(self, work: str) -> tuple[str, str]:
        """Return reason and message of a Work's ScheduleSucceeded."""
        return self.platform.condition("works", work, "ScheduleSucceeded")[1:]


def placement(name: str) -> Reference:
    """Return a reference to a WorkPlacement of namespace `default`."""
    return Reference(kind="WorkPlacement", namespace="default", name=name)


def work(name: str) -> Reference:
    """Return a reference to a Work of namespace `default`."""
    return Reference(kind="Work", namespace="default", name=name)


@contextlib.asynccontextmanager
async def by_hand(cluster: KubernetesApi, platform: Platform) -> AsyncIterator[ByHand]:
    """Declare `bucket/default`, and open the functions' connections."""
    store = MemoryWriter()
    async with kubernetes_proxy(cluster) as proxy:
        settings = Settings(kubeconfig=cluster.write_kubeconfig(cluster.token, url=proxy.url))
        async with Connections(settings, opener=lambda *_: store) as connections:
            platform.bucket_store("default", endpoint="nowhere", bucketName="b", authMethod="IAM")
            yield ByHand(connections, platform, proxy, store)
