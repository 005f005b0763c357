"""The Destinations that a batch of Works may go to: asked by their labels, or by name, each once a batch."""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from typing import Final

from shared.deadline import Deadline
from shared.errors import InvalidObject, LandfallError
from shared.kube import Cluster, Key, each, key_of
from shared.schedule import DestinationInfo, label_selector

# From so many on, all Destinations are read instead. A list by labels costs the API server a look at each Destination,
# about a fortieth of what reading them whole costs (docs/decisions/0004-scheduling-by-selectors.md).
_LISTS: Final = 40
_NAMES: Final = 500


class EligibleDestinations:
    """Reads Destinations when they are asked for, and keeps what it has read.

    One is for one batch: what it keeps is as old as the batch. What was written by it is checked afterwards, with
    another one.
    """

    def __init__(self, cluster: Cluster, deadline: Deadline) -> None:
        self._cluster = cluster
        self._deadline = deadline
        self._reading = asyncio.Lock()  # one list at a time: each may be large
        self._lists: dict[str, list[DestinationInfo] | LandfallError] = {}
        self._known: dict[Key, DestinationInfo | None] = {}
        self._there: set[Key] = set()  # also those that cannot be read
        self._all: dict[tuple[str, str], list[DestinationInfo]] | None = None  # by label; all under ("", "")
        self._cluster_scoped = False

    async def read_all(self) -> None:
        """Read all Destinations, once, for a caller that asks about most of them.

        Raises:
            KubernetesError: the API refused or could not be reached.
        """
        async with self._reading:
            await self._read_all()

    async def matching(self, wanted: Mapping[str, str], namespace: str) -> list[DestinationInfo]:
        """Return the Destinations with these labels, or all; on older clusters, those of a Work's namespace.

        Raises:
            KubernetesError: the API refused or could not be reached.
        """
        selector = label_selector(wanted)
        if selector is None:
            return []
        if selector not in self._lists and self._all is None:
            async with self._reading:
                if selector not in self._lists and self._all is None:
                    await self._read(selector)
        if self._all is not None:
            few = min((self._all.get(pair, []) for pair in wanted.items()), key=len, default=self._all["", ""])
            found = [d for d in few if all(d.labels.get(key) == value for key, value in wanted.items())]
        else:
            listed = self._lists[selector]
            if isinstance(listed, LandfallError):
                raise listed
            found = listed
        return [d for d in found if d.namespace in {"", namespace}]

    async def named(self, names: Collection[str], namespace: str) -> dict[str, DestinationInfo]:
        """Return those of the named Destinations that exist and can be read, by name.

        Raises:
            KubernetesError: the API refused or could not be reached.
        """
        missing = [name for name in names if self._all is None and self._kept(name, namespace) is None]
        missing = [name for name in missing if (namespace, name) not in self._known]
        if len(missing) > _NAMES:
            await self.read_all()
        else:
            for result in await each(self._get(name, namespace) for name in missing):
                if isinstance(result, Exception):
                    raise result
        found = ((name, self._kept(name, namespace)) for name in names)
        return {name: info for name, info in found if info is not None}

    def exists(self, name: str, namespace: str) -> bool:
        """Whether there is a Destination of a name that was asked for, be it one that cannot be read."""
        return not self._there.isdisjoint({("", name), (namespace, name)})

    async def _read(self, selector: str) -> None:
        if not selector or len(self._lists) >= _LISTS:
            await self._read_all()
            return
        try:
            self._lists[selector] = [info async for info in self._listed(selector)]
        except LandfallError as error:  # all that ask for it fail with it, and none asks again
            self._lists[selector] = error

    async def _read_all(self) -> None:
        if self._all is not None:
            return
        by_label: dict[tuple[str, str], list[DestinationInfo]] = {("", ""): []}
        async for info in self._listed(""):
            by_label["", ""].append(info)
            for pair in info.labels.items():
                by_label.setdefault(pair, []).append(info)
        self._all = by_label

    async def _listed(self, selector: str) -> AsyncIterator[DestinationInfo]:
        async for page in self._cluster.pages("Destination", self._deadline, selector):
            for obj in page:
                self._there.add(key_of(obj))
                try:
                    info = DestinationInfo.of(obj)
                except InvalidObject:
                    continue  # it takes nothing until it can be read; on-destination-change says what is wrong with it
                self._keep(info)
                yield info

    async def _get(self, name: str, namespace: str) -> None:
        """Read one by name: cluster-scoped, or in the Work's namespace on older clusters."""
        obj = await self._cluster.get("Destination", "", name, self._deadline)
        if obj is None and namespace and not self._cluster_scoped:
            obj = await self._cluster.get("Destination", namespace, name, self._deadline)
        self._known[namespace, name] = None
        if obj is not None:
            self._there.add(key_of(obj))
            try:
                self._keep(DestinationInfo.of(obj))
            except InvalidObject:
                return

    def _keep(self, info: DestinationInfo) -> None:
        self._known[info.namespace, info.name] = info
        self._cluster_scoped = self._cluster_scoped or not info.namespace

    def _kept(self, name: str, namespace: str) -> DestinationInfo | None:
        return self._known.get(("", name)) or self._known.get((namespace, name))


class Relied:
    """What Works of a batch relied on when they wrote WorkPlacements, to be compared with what is there afterwards.

    Between the reading of a Destination and the write, it can be relabelled or deleted. Its own message may have looked
    for WorkPlacements before the write.
    """

    def __init__(self) -> None:
        self._on: dict[tuple[str, str], DestinationInfo | None] = {}

    def on(self, namespace: str, name: str, info: DestinationInfo | None) -> None:
        """Note a Destination that a WorkPlacement of a Work in that namespace was written for; None where it was gone.

        Where two Works of the batch have read it differently, the first is kept: the comparison fails for one of them.
        """
        self._on.setdefault((namespace, name), info)

    async def outdated(self, cluster: Cluster, deadline: Deadline) -> set[tuple[str, str]]:
        """Return the namespaces of Works and the names of Destinations that are not as they were.

        Raises:
            KubernetesError: the API refused or could not be reached.
        """
        if not self._on:
            return set()
        now = EligibleDestinations(cluster, deadline)
        changed: set[tuple[str, str]] = set()
        for namespace in sorted({namespace for namespace, _ in self._on}):
            mine = {name: info for (own, name), info in self._on.items() if own == namespace}
            found = await now.named(mine.keys(), namespace)
            changed |= {(namespace, name) for name, info in mine.items() if found.get(name) != info}
        return changed


def names_of(destinations: Iterable[DestinationInfo]) -> dict[str, DestinationInfo]:
    """Return Destinations by name."""
    return {destination.name: destination for destination in destinations}
