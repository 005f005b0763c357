"""The Kubernetes APIs of one deployment: each is opened once, when it is asked for."""

import asyncio

from shared.errors import InvalidObject
from shared.kube.access import access_to
from shared.kube.cluster import Cluster
from shared.settings import Settings


class Clusters:
    """The Kubernetes APIs that this deployment serves, by the name that messages carry."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._open: dict[str, Cluster] = {}
        self._opening: dict[str, asyncio.Lock] = {}

    def name(self, name: str) -> str:
        """Return a cluster's name: what a message carries, or where that is nothing the default one's."""
        return name or self._settings.default_cluster

    async def get(self, name: str) -> Cluster:
        """Return the cluster of that name; the empty name means the deployment's default one.

        Raises:
            InvalidObject: this deployment serves no cluster of that name.
            KubernetesError: there is no way to it.
        """
        name = self.name(name)
        if not name:
            raise InvalidObject(
                "the message names no cluster, and several are served here: give each forwarder its cluster's name, or"
                " set LANDFALL_CLUSTER to the one that is meant"
            )
        if name not in self._settings.served:
            raise InvalidObject(
                f"cluster {name[:100]!r} is not served here: add it to LANDFALL_CLUSTERS, or correct the forwarder's"
                " cluster name"
            )
        async with self._opening.setdefault(name, asyncio.Lock()):  # of its own: one that is slow holds up no other
            if name not in self._open:
                access = access_to(self._settings, self._settings.clusters.get(name))
                self._open[name] = await Cluster.connect(self._settings, access)
            return self._open[name]

    async def close(self) -> None:
        """Give back connections."""
        while self._open:
            await self._open.popitem()[1].close()
