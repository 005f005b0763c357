"""Whose directory it is: the oldest Destination's that wants it, as its claim says and the Destination confirms.

A claim is a hint by which the other Destination is found; where it is in the way, that one is read by name. So a claim
whose Destination is gone or has moved holds no one up.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum

from shared.deadline import Deadline
from shared.errors import InvalidObject
from shared.kube import Cluster, Key, Object, key_of, uid_of
from shared.messages import Reference
from shared.reconcile.claims import Claimant, Claims
from shared.reconcile.locations import recorded
from shared.reconcile.view import StoreKey, View
from shared.reconcile.waiting import Wait, Waiting
from shared.resources import CLEANUP_FINALIZER, Destination


@dataclass(frozen=True, slots=True)
class Clash:
    """Why a Destination does not get its directory.

    Attributes:
        holder: who has it.
        leaving: whether that one is being deleted or has moved, and its files are still to go.
    """

    holder: Claimant
    leaving: bool


@dataclass
class Claimed:
    """What became of the claims of some Destinations.

    Attributes:
        clashes: those that do not get their directories.
        displaced: younger ones that have lost theirs to an older one, and do not know yet.
    """

    clashes: dict[Key, Clash] = field(default_factory=dict)
    displaced: list[Key] = field(default_factory=list)


class Standing(Enum):
    """What has become of the Destination that a claim names."""

    HAS = "it is alive, and the directory is its own"
    LEAVES = "it is being deleted or has moved, and its files are still to go"
    LOST = "it is gone, or has another directory by now and leaves nothing that could be cleaned"


@dataclass
class Site:
    """A place whose Lease is held.

    Attributes:
        place: the Lease's name.
        claims: of the place.
        cluster_name: that messages carry.
        deadline: after which no call to the State Store may begin.
    """

    place: str
    claims: Claims
    cluster_name: str
    cluster: Cluster
    namespace: str
    deadline: Deadline

    async def claim(
        self, wanted: Mapping[Key, tuple[Destination, str]], waiting: Waiting | None, *, take_over: bool
    ) -> Claimed:
        """Let Destinations have their directories, as far as no older one has them; the claims are saved.

        Args:
            wanted: by key, a Destination and its directory at this place.
            waiting: who waits, where that has been read already.
            take_over: whether a living, younger one has to give way.

        Raises:
            KubernetesError: claims could not be read or written, so that nothing of these may be written.
        """
        await self.claims.load(root for _, root in wanted.values())
        others = [(d, root) for d, root in wanted.values() if self._uid_of_holder(root) != d.metadata.uid]
        if not others:
            return Claimed()
        await self.claims.load((root for _, root in others), around=True)
        contested: dict[Key, tuple[Claimant, Claimant, str]] = {}
        for key in sorted(wanted, key=lambda key: claimant_of(wanted[key][0])):
            destination, root = wanted[key]
            own, holder = claimant_of(destination), self.claims.holder(root)
            if holder is None:
                self.claims.take(root, own)
            elif holder.uid != own.uid:
                contested[key] = own, holder, root
        claimed = Claimed()
        await self._settle(contested, claimed, take_over=take_over)
        if claimed.clashes:
            waiting = waiting or await Waiting.read(self.namespace, self.cluster, self.deadline)
            waits = {
                key: Wait((clash.holder.namespace, clash.holder.name), self.place, wanted[key][1])
                for key, clash in claimed.clashes.items()
            }
            await waiting.change(waits, ())
            # The others may have let go before these were entered, and looked for no one.
            again = {key: contested[key] for key in claimed.clashes}
            claimed.clashes.clear()
            await self._settle(again, claimed, take_over=take_over)
        await self.claims.save()
        return claimed

    async def _settle(
        self, contested: Mapping[Key, tuple[Claimant, Claimant, str]], claimed: Claimed, *, take_over: bool
    ) -> None:
        view = await self._view_of(holder for _, holder, _ in contested.values())
        for key, (own, _, root) in contested.items():
            holder = self.claims.holder(root)
            if holder is None or holder.uid == own.uid:
                self.claims.take(root, own)
                continue
            standing = self._standing(holder, root, view)
            if standing is Standing.LOST or (take_over and standing is Standing.HAS and own < holder):
                self.claims.take(root, own)
                if standing is Standing.HAS:
                    claimed.displaced.append((holder.namespace, holder.name))
            else:
                claimed.clashes[key] = Clash(holder, standing is Standing.LEAVES)

    async def others_inside(self, root: str, own_uid: str, touched: Collection[str] | None = None) -> frozenset[str]:
        """Return the directories at or below one that are other Destinations'.

        Args:
            root: the directory.
            own_uid: of the Destination that asks.
            touched: where given, only directories that hold one of these paths, or lie in one of them.

        Raises:
            KubernetesError: it could not be found out, so that nothing in that directory may be deleted.
        """
        await self.claims.load([root])
        inside = await self.claims.inside(root)
        found = dict(inside.holders) if touched is None else inside.touching(touched)
        if (holder := self.claims.holder(root)) is not None:
            found[root] = holder
        found = {other: holder for other, holder in found.items() if holder.uid != own_uid}
        view = await self._view_of(found.values())
        living = {other for other, holder in found.items() if self._standing(holder, other, view) is not Standing.LOST}
        if gone := found.keys() - living:
            await self.claims.load(gone, around=True)
            for other in gone:
                self.claims.give_up(other)
            await self.claims.save()
        return frozenset(living)

    async def owns(self, root: str, uid: str) -> bool:
        """Return whether a directory is a Destination's own, or no one's.

        Raises:
            KubernetesError: it could not be found out.
        """
        await self.claims.load([root])
        holder = self.claims.holder(root)
        if holder is None or holder.uid == uid:
            return True
        view = await self._view_of([holder])
        return self._standing(holder, root, view) is Standing.LOST

    async def give_up(self, roots: Iterable[tuple[str, str]]) -> None:
        """Let directories be no one's, as far as they are the Destinations' of these uids; the claims are saved.

        Raises:
            KubernetesError: claims could not be read or written.
        """
        roots = list(roots)
        await self.claims.load((root for root, _ in roots), around=True)
        for root, uid in roots:
            if self._uid_of_holder(root) == uid:
                self.claims.give_up(root)
        await self.claims.save()

    async def forget(self, roots: Collection[str]) -> None:
        """Give up the claims to directories that no Destination confirms; the claims are saved.

        Raises:
            KubernetesError: claims could not be read or written.
        """
        await self.claims.load(roots, around=True)
        held = {root: holder for root in roots if (holder := self.claims.holder(root)) is not None}
        view = await self._view_of(held.values())
        for root, holder in held.items():
            if self._standing(holder, root, view) is Standing.LOST:
                self.claims.give_up(root)
        await self.claims.save()

    def _uid_of_holder(self, root: str) -> str:
        holder = self.claims.holder(root)
        return "" if holder is None else holder.uid

    async def _view_of(self, claimants: Iterable[Claimant]) -> View:
        keys = {(claimant.namespace, claimant.name) for claimant in claimants}
        view = await View.of(self.cluster_name, self.cluster, self.deadline, keys)
        await view.read(self.cluster, self.deadline, stores=remembered_stores(view))
        return view

    def _standing(self, claimant: Claimant, root: str, view: View) -> Standing:
        key = (claimant.namespace, claimant.name)
        if uid_of(view.destinations.get(key)) != claimant.uid:
            return Standing.LOST
        return standing(key, (self.place, root), view)


def standing(key: Key, there: tuple[str, str], view: View) -> Standing:
    """Return how a Destination stands to a directory.

    Args:
        key: of the Destination.
        there: the place and the directory.
        view: with the Destination, and the State Stores of the locations that it remembers.
    """
    obj = view.destinations.get(key)
    if obj is None:
        return Standing.LOST
    where, deleted = view.where(key), bool(obj["metadata"].get("deletionTimestamp"))
    if where == there and not deleted:
        return Standing.HAS
    if not is_cleaned_up(obj) or (where is None and not deleted):  # no cleanup finds what it has left
        return Standing.LOST
    left = any(
        (location.place, location.root) == there and location.store_key in view.stores
        for location in recorded(obj) or ()
    )
    return Standing.LEAVES if left or where == there else Standing.LOST


def remembered_stores(view: View) -> set[StoreKey]:
    """Return the State Stores of the locations that Destinations remember."""
    return {location.store_key for obj in view.destinations.values() for location in recorded(obj) or ()}


def claimant_of(destination: Destination) -> Claimant:
    """Return a Destination as claims name it."""
    metadata = destination.metadata
    created = metadata.creation_timestamp.timestamp() if metadata.creation_timestamp else 0.0
    return Claimant(created, metadata.namespace, metadata.name, metadata.uid)


class AllClaims:
    """Claims as all Destinations of a cluster say, read once for all places that ask before the reading begins."""

    def __init__(self, name: str, cluster: Cluster, deadline: Deadline) -> None:
        self._name, self._cluster, self._deadline = name, cluster, deadline
        self._next: asyncio.Task[dict[str, list[tuple[str, Claimant]]]] | None = None
        self._current: asyncio.Task[dict[str, list[tuple[str, Claimant]]]] | None = None

    async def of(self, place: str) -> list[tuple[str, Claimant]]:
        """Return all claims of a place: the Destinations' own directories, the oldest one's first.

        Then what those have at the place that are being deleted, or have moved. Nothing is older than the asking.

        Raises:
            KubernetesError: the Destinations could not be read.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._read(self._current))
        return (await asyncio.shield(self._next)).get(place, [])

    async def _read(
        self, before: asyncio.Task[dict[str, list[tuple[str, Claimant]]]] | None
    ) -> dict[str, list[tuple[str, Claimant]]]:
        await asyncio.sleep(0)  # those that got their Lease with this one share its reading
        if before is not None:
            await asyncio.wait([before])
        self._current, self._next = self._next, None
        view = await View.of_stores(self._name, self._cluster, self._deadline)
        own: dict[str, list[tuple[Claimant, str]]] = {}
        left: dict[str, list[tuple[Claimant, str]]] = {}
        async for page in self._cluster.pages("Destination", self._deadline):
            for obj in page:
                key = key_of(obj)
                with suppress(InvalidObject):
                    claimant = claimant_of(Destination.parse(obj))
                    view.destinations[key] = obj
                    if (where := view.where(key)) is not None:
                        own.setdefault(where[0], []).append((claimant, where[1]))
                    for location in recorded(obj) or ():
                        left.setdefault(location.place, []).append((claimant, location.root))
                    view.forget(key)
        return {
            place: [(root, claimant) for claimant, root in (*sorted(own.get(place, ())), *sorted(left.get(place, ())))]
            for place in own.keys() | left.keys()
        }


def look_again(cluster: str, keys: Iterable[Key], place: str, attempt: int = 0) -> list[Reference]:
    """Return the messages that have Destinations decided about once more."""
    return [
        Reference(cluster=cluster, kind="Destination", namespace=namespace, name=name, place=place, attempt=attempt)
        for namespace, name in dict.fromkeys(keys)
    ]


def is_cleaned_up(obj: Object) -> bool:
    """Whether a Destination's files go before it does."""
    turned_on = (obj.get("spec") or {}).get("cleanup", "none") == "all"
    return turned_on and CLEANUP_FINALIZER in (obj["metadata"].get("finalizers") or ())
