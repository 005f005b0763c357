"""WorkPlacements to edits, in each of the three modes; what write-documents computes (docs/contract.md#documents)."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from shared import documents, paths
from shared.documents import Limits
from shared.errors import InvalidObject, LandfallError, PathConflict
from shared.kube import Key, Object
from shared.plan import Edit
from shared.reconcile.locations import directories_annotation, recorded_directories
from shared.resources import Destination, StateStore
from shared.works import REPO_FINALIZER, STATE_FILE_FINALIZER, WorkPlacement

# Of documents, inflated, that are made into edits at a time: an eighth of the template's memory for write-documents, as
# joining and packing them take the same again, and again.
ROOM_BYTES: Final = 128 * 1024 * 1024


@dataclass
class Target:
    """One Destination with the WorkPlacements of a batch that go there.

    Attributes:
        destination: that takes them.
        store: its State Store.
        wanted: keys of the WorkPlacements to deal with.
        all: every WorkPlacement of the Destination that is known, by key; in mode nestedByMetadata those wanted, and
            those that share a directory with one of them (`directories.sharing`).
        written: keys of the living ones that have been written before, by their status.
        refused: by key, why a WorkPlacement cannot be written.
        records: in mode none, the content of the record of each WorkPlacement that has one, by its path.
        remembered: in mode nestedByMetadata, the directories that WorkPlacements say they have been written to.
    """

    destination: Destination
    store: StateStore
    wanted: set[Key] = field(default_factory=set)
    all: dict[Key, WorkPlacement] = field(default_factory=dict)
    written: set[Key] = field(default_factory=set)
    refused: dict[Key, LandfallError] = field(default_factory=dict)
    records: Mapping[str, bytes] = field(default_factory=dict)
    remembered: dict[Key, tuple[str, ...]] = field(default_factory=dict)

    @property
    def root(self) -> str:
        """The Destination's directory."""
        return paths.destination_root(self.store, self.destination)

    @property
    def mode(self) -> str:
        """How documents are laid out."""
        return self.destination.spec.filepath.mode

    def add(self, key: Key, obj: Object) -> None:
        """Take a WorkPlacement up; one that cannot be read is refused."""
        try:
            self.all[key] = WorkPlacement.parse(obj)
        except InvalidObject as error:
            self.refused[key] = error
        if self.mode == "nestedByMetadata" and (directories := recorded_directories(obj)):
            self.remembered[key] = directories
        if (obj.get("status") or {}).get("versionID") and not obj["metadata"].get("deletionTimestamp"):
            self.written.add(key)

    @property
    def has_moved(self) -> bool:
        """Whether one that is wanted has been in another directory, which may be a neighbour's by now."""
        return any(set(self.remembered.get(key, ())) - {self.directory(key)} for key in self.wanted)

    def directory(self, key: Key) -> str:
        """Return a WorkPlacement's directory below the Destination's; empty in other modes, and where it has none."""
        if self.mode != "nestedByMetadata" or key not in self.all:
            return ""
        try:
            return documents.placement_directory("", self.all[key])
        except InvalidObject:
            return ""

    def missing(self, key: Key, obj: Object) -> Object:
        """Return what to merge into a WorkPlacement's metadata before it is written; empty where nothing is missing.

        One that leaves is not held any more. The first directory is remembered with the finalizers, or afterwards.
        """
        metadata = obj["metadata"]
        if metadata.get("deletionTimestamp"):
            return {}
        patch: Object = {}
        finalizers = list(metadata.get("finalizers") or ())
        needed = (REPO_FINALIZER, STATE_FILE_FINALIZER) if self.mode == "none" else (REPO_FINALIZER,)
        if not set(needed) <= set(finalizers):
            patch["finalizers"] = list(dict.fromkeys([*finalizers, *needed]))
        directory, known = self.directory(key), self.remembered.get(key, ())
        if directory and directory not in known and (known or patch):
            patch["annotations"] = directories_annotation([*known, directory])
        return patch

    def record_paths(self) -> list[str]:
        """Return the paths of the records that have to be read before edits can be made."""
        if self.mode != "none":
            return []
        return [documents.state_file_path(self.root, self.all[key]) for key in self.wanted & self.all.keys()]

    def edits(self, limits: Limits) -> Iterator[tuple[Edit, list[Key]]]:
        """Yield each edit with the WorkPlacements that it is for; those that are refused go to `refused`.

        Args:
            limits: of what a WorkPlacement may bring.
        """
        make = {"nestedByMetadata": self._nested, "none": self._flat, "aggregatedYAML": self._aggregated}[self.mode]
        yield from make(limits)

    def _nested(self, limits: Limits) -> Iterator[tuple[Edit, list[Key]]]:
        def edit(placement: WorkPlacement, files: Mapping[str, bytes]) -> Edit:
            return documents.nested_edit(_id(_key(placement)), placement, self.root, files)

        yield from self._held(
            lambda placement: documents.placement_directory(self.root, placement), "the directory", edit, limits
        )

    def _left(self, key: Key) -> frozenset[str]:
        """Return the directories that a WorkPlacement has left and that are no neighbour's by now."""
        left = set(self.remembered.get(key, ())) - {self.directory(key)}
        if not left:
            return frozenset()
        living = (other for other, one in self.all.items() if other != key and not one.metadata.being_deleted)
        taken = {self.directory(other) for other in living}
        return frozenset(
            paths.join(self.root, one)
            for one in left
            if not any(paths.is_within(one, other) or paths.is_within(other, one) for other in taken if other)
        )

    def _flat(self, limits: Limits) -> Iterator[tuple[Edit, list[Key]]]:
        owners = self._owners()

        def edit(placement: WorkPlacement, files: Mapping[str, bytes]) -> Edit:
            record = self.records.get(documents.state_file_path(self.root, placement))
            recorded = documents.recorded_files(record, self.destination)
            others = {
                path: str(owner)
                for path in files.keys() | recorded
                if (owner := owners.get(path)) is not None and owner.metadata.uid != placement.metadata.uid
            }
            return documents.flat_edit(
                _id(_key(placement)),
                placement,
                self.destination,
                self.root,
                files=files,
                recorded=recorded,
                others=others,
                found=record,
            )

        yield from self._held(
            lambda placement: documents.state_file_path(self.root, placement), "the state file", edit, limits
        )

    def _held(  # noqa: C901, PLR0912 -- one place, from its oldest to its youngest
        self,
        place_of: Callable[[WorkPlacement], str],
        what: str,
        edit: Callable[[WorkPlacement, Mapping[str, bytes]], Edit],
        limits: Limits,
    ) -> Iterator[tuple[Edit, list[Key]]]:
        """Yield one edit for each place: what its holder wants there, or nothing.

        The holder is the oldest living WorkPlacement whose place it is; another one that is alive is refused with both
        names. One that is being deleted and was the holder leaves the place to the next, whose edit takes its files
        away (docs/decisions/0002-shared-directories.md).

        Args:
            place_of: returns a WorkPlacement's place.
            what: the place, for the message.
            edit: returns what a WorkPlacement with such documents wants there.
            limits: of what a WorkPlacement may bring.
        """
        places: dict[str, list[Key]] = {}
        for key in sorted(self.all, key=self._age):
            try:
                places.setdefault(place_of(self.all[key]), []).append(key)
            except LandfallError as error:
                self.refused[key] = error
        for place, keys in places.items():
            if self.wanted.isdisjoint(keys):
                continue
            holder = next((key for key in keys if not self.all[key].metadata.being_deleted), None)
            at = len(keys) if holder is None else keys.index(holder)
            leaving = [key for key in keys[:at] if key in self.wanted]  # they had the place
            for key in keys[at + 1 :]:
                if key in self.wanted and self.all[key].metadata.being_deleted:  # it never had it
                    yield self._with_left(self._nothing(key), [key]), [key]
                elif key in self.wanted and holder is not None:
                    words = f"{what} {place!r} is wanted by {self.all[key]} and by {self.all[holder]}, which has it"
                    self.refused[key] = PathConflict(f"{words}: delete or rename one of them, or its Work")
            if holder is not None and (leaving or holder in self.wanted):
                try:
                    found = edit(self.all[holder], documents.documents(self.all[holder], limits))
                except LandfallError as error:
                    self.refused[holder] = error
                else:
                    served = [*leaving, *([holder] if holder in self.wanted else [])]
                    yield self._with_left(found, served), served
                    continue
            if leaving and holder in self.written:  # what is there are the last good documents of the next
                yield self._with_left(self._nothing(leaving[0]), leaving), leaving
            elif leaving:
                try:
                    yield self._with_left(edit(self.all[leaving[0]], {}), leaving), leaving
                except LandfallError as error:
                    self.refused |= dict.fromkeys(leaving, error)

    def _with_left(self, edit: Edit, keys: Collection[Key]) -> Edit:
        """Return an edit that clears the directories, too, that those it is for have left."""
        return replace(edit, prune=edit.prune.union(*map(self._left, keys)))

    def _nothing(self, key: Key) -> Edit:
        return Edit(_id(key), self.all[key].name, self.root)

    def _aggregated(self, limits: Limits) -> Iterator[tuple[Edit, list[Key]]]:
        """Yield the one edit of all WorkPlacements, or none where it would lose documents that are in the file.

        The last good documents of a WorkPlacement that cannot be read any more are known to the file alone, so it is
        left as it is until that one is mended or deleted (no file of anyone is lost: docs/contract.md#refusals).
        """
        filename = self.destination.spec.filepath.filename
        contents: list[bytes] = []
        room = ROOM_BYTES
        keys = [key for key, placement in self._wanted() if placement.metadata.being_deleted]
        for key, placement in sorted(self.all.items(), key=lambda item: (item[1].name, item[0])):
            if placement.metadata.being_deleted:
                continue
            try:
                found = documents.documents(placement, limits).values()
                size = sum(map(len, found))
                if size > room:
                    raise InvalidObject(f"with it {filename!r} holds over {ROOM_BYTES} bytes: use one more Destination")
                contents += found
                room -= size
                if key in self.wanted:
                    keys.append(key)
            except LandfallError as error:
                self.refused[key] = error
        lost = next((key for key in sorted(self.refused) if key in self.written), None)
        if lost is not None:
            words = f"{filename!r} is left as it is: it holds documents of WorkPlacement {_id(lost)}, which cannot be"
            why = f"{words} written now ({self.refused[lost]}); mend or delete that one"
            self.refused |= dict.fromkeys(keys, InvalidObject(why))
        elif keys:
            label = f"{self.destination.metadata.namespace}/{self.destination.name}"
            yield documents.aggregated_edit(f"aggregate {label}", self.destination, self.root, contents), keys

    def _wanted(self) -> Iterator[tuple[Key, WorkPlacement]]:
        return ((key, self.all[key]) for key in sorted(self.wanted & self.all.keys()))

    def _age(self, key: Key) -> tuple[float, bool, Key]:
        """Order WorkPlacements by age; of those of one second, as API servers tell no more, written ones first."""
        created = self.all[key].metadata.creation_timestamp
        return (created.timestamp() if created else 0.0, key not in self.written, key)

    def _owners(self) -> dict[str, WorkPlacement]:
        """Return, by filepath, the WorkPlacement that has it: the oldest living one that names it."""
        owners: dict[str, WorkPlacement] = {}
        for placement in (self.all[key] for key in sorted(self.all, key=self._age)):
            if not placement.metadata.being_deleted:
                for workload in placement.spec.workloads:
                    owners.setdefault(
                        "/".join(p for p in workload.filepath.split("/") if p not in {"", "."}), placement
                    )
        return owners


def limits_of(settings: Any) -> Limits:
    """Return the limits of the settings."""
    return Limits(settings.max_placement_files, settings.max_file_bytes, settings.max_placement_bytes)


def _id(key: Key) -> str:
    return f"{key[0]}/{key[1]}"


def _key(placement: WorkPlacement) -> Key:
    return placement.metadata.namespace, placement.name
