"""Destinations that wait for a directory that another one has: who lets one go looks here whom to send a message.

They are few, and all lie in one ConfigMap. An entry that is wrong costs a message; one that is missing, the time until
the next resync. A Destination enters itself and then looks at the other one again; the other one is changed first, and
then the function that acts on the change looks here: one of the two sees the other (docs/decisions/0003-claims.md).
"""

import asyncio
import json
import random
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Self

from shared.deadline import Deadline
from shared.errors import KubernetesConflict, KubernetesError
from shared.kube import Cluster, Key, Object
from shared.observability import logger

NAME: Final = "claims-waiting"

_MOST: Final = 2000  # entries: 400 KB; those that do not fit are looked at by the resync
_ATTEMPTS: Final = 10
_PAUSE_SECONDS: Final = (0.02, 0.1)


@dataclass(frozen=True, slots=True)
class Wait:
    """What one Destination waits for.

    Attributes:
        holder: the Destination that has the directory.
        place: its Lease.
        root: the directory.
    """

    holder: Key
    place: str
    root: str


class Waiting:
    """Who waits for whom, in one cluster."""

    def __init__(self, namespace: str, cluster: Cluster, deadline: Deadline) -> None:
        self._namespace, self._cluster, self._deadline = namespace, cluster, deadline
        self._obj: Object | None = None
        self._waits: dict[Key, Wait] = {}

    @classmethod
    async def read(cls, namespace: str, cluster: Cluster, deadline: Deadline) -> Self:
        """Return who waits now.

        Raises:
            KubernetesError: it could not be read.
        """
        waiting = cls(namespace, cluster, deadline)
        await waiting._read()
        return waiting

    def __iter__(self) -> Iterator[Key]:
        return iter(self._waits)

    def __contains__(self, key: object) -> bool:
        return key in self._waits

    def on(self, holder: Key) -> Iterator[tuple[Key, Wait]]:
        """Yield the Destinations that wait for what another one has."""
        for key, wait in self._waits.items():
            if wait.holder == holder:
                yield key, wait

    async def change(self, entering: Mapping[Key, Wait], leaving: Collection[Key]) -> None:
        """Enter Destinations, and strike others out.

        Raises:
            KubernetesError: it could not be written.
        """
        for _ in range(_ATTEMPTS):
            fresh = {key: wait for key, wait in entering.items() if self._waits.get(key) != wait}
            gone = [key for key in leaving if key in self._waits and key not in entering]
            if len(self._waits) + len(fresh) > _MOST:
                logger.warning("over %d Destinations wait for others' directories: the resync looks at the rest", _MOST)
                fresh = {}
            if not fresh and not gone:
                return
            data = {_name(key): _text(key, wait) for key, wait in fresh.items()} | {_name(key): None for key in gone}
            try:
                await self._write(data)
            except KubernetesConflict:  # another place's function has changed it
                await asyncio.sleep(random.uniform(*_PAUSE_SECONDS))  # noqa: S311 -- jitter, not a secret
                await self._read()
            else:
                return
        raise KubernetesConflict(f"others keep changing ConfigMap {NAME}")

    async def _read(self) -> None:
        self._obj = await self._cluster.get("ConfigMap", self._namespace, NAME, self._deadline)
        self._waits = {}
        for text in ((self._obj or {}).get("data") or {}).values():
            try:
                key, holder, place, root = json.loads(text)
                self._waits[str(key[0]), str(key[1])] = Wait((str(holder[0]), str(holder[1])), str(place), str(root))
            except (ValueError, TypeError, IndexError):  # someone else's
                continue

    async def _write(self, data: Mapping[str, str | None]) -> None:
        if self._obj is None:
            metadata = {"name": NAME, "namespace": self._namespace}
            new = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
            texts = {name: text for name, text in data.items() if text is not None}
            written = await self._cluster.create({**new, "data": texts}, self._deadline)
        else:
            obj = {**self._obj, "kind": "ConfigMap"}
            written = await self._cluster.patch(obj, {"data": dict(data)}, self._deadline)
        if written is None:
            if self._obj is not None:  # deleted meanwhile
                raise KubernetesConflict(f"ConfigMap {NAME} is gone")
            raise KubernetesError(
                f"ConfigMap {NAME} cannot be created: namespace {self._namespace} does not exist; apply"
                " infra/kubernetes/rbac.yaml, which has it"
            )


def _name(key: Key) -> str:
    return sha256("/".join(key).encode()).hexdigest()[:32]


def _text(key: Key, wait: Wait) -> str:
    return json.dumps([key, wait.holder, wait.place, wait.root], separators=(",", ":"))
