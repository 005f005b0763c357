"""Where an object's documents have been written, so that nothing of ours stays behind when it moves.

See docs/failure-modes.md#46-moves.

A Destination remembers the directories that were its own, in which State Store, and the file of mode aggregatedYAML. A
WorkPlacement in mode nestedByMetadata remembers its directories below its Destination's. Both are annotations, written
before the first byte at a new place; an entry goes when that place is clean.
"""

import functools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from shared import paths
from shared.deadline import Deadline
from shared.errors import InvalidObject, KubernetesConflict, LandfallError
from shared.kube import Cluster, Key, Object, together
from shared.reconcile.leases import lease_name
from shared.reconcile.view import StoreKey, View, store_key
from shared.resources import CLEANUP_FINALIZER, Destination, StateStore, parse_state_store

LOCATIONS_ANNOTATION: Final = "landfall.kratix.io/locations"
DIRECTORIES_ANNOTATION: Final = "landfall.kratix.io/directories"

# What of a State Store's spec says where it is; the rest says how it is reached, and is read when it is needed.
_WHERE: Final = {
    "BucketStateStore": ("endpoint", "bucketName", "insecure"),
    "GitStateStore": ("url", "branch"),
}
_PASSWORD: Final = re.compile(r"(//[^/@:]*):[^/@]*@")


@dataclass(frozen=True, slots=True)
class Location:
    """A directory of a State Store that was a Destination's own.

    Attributes:
        kind, namespace, name: of the State Store object.
        where: of its spec at that time, what says where it is.
        root: the directory.
        filename: of the one file of mode aggregatedYAML; empty in the other modes.
    """

    kind: str
    namespace: str
    name: str
    where: tuple[tuple[str, str | bool], ...]
    root: str
    filename: str = ""

    @classmethod
    def of(cls, destination: Destination, store: StateStore) -> Self:
        """Return where a Destination's documents are written now.

        Raises:
            InvalidPath: a path is refused.
        """
        spec = store.spec.model_dump(by_alias=True)
        where = tuple((name, _without_password(spec[name])) for name in _WHERE[store.kind])
        mode = destination.spec.filepath
        filename = mode.filename if mode.mode == "aggregatedYAML" else ""
        return cls(*store_key(store), where, paths.destination_root(store, destination), filename)

    @property
    def place(self) -> str:
        """The name of the Lease of the State Store as it was then."""
        return _place(self.kind, self.where)

    @property
    def store_key(self) -> StoreKey:
        """Which State Store object it is in."""
        return self.kind, self.namespace, self.name

    def store(self, view: View) -> StateStore | None:
        """Return the State Store as it was then, with the credentials of now; None where the object is gone."""
        obj = view.stores.get(self.store_key)
        return None if obj is None else _state_store(self.kind, self.where, obj)

    def is_elsewhere(self, other: "Location") -> bool:
        """Whether another location is another directory, or in another place."""
        return (self.place, self.root) != (other.place, other.root)

    def __str__(self) -> str:
        return f"path {self.root or '/'!r} of {self.kind}/{self.name}"


@functools.lru_cache(maxsize=4096)
def _place(kind: str, where: tuple[tuple[str, str | bool], ...]) -> str:
    """Return the Lease of a State Store; asked several times for each Destination, of which many share one."""
    return lease_name(_state_store(kind, where, {"metadata": {"name": "remembered"}}).identity)


def _state_store(kind: str, where: tuple[tuple[str, str | bool], ...], obj: Mapping[str, Any]) -> StateStore:
    """Return a State Store object as it would be elsewhere.

    Raises:
        InvalidObject: it can be nowhere like that.
    """
    return parse_state_store({**obj, "kind": kind, "spec": {**(obj.get("spec") or {}), **dict(where)}})


def recorded(obj: Object) -> tuple[Location, ...] | None:
    """Return the locations that a Destination remembers; None where it remembers none, or what cannot be read."""
    text = _annotation(obj, LOCATIONS_ANNOTATION)
    if text is None:
        return None
    try:
        found = tuple(
            Location(**{**entry, "where": tuple((str(name), value) for name, value in entry["where"])})
            for entry in json.loads(text)
        )
        _ = [location.place for location in found]
    except (ValueError, TypeError, KeyError, InvalidObject):
        return None
    return found


def location_annotation(locations: Iterable[Location]) -> dict[str, str]:
    """Return the annotation by which a Destination remembers locations."""
    entries = [
        {"kind": at.kind, "namespace": at.namespace, "name": at.name, "where": at.where, "root": at.root}
        | ({"filename": at.filename} if at.filename else {})
        for at in dict.fromkeys(locations)
    ]
    return {LOCATIONS_ANNOTATION: json.dumps(entries, separators=(",", ":"))}


async def hold(
    writes: Mapping[Key, tuple[Destination, StateStore | None]], view: View, cluster: Cluster, deadline: Deadline
) -> dict[Key, LandfallError]:
    """See to it that what is going to be written for Destinations is found again, before the first byte.

    That is the finalizer of `cleanup: all`, and the annotation with the location where that is a new one. The view has
    the Destinations as they are afterwards. A Destination that leaves its files behind has its first location recorded
    only when it is Ready, with no time of the write.

    Args:
        writes: by key, a Destination and its State Store; None where it is not going to be written.
        view: of the cluster.
        cluster: where they are.
        deadline: of the invocation.

    Returns:
        Why some must not be written: `KubernetesConflict` where one has changed meanwhile.
    """

    async def one(key: Key, destination: Destination, store: StateStore | None) -> LandfallError | None:
        obj = view.destinations[key]
        try:
            patch = _hold(obj, destination, None if store is None else Location.of(destination, store))
            if patch:
                patched = await cluster.patch({**obj, "kind": "Destination"}, {"metadata": patch}, deadline)
                if patched is None:
                    return KubernetesConflict(f"Destination {destination.name} is gone")
                view.destinations[key] = patched
        except LandfallError as error:
            return error
        return None

    errors = await together(one(key, *write) for key, write in writes.items())
    return {key: error for key, error in zip(writes, errors, strict=True) if error is not None}


def _hold(obj: Object, destination: Destination, current: Location | None) -> dict[str, Any]:
    """Return what to merge into a Destination's metadata before it is written; empty where nothing is missing."""
    patch: dict[str, Any] = {}
    known, finalizers = recorded(obj), list(obj["metadata"].get("finalizers") or ())
    cleaned_up = destination.spec.cleanup == "all"
    if cleaned_up and CLEANUP_FINALIZER not in finalizers:
        patch["finalizers"] = [*finalizers, CLEANUP_FINALIZER]
    if current is not None and current not in (known or ()) and (known or cleaned_up):
        patch["annotations"] = location_annotation([*(known or ()), current])
    return patch


def left_behind(obj: Object, current: Location) -> tuple[Location, ...]:
    """Return the locations that a Destination remembers and that are no longer its own."""
    return tuple(location for location in recorded(obj) or () if location.is_elsewhere(current))


def own_directories(current: Location, root: str, destination: Destination) -> set[str]:
    """Return what a living Destination has now of a directory that it is leaving in the same place.

    Raises:
        InvalidObject: its documents may lie anywhere in that directory, so that none may be deleted.
    """
    if paths.is_within(current.root, root):
        return {current.root}
    if not paths.is_within(root, current.root):
        return set()
    if destination.spec.filepath.mode == "nestedByMetadata":
        return {paths.join(current.root, directory) for directory in ("dependencies", "resources")}
    raise InvalidObject(
        f"path {root!r} lies inside the Destination's new path: remove by hand what is not wanted there"
    )


def old_files(obj: Object, current: Location) -> frozenset[str]:
    """Return the files of mode aggregatedYAML that a Destination had under other names, right where it is now."""
    same = (location for location in recorded(obj) or () if not location.is_elsewhere(current))
    names = {location.filename for location in same} - {"", current.filename}
    return frozenset(paths.join(current.root, name) for name in names)


def recorded_directories(obj: Object) -> tuple[str, ...] | None:
    """Return the directories that a WorkPlacement remembers, below its Destination's; None where it remembers none."""
    text = _annotation(obj, DIRECTORIES_ANNOTATION)
    if text is None:
        return None
    try:
        return tuple(paths.check(str(directory)) for directory in json.loads(text))
    except (ValueError, TypeError, InvalidObject):
        return None


def directories_annotation(directories: Iterable[str]) -> dict[str, str]:
    """Return the annotation by which a WorkPlacement remembers directories."""
    return {DIRECTORIES_ANNOTATION: json.dumps(list(dict.fromkeys(directories)))}


def _without_password(value: Any) -> Any:
    """Return a URL without a password that someone wrote into it: the writer refuses it, and it is a secret."""
    return _PASSWORD.sub(r"\1@", value) if isinstance(value, str) else value


def _annotation(obj: Object, name: str) -> str | None:
    found = (obj["metadata"].get("annotations") or {}).get(name)
    return found if isinstance(found, str) else None
