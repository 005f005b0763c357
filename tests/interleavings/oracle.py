"""What must be true when all is at rest, from the objects alone: by docs/contract.md, not by our code."""

import base64
import gzip
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from tests.chaos.model import canaries, join, within
from tests.interleavings.world import World

Object = dict[str, Any]

_FINALIZERS: Final = ("kratix.io/", "finalizers.workplacement.kratix.io/")
PIPELINE: Final = "kratix.io/pipeline-name"


@dataclass
class Wanted:
    """What one place must hold.

    Attributes:
        files: content by path.
        state_files: by path, the file names that it must list (their order and its other fields do not matter).
        either: paths that may be there or not.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    state_files: dict[str, list[str]] = field(default_factory=dict)
    either: set[str] = field(default_factory=set)


@dataclass
class Expectation:
    """What the objects cannot tell.

    Attributes:
        strangers: by place, files of others, which must be there untouched, but for those below what was cleaned up.
        cleaned: by place, directories of Destinations that were deleted with cleanup: all.
        left: by place, files that stay where they were: of Destinations that were moved or deleted with cleanup: none.
    """

    strangers: Mapping[str, Mapping[str, bytes]]
    cleaned: dict[str, set[str]] = field(default_factory=dict)
    left: dict[str, set[str]] = field(default_factory=dict)


def differences(world: World, expected: Expectation) -> list[str]:
    """Return, as sentences, everything that is not as it must be."""
    judge = _Judge(world, expected)
    return [*judge.messages(), *judge.objects(), *judge.contents(), *world.machine.surprises]


class _Judge:
    def __init__(self, world: World, expected: Expectation) -> None:
        self._world = world
        self._expected = expected
        self._destinations = {d["metadata"]["name"]: d for d in world.store.all("Destination")}
        self._stores = {
            s["metadata"]["name"]: s for k in ("BucketStateStore", "GitStateStore") for s in world.store.all(k)
        }
        self._placements = world.store.all("WorkPlacement")
        self._refused = dict(self._clashes())

    def messages(self) -> Iterator[str]:
        """Judge the queues."""
        for message in self._world.queues.messages:
            yield f"a message is left: {message}: {message.body[:200]}"
        for message in self._world.queues.dead:
            yield f"a message is in the dead-letter queue: {message}: {message.body[:200]}"

    def objects(self) -> Iterator[str]:
        """Judge conditions and finalizers."""
        for obj in [*self._destinations.values(), *self._placements, *self._world.store.all("Work")]:
            metadata = obj["metadata"]
            if metadata.get("deletionTimestamp"):
                held = [f for f in metadata.get("finalizers") or () if f.startswith(_FINALIZERS)]
                yield f"{_name(obj)} is held by {held} since its deletion"
        for obj in self._stores.values():
            yield from _condition(obj, "Ready", "True")
        for obj in self._destinations.values():
            if not obj["metadata"].get("deletionTimestamp"):
                clash = obj["metadata"]["name"] in self._refused
                yield from _condition(obj, "Ready", "False" if clash else "True", "PathClash" if clash else "")
        for obj in self._placements:
            yield from self._placement(obj)
        for obj in self._world.store.all("Work"):
            yield from self._work(obj)

    def contents(self) -> Iterator[str]:
        """Judge the State Stores' files."""
        for where, found in {**_files(self._world.buckets), **_files(self._world.remotes)}.items():
            wanted = self._wanted(where)
            for path in sorted({*found, *wanted.files, *wanted.state_files}):
                content = found.get(path)
                if path in wanted.state_files:
                    if content is None or _listed(content) != sorted(wanted.state_files[path]):
                        has = "is not there" if content is None else f"lists {_listed(content)}"
                        yield f"{where}: state file {path} {has}; it must list {sorted(wanted.state_files[path])}"
                elif path in wanted.files and content is None:
                    yield f"{where}: {path} is not there"
                elif path in wanted.files and content != wanted.files[path]:
                    yield f"{where}: {path} holds {(content or b'')[:80]!r}, not {wanted.files[path][:80]!r}"
                elif path not in wanted.files and path not in wanted.either:
                    yield f"{where}: {path} is there, and nothing asks for it"

    def _wanted(self, where: str) -> Wanted:
        wanted = Wanted()
        for name, destination in self._destinations.items():
            store = self._stores.get(destination["spec"]["stateStoreRef"]["name"])
            if store is None or _place(store) != where or name in self._refused:
                continue
            root = _root(store, destination)
            mode = _mode(destination)
            if (destination["spec"].get("initWorkloads") or {}).get("enabled", True):
                wanted.files |= canaries(root, mode)
            mine = [p for p in self._placements if p["spec"]["targetDestinationName"] == name]
            _place_all(wanted, root, destination, [p for p in mine if not p["metadata"].get("deletionTimestamp")])
        cleaned = self._expected.cleaned.get(where, set())
        for path, content in self._expected.strangers.get(where, {}).items():
            if any(within(path, root) for root in cleaned):
                wanted.either.add(path)
            else:
                wanted.files[path] = content
        wanted.either |= self._expected.left.get(where, set())
        return wanted

    def _clashes(self) -> Iterator[tuple[str, str]]:
        """Yield the Destinations whose path an older one has, with that one."""

        def age(destination: Object) -> tuple[str, str]:
            return destination["metadata"]["creationTimestamp"], destination["metadata"]["name"]

        owners: dict[tuple[str, str], str] = {}
        for destination in sorted(self._destinations.values(), key=age):
            store = self._stores.get(destination["spec"]["stateStoreRef"]["name"])
            if store is not None:
                name = destination["metadata"]["name"]
                owner = owners.setdefault((_place(store), _root(store, destination)), name)
                if owner != name:
                    yield name, owner

    def _placement(self, obj: Object) -> Iterator[str]:
        metadata = obj["metadata"]
        if metadata.get("deletionTimestamp"):
            return
        destination = self._destinations.get(obj["spec"]["targetDestinationName"])
        if destination is None:
            if metadata.get("ownerReferences"):
                yield f"{_name(obj)} is there, and its Destination is gone"
            return
        if destination["metadata"].get("deletionTimestamp"):
            return  # that it is held is said of the Destination
        if destination["metadata"]["name"] in self._refused:
            yield from _condition(obj, "WriteSucceeded", "False")
            return
        yield from _condition(obj, "WriteSucceeded", "True")
        misplaced = (metadata.get("labels") or {}).get("kratix.io/misplaced") == "true"
        yield from _condition(obj, "Ready", "False" if misplaced else "True")
        if metadata.get("ownerReferences"):
            yield from _condition(obj, "ScheduleSucceeded", "False" if misplaced else "True")
        if not (obj.get("status") or {}).get("versionID"):
            yield f"{_name(obj)} has no versionID"

    def _work(self, obj: Object) -> Iterator[str]:
        if obj["metadata"].get("deletionTimestamp"):
            return
        uid = obj["metadata"]["uid"]
        mine = [p for p in self._placements if any(o["uid"] == uid for o in p["metadata"].get("ownerReferences") or ())]
        at = {(p["spec"]["id"], p["spec"]["targetDestinationName"]): p for p in mine}
        complete = True
        for group in obj["spec"].get("workloadGroups") or ():
            selected = group.get("destinationSelectors") or ()
            labels = {k: v for s in selected for k, v in (s.get("matchLabels") or {}).items()}
            fitting = [
                name
                for name, d in self._destinations.items()
                if not d["metadata"].get("deletionTimestamp")
                and all((d["metadata"].get("labels") or {}).get(k) == v for k, v in labels.items())
            ]
            complete = complete and bool(fitting)
            here = {name: p for (group_id, name), p in at.items() if group_id == group["id"]}
            yield from self._marks(here, fitting)
            if obj["spec"].get("resourceName"):
                placed = [name for group_id, name in at if group_id == group["id"]]
                if fitting and len(placed) != 1:
                    yield f"{_name(obj)}: group {group['id']} is at {placed}; it must be at one Destination"
            else:
                for name in fitting:
                    if (group["id"], name) not in at:
                        yield f"{_name(obj)}: group {group['id']} is not at Destination {name}"
        groups = {group["id"]: group for group in obj["spec"].get("workloadGroups") or ()}
        for (group_id, name), placement in at.items():
            if group_id not in groups:
                yield f"{_name(placement)} is of group {group_id}, which its Work has no longer"
            elif placement["spec"].get("workloads") != groups[group_id].get("workloads"):
                yield f"{_name(placement)} has other documents than its Work has for Destination {name}"
        misplaced = any((p["metadata"].get("labels") or {}).get("kratix.io/misplaced") == "true" for p in mine)
        yield from _condition(obj, "Ready", "True" if complete and not misplaced else "False")

    def _marks(self, placed: Mapping[str, Object], fitting: Sequence[str]) -> Iterator[str]:
        """Judge which WorkPlacements of a group are marked as misplaced, by their Destinations' names."""
        for name, placement in placed.items():
            marked = (placement["metadata"].get("labels") or {}).get("kratix.io/misplaced") == "true"
            judged = name in self._destinations and not placement["metadata"].get("deletionTimestamp")
            if judged and marked == (name in fitting):
                yield f"{_name(placement)} {'is' if marked else 'is not'} marked as misplaced"


def _place_all(wanted: Wanted, root: str, destination: Object, placements: list[Object]) -> None:
    mode = _mode(destination)
    if mode == "aggregatedYAML":
        contents = [c for p in sorted(placements, key=_sort_key) for c in documents(p).values()]
        if contents:
            filename = destination["spec"]["filepath"].get("filename", "aggregated.yaml")
            wanted.files[join(root, filename)] = b"\n---\n".join(contents)
        return
    for placement in placements:
        directory = root if mode == "none" else join(root, directory_of(placement))
        for path, content in documents(placement).items():
            wanted.files[join(directory, path)] = content
        if mode == "none":
            metadata = placement["metadata"]
            prefix = destination["spec"].get("path") or destination["metadata"]["name"]
            name = f"{metadata['namespace']}-{metadata['name']}.yaml"
            wanted.state_files[join(root, ".kratix", name)] = [join(prefix, path) for path in documents(placement)]


def _sort_key(placement: Object) -> tuple[str, str]:
    return placement["metadata"]["name"], placement["metadata"]["namespace"]


def directory_of(placement: Object) -> str:
    """Return a WorkPlacement's directory below its Destination's in mode nestedByMetadata (docs/contract.md#paths)."""
    spec, metadata = placement["spec"], placement["metadata"]
    pipeline = (metadata.get("labels") or {}).get(PIPELINE, "")
    own = [spec.get("promiseName", ""), pipeline, spec.get("id", "")[:5]]
    if spec.get("resourceName"):
        own = [
            metadata["namespace"],
            spec.get("promiseName", ""),
            spec["resourceName"],
            pipeline,
            spec.get("id", "")[:5],
        ]
    return join("resources" if spec.get("resourceName") else "dependencies", *own)


def documents(placement: Object) -> dict[str, bytes]:
    """Return a WorkPlacement's documents by filepath."""
    workloads = placement["spec"].get("workloads") or ()
    return {w["filepath"]: gzip.decompress(base64.b64decode(w["content"])) for w in workloads}


def _condition(obj: Object, of_type: str, status: str, reason: str = "") -> Iterator[str]:
    found = next((c for c in (obj.get("status") or {}).get("conditions") or () if c["type"] == of_type), None)
    if found is None:
        yield f"{_name(obj)} has no condition {of_type}; it must be {status}"
        return
    says = f"{_name(obj)} says {of_type} {found['status']} ({found['reason']}: {found['message'][:120]})"
    if found["status"] != status or (reason and found["reason"] != reason):
        yield f"{says}; it must be {status}{f' ({reason})' if reason else ''}"
    elif found.get("observedGeneration") != obj["metadata"]["generation"]:
        yield f"{says} of generation {found.get('observedGeneration')}; it is at {obj['metadata']['generation']}"


def _files(places: Mapping[str, Any]) -> dict[str, dict[str, bytes]]:
    return {name: place.files() if callable(place.files) else place.files for name, place in places.items()}


def _listed(content: bytes) -> list[str]:
    try:
        return sorted(yaml.safe_load(content)["files"])
    except (yaml.YAMLError, KeyError, TypeError):
        return [f"no list: {content[:80]!r}"]


def _place(store: Object) -> str:
    return str(store["spec"].get("bucketName") or store["spec"].get("url"))


def _root(store: Object, destination: Object) -> str:
    return join(store["spec"].get("path", ""), destination["spec"].get("path") or destination["metadata"]["name"])


def _mode(destination: Object) -> str:
    return str((destination["spec"].get("filepath") or {}).get("mode", "nestedByMetadata"))


def _name(obj: Object) -> str:
    return f"{obj['kind']} {obj['metadata']['name']}"
