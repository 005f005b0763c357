"""What a warm container keeps open: Kubernetes APIs, queues, and a writer for each State Store it has met."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Self

from shared.kube import Cluster, Clusters, Key
from shared.queues import Queues
from shared.reconcile.leases import Leases
from shared.resources import Secret, StateStore
from shared.settings import Settings
from shared.writers import open_writer
from shared.writers.base import Writer

MAX_WRITERS: Final = 64  # a writer may keep a repository's trees; the least recently used one is closed

_PLACES: Final = 20_000  # Destinations whose place is remembered

Opener = Callable[[StateStore, Secret | None, Settings], Writer]


class Writers:
    """Open writers by what makes them differ: where they write to, and the very version of the Secret they use.

    Two State Stores share a writer only if endpoint, bucket or branch, author and credentials are all the same, so no
    tenant ever writes with another's client (docs/failure-modes.md#27-shared-clients).
    """

    def __init__(self, settings: Settings, opener: Opener = open_writer) -> None:
        self._settings = settings
        self._open = opener
        self._writers: OrderedDict[str, Writer] = OrderedDict()

    @staticmethod
    def key(store: StateStore, secret: Secret | None) -> str:
        """Return what is the same for State Stores that can share one writer and one changeset.

        An endpoint counts as it is written: AWS has many hosts for one bucket, and each store is written to by its own.
        """
        spec = store.spec.model_dump_json(exclude={"path", "secret_ref", "url"})
        version = f"{secret.uid}@{secret.resource_version}" if secret else ""
        return f"{store.kind} {store.identity} {spec} {version}"

    def has(self, store: StateStore, secret: Secret | None) -> bool:
        """Whether a writer for them is open already."""
        return self.key(store, secret) in self._writers

    async def get(self, store: StateStore, secret: Secret | None) -> Writer:
        """Return the writer for a State Store with its credentials, opened if it is not open yet.

        Raises:
            StateStoreNotReady: no writer can be made for it.
        """
        key = self.key(store, secret)
        if key not in self._writers:
            self._writers[key] = self._open(store, secret, self._settings)
        self._writers.move_to_end(key)
        return self._writers[key]

    async def drop(self, store: StateStore, secret: Secret | None) -> None:
        """Close and forget a writer whose credentials are in doubt."""
        writer = self._writers.pop(self.key(store, secret), None)
        if writer is not None:
            await writer.close()

    async def trim(self) -> None:
        """Close the least recently used writers above the bound; to be called when none is at work."""
        while len(self._writers) > MAX_WRITERS:
            await self._writers.popitem(last=False)[1].close()

    async def close(self) -> None:
        """Close all writers."""
        while self._writers:
            await self._writers.popitem()[1].close()


class Places:
    """At which place Destinations were when this container last looked: a hint, never a reason to write."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, Key], str] = OrderedDict()

    def of(self, cluster: str, namespace: str, destination: str) -> str:
        """Return the place of the Destination that a WorkPlacement of a namespace names; empty if unknown."""
        return self._known.get((cluster, (namespace, destination))) or self._known.get((cluster, ("", destination)), "")

    def learn(self, cluster: str, key: Key, place: str) -> None:
        """Remember the place of a Destination."""
        self._known[cluster, key] = place
        self._known.move_to_end((cluster, key))
        while len(self._known) > _PLACES:
            self._known.popitem(last=False)


@dataclass
class Connections:
    """All connections of one container; every use case gets them handed in."""

    settings: Settings
    clusters: Clusters = field(init=False)
    queues: Queues = field(init=False)
    writers: Writers = field(init=False)
    places: Places = field(default_factory=Places)
    opener: Opener = open_writer

    def __post_init__(self) -> None:
        self.clusters = Clusters(self.settings)
        self.queues = Queues(self.settings)
        self.writers = Writers(self.settings, self.opener)
        self._leases: dict[tuple[str, str], Leases] = {}

    def leases(self, name: str, cluster: Cluster, role: str) -> Leases:
        """Return the Leases of a cluster, as the function of that name takes them."""
        found = self._leases.get((name, role))
        if found is None or found.cluster is not cluster:
            found = self._leases[name, role] = Leases(cluster, self.settings, role)
        return found

    async def close(self) -> None:
        """Give everything back."""
        await self.writers.close()
        await self.queues.close()
        await self.clusters.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
