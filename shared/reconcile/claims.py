"""Which Destination has which directory of a place: claims, read and written by name under the place's Lease.

A claim lies in one of some ConfigMaps, its shards: which one follows from a hash of the directory, and from the number
of shards, which the Lease knows. So a change reads the claims that it concerns, whatever the size of the fleet, and a
batch of new Destinations writes few objects (docs/decisions/0003-claims.md).
"""

import bisect
import json
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import Any, Final, Self

from shared import paths
from shared.errors import KubernetesError, KubernetesUnavailable
from shared.kube import Object, together
from shared.reconcile.leases import CLAIMS_ANNOTATION, Held, Leases, claimed_shards, claims_text

CLAIM: Final = "Claim"  # the kind of a message about a claim, whose name is its directory after a `/`
PLACE_LABEL: Final = "landfall.kratix.io/place"

_OF_A_SHARD: Final = 50  # claims on the average: 10 KB, which a single change reads a few times
_FULL: Final = 2 * _OF_A_SHARD
_LISTED_INSIDE: Final = 100  # directories; of more, a claim says only that there are many


@dataclass(frozen=True, slots=True, order=True)
class Claimant:
    """A Destination as a claim names it; the order is that of age.

    Attributes:
        created: seconds since the epoch.
    """

    created: float
    namespace: str
    name: str
    uid: str


@dataclass(slots=True)
class _Claim:
    """What is known of one directory.

    Attributes:
        holder: whose directory it is; None for one that only has others inside.
        inside: the claimed directories below it; None where they are too many to be listed.
    """

    holder: Claimant | None = None
    inside: set[str] | None = field(default_factory=set)

    def text(self, root: str) -> str | None:
        if self.holder is None and self.inside == set():
            return None
        found: dict[str, Any] = {"root": root}
        if self.holder is not None:
            found["holder"] = [self.holder.created, self.holder.namespace, self.holder.name, self.holder.uid]
        if self.inside != set():
            found["inside"] = None if self.inside is None else sorted(self.inside)
        return json.dumps(found, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def read(cls, text: str) -> tuple[str, Self]:
        found = json.loads(text)
        holder, inside = found.get("holder"), found.get("inside", [])
        return str(found["root"]), cls(
            None if holder is None else Claimant(*holder), None if inside is None else set(inside)
        )


@dataclass(slots=True)
class _Shard:
    """One ConfigMap; `obj` is None where there is none yet."""

    obj: Object | None
    claims: dict[str, _Claim]

    @classmethod
    def read(cls, obj: Object | None) -> Self:
        texts = {} if obj is None else obj.get("data") or {}
        try:
            return cls(obj, dict(_Claim.read(text) for text in texts.values()))
        except (ValueError, TypeError, KeyError):
            return cls(None if obj is None else {**obj, "broken": True}, {})


@dataclass(frozen=True)
class Inside:
    """The claimed directories below one.

    Attributes:
        holders: by directory, whose it is.
    """

    holders: Mapping[str, Claimant]

    @cached_property
    def _sorted(self) -> list[str]:
        return sorted(self.holders)

    def touching(self, touched: Iterable[str]) -> dict[str, Claimant]:
        """Return those that hold one of some paths, or lie at or below one."""
        found: dict[str, Claimant] = {}
        for path in touched if self.holders else ():
            around = (directory for directory in (*paths.parents(path), path) if directory in self.holders)
            found |= {directory: self.holders[directory] for directory in around}
            prefix = f"{path}/" if path else ""
            for at in range(bisect.bisect_left(self._sorted, prefix), len(self._sorted)):
                if not self._sorted[at].startswith(prefix):
                    break
                found[self._sorted[at]] = self.holders[self._sorted[at]]
        return found


# All claims of a place, from the objects themselves; of two for one directory, the first counts.
Rebuild = Callable[[], Awaitable[list[tuple[str, Claimant]]]]


class Claims:
    """The claims of one place, for the holder of its Lease; what is taken or given up counts when it is saved.

    Attributes:
        held: the Lease.
    """

    def __init__(self, place: str, held: Held, leases: Leases, rebuild: Rebuild) -> None:
        """Begin; `open` reads how many shards there are, and makes the claims where they are not complete."""
        self.held = held
        self._place, self._leases, self._rebuild = place, leases, rebuild
        self._count = 0
        self._shards: dict[int, _Shard] = {}
        self._inside: dict[str, Inside] = {}

    @classmethod
    async def open(cls, place: str, held: Held, leases: Leases, rebuild: Rebuild) -> Self:
        """Return the claims of a place, complete.

        Args:
            place: its Lease's name.
            held: its Lease.
            leases: to write to it.
            rebuild: returns all claims as the Destinations say; called only where they are not complete.

        Raises:
            KubernetesError: they could not be made; nothing may be written or deleted at the place.
        """
        claims = cls(place, held, leases, rebuild)
        claims._count = claimed_shards(held.lease)
        if not claims._count:
            await claims.rebuild()
        return claims

    async def load(self, roots: Iterable[str], *, around: bool = False) -> None:
        """Read the claims of directories, and of the directories that those lie in.

        Args:
            roots: the directories.
            around: whether claims are going to be taken or given up, which the directories around are to know.

        Raises:
            KubernetesError: they could not be read.
        """
        wanted = (directory for root in roots for directory in ((*_ancestors(root), root) if around else (root,)))
        await self._load({self._at(directory) for directory in wanted})

    def holder(self, root: str) -> Claimant | None:
        """Return who has a directory that has been loaded."""
        claim = self._claims(root).get(root)
        return None if claim is None else claim.holder

    def take(self, root: str, claimant: Claimant) -> None:
        """Let a Destination have a directory that has been loaded with those around it."""
        self._inside.clear()
        self._claims(root).setdefault(root, _Claim()).holder = claimant
        for outer in _ancestors(root):
            claim = self._claims(outer).setdefault(outer, _Claim())
            if claim.inside is not None:
                claim.inside.add(root)
                if len(claim.inside) > _LISTED_INSIDE:
                    claim.inside = None

    def give_up(self, root: str) -> None:
        """Let a directory that has been loaded with those around it be no one's."""
        self._inside.clear()
        if (claim := self._claims(root).get(root)) is not None:
            claim.holder = None
        for outer in _ancestors(root):
            around = self._claims(outer).get(outer)
            if around is not None and around.inside is not None:
                around.inside.discard(root)

    async def inside(self, root: str) -> "Inside":
        """Return the claimed directories below one that has been loaded; they are loaded then.

        Raises:
            KubernetesError: they could not be read.
        """
        if root not in self._inside:
            self._inside[root] = Inside(await self._read_inside(root))
        return self._inside[root]

    async def _read_inside(self, root: str) -> dict[str, Claimant]:
        claim = self._claims(root).get(root)
        if claim is None:
            return {}
        if claim.inside is None:
            everything = await self._everything()
            found = {other: one.holder for other, one in everything.items() if paths.is_within(other, root)}
        else:
            await self.load(claim.inside)
            found = {other: self.holder(other) for other in sorted(claim.inside)}
        return {other: holder for other, holder in found.items() if holder is not None and other != root}

    async def save(self) -> None:
        """Write what has changed, in more shards where one is full.

        Raises:
            KubernetesError: it could not be written.
        """
        if any(len(shard.claims) > _FULL for shard in self._shards.values()):
            await self._fill(await self._everything(), complete=self._count)
        else:
            await self._write(self._shards)

    async def rebuild(self) -> None:
        """Make all claims as the Destinations say, and say on the Lease that they are complete.

        Raises:
            KubernetesError: the Destinations could not be read, or the claims not written.
        """
        fresh: dict[str, _Claim] = {}
        self._count, self._shards = 1, {0: _Shard(None, fresh)}
        for root, claimant in await self._rebuild():
            if root not in fresh or fresh[root].holder is None:
                self.take(root, claimant)  # in one shard, until it is known how many are needed
        await self._fill(fresh, complete=0)

    def _claims(self, root: str) -> dict[str, _Claim]:
        return self._shards[self._at(root)].claims

    def _at(self, root: str) -> int:
        return int(_hash(root)[:8], 16) % self._count

    async def _everything(self) -> dict[str, _Claim]:
        await self._load(set(range(self._count)))
        return {root: claim for shard in self._shards.values() for root, claim in shard.claims.items()}

    async def _load(self, wanted: set[int]) -> None:
        missing = sorted(wanted - self._shards.keys())
        shards = await together(self._read(at) for at in missing)
        if any(shard.obj is None or "broken" in shard.obj for shard in shards):
            await self._leases.annotate(self.held, {CLAIMS_ANNOTATION: None})
            raise KubernetesUnavailable(
                f"claims of {self._place} have been deleted or rewritten by others: they are made again"
            )
        for at, shard in zip(missing, shards, strict=True):
            # What a growth that was cut short has moved elsewhere, or has not taken along, is not this shard's.
            shard.claims = {root: claim for root, claim in shard.claims.items() if self._at(root) == at}
            self._shards[at] = shard

    async def _fill(self, claims: Mapping[str, _Claim], complete: int) -> None:
        """Write all claims, into as many shards as they need, and say so on the Lease.

        Whatever is cut short, what the Lease says is complete: the shards that it counts lose their claims last.
        """
        count = 1
        while count * _OF_A_SHARD < len(claims):
            count *= 2
        shards = await together(self._read(at) for at in range(count))
        self._count, self._shards = count, dict(enumerate(shards))
        for shard in shards:
            shard.claims = {}
        for root, claim in claims.items():
            self._claims(root)[root] = claim
        await self._write({at: shard for at, shard in enumerate(shards) if at >= complete}, empty=True)
        said = claims_text(self.held.lease, count, self.held.lease["spec"]["leaseTransitions"])
        self.held = await self._leases.annotate(self.held, {CLAIMS_ANNOTATION: said})
        await self._write({at: shard for at, shard in enumerate(shards) if at < complete})

    async def _read(self, at: int) -> _Shard:
        settings, cluster = self._leases.settings, self._leases.cluster
        return _Shard.read(await cluster.get("ConfigMap", settings.lease_namespace, self._name(at), self.held.deadline))

    def _name(self, at: int) -> str:
        return f"{self._place.replace('place-', 'claims-', 1)}-{at}"

    async def _write(self, shards: Mapping[int, _Shard], *, empty: bool = False) -> None:
        async def write(at: int, shard: _Shard) -> None:
            texts = {_hash(root)[:32]: text for root, claim in shard.claims.items() if (text := claim.text(root))}
            known = {} if shard.obj is None else shard.obj.get("data") or {}
            if texts != known or (empty and shard.obj is None):
                shard.obj = await self._store(at, shard.obj, texts)

        await together(write(at, shard) for at, shard in shards.items())

    async def _store(self, at: int, known: Object | None, texts: Mapping[str, str]) -> Object:
        cluster, settings = self._leases.cluster, self._leases.settings
        if known is None:
            metadata = {"name": self._name(at), "namespace": settings.lease_namespace, "labels": self._labels}
            new = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": dict(texts)}
            stored = await cluster.create(new, self.held.deadline)
        else:
            gone: dict[str, str | None] = dict.fromkeys((known.get("data") or {}).keys() - texts.keys())
            changed = {key: text for key, text in texts.items() if (known.get("data") or {}).get(key) != text}
            obj = {**known, "kind": "ConfigMap"}
            stored = await cluster.patch(obj, {"data": {**gone, **changed}}, self.held.deadline)
        if stored is None:
            raise KubernetesError(
                f"ConfigMap {self._name(at)} cannot be written: it, or namespace {settings.lease_namespace}, is gone;"
                " apply infra/kubernetes/rbac.yaml"
            )
        return stored

    @property
    def _labels(self) -> dict[str, str]:
        return {PLACE_LABEL: self._place}


def named_in(obj: Object) -> Iterator[tuple[str, str, Claimant]]:
    """Yield the claims of one shard: place, directory and claimant."""
    place = (obj["metadata"].get("labels") or {}).get(PLACE_LABEL, "")
    for root, claim in _Shard.read(obj).claims.items():
        if claim.holder is not None:
            yield place, root, claim.holder


def _hash(root: str) -> str:
    return sha256(root.encode()).hexdigest()


def _ancestors(root: str) -> list[str]:
    """Return the directories that one lies in, the State Store's root first."""
    return ["", *paths.parents(root)] if root else []
