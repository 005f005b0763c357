"""The functions by hand on a real API server, with State Stores in memory that the command reads, too."""

import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

from infra.cli.changes import DestinationChanges, changes
from infra.cli.fleet import Fleet
from infra.cli.manifests import lay_over
from infra.cli.session import Options, Session
from infra.cli.stores import Stores
from shared.deadline import Deadline
from shared.events import Change
from shared.kube import Key, Object, key_of
from shared.messages import Reference, Verdict
from shared.queues import Outgoing
from shared.reconcile.canaries import write_canaries
from shared.reconcile.changes import decide_changes
from shared.reconcile.cleanup import clean_up
from shared.reconcile.connections import Connections
from shared.reconcile.deliveries import write_documents
from shared.reconcile.reports import report
from shared.reconcile.works import place_works
from shared.resources import Secret, StateStore
from shared.settings import Settings
from shared.writers.base import Writer
from tests.contract.memory import MemoryWriter
from tests.integration.by_hand import Sent
from tests.servers.kubernetes import KubernetesApi

_ROUNDS = 200
_USE_CASES = {
    "canary": write_canaries,
    "documents": write_documents,
    "works": place_works,
    "cleanup": clean_up,
}


@dataclass
class World:
    """Functions, State Stores, and the command's own reading of both.

    Attributes:
        files: of each State Store, by its name.
    """

    connections: Connections
    session: Session
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)

    @classmethod
    @contextlib.asynccontextmanager
    async def on(cls, cluster: KubernetesApi) -> AsyncIterator["World"]:
        environment = {"LANDFALL_KUBECONFIG": str(cluster.kubeconfig)}
        settings = Settings.from_environment(environment)
        files: dict[str, dict[str, bytes]] = {}

        def opened(store: StateStore, secret: Secret | None, settings: Settings) -> Writer:
            del secret, settings
            return MemoryWriter(files.setdefault(store.name, {}))

        async with Session.open(Options(environment=environment)) as session:
            connections = Connections(settings, opener=opened)
            connections.queues = Sent(settings)
            async with connections:
                yield cls(connections, session, files)

    async def run(self, messages: Iterable[Outgoing], only: Iterable[str] = ()) -> None:
        """Deliver messages, and what follows from them, until nothing does."""
        wanted = set(only)
        waiting = [one for one in messages if not wanted or one.queue in wanted]
        for _ in range(_ROUNDS):
            if not waiting:
                return
            one = waiting.pop(0)
            sent = await self._deliver(one)
            waiting += [follow for follow in sent if (not wanted or follow.queue in wanted) and not _is_retry(follow)]
        raise AssertionError(f"after {_ROUNDS} messages there are more: {waiting}")

    async def _deliver(self, one: Outgoing) -> list[Outgoing]:
        queues = self.connections.queues
        assert isinstance(queues, Sent)
        queues.messages = []
        if isinstance(one.message, Verdict):
            failed = await report({"m": one.message}, self.connections, Deadline.after(60))
        else:
            assert isinstance(one.message, Reference)
            failed = await _USE_CASES[one.queue]({"m": one.message}, self.connections, Deadline.after(60))
        assert failed == {}
        return queues.messages

    async def everything(self, only: Iterable[str] = ()) -> None:
        """Let everything be looked at, as a resync does."""
        fleet = await Fleet.read(self.session.cluster, self.session.deadline)
        named = [Reference(kind="Destination", namespace=key[0], name=key[1]) for key in fleet.destinations]
        named += [Reference(kind=kind, namespace=namespace, name=name) for kind, namespace, name in fleet.stores]
        for kind in ("Work", "WorkPlacement"):
            async for page in self.session.cluster.pages(kind, self.session.deadline, metadata_only=True):
                named += [Reference(kind=kind, namespace=key_of(obj)[0], name=key_of(obj)[1]) for obj in page]
        await self.happens(named, only)

    async def happens(self, named: Iterable[Reference], only: Iterable[str] = ()) -> None:
        """Let the functions follow events about objects."""
        queues = self.connections.queues
        assert isinstance(queues, Sent)
        queues.messages = []
        told = {str(number): [Change(reference)] for number, reference in enumerate(named)}
        assert await decide_changes(told, self.connections, Deadline.after(60)) == {}
        await self.run(queues.messages, only)

    async def foretold(self, manifests: list[Object]) -> list[DestinationChanges]:
        """Return what the command says that the next write does, once manifests are applied."""
        fleet = await Fleet.read(self.session.cluster, self.session.deadline)
        settings = self.session.settings
        await fleet.read_claims(settings.lease_namespace, self.session.cluster, self.session.deadline)
        keys: list[Key] = sorted(fleet.destinations)
        if manifests:
            fleet, _ = await lay_over(fleet, manifests, self.session)
            keys = sorted(fleet.destinations)
        before = dict(fleet.placements)
        await fleet.read_placements(keys, self.session.cluster, self.session.deadline)
        fleet.placements |= before
        opener = self.connections.opener
        stores = Stores(self.session.cluster, settings, fleet, "cluster", opener)
        return await changes(keys, fleet, stores, self.session.limits, self.session.deadline)


def _is_retry(one: Outgoing) -> bool:
    """Whether a message tries later what has failed: whoever tests looks at everything again."""
    return one.delay > 0 and isinstance(one.message, Reference) and one.message.attempt > 0
