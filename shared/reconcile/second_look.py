"""write-documents looks again after it has written: the cluster may have changed while the write was on its way.

A write that lands late brings back what a newer one has replaced, or what was removed when its WorkPlacement went, and
nobody else would notice (failures 16 and 19). Whoever has written compares what it knew with what the cluster says
afterwards; where nothing was written, nothing is asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from shared import documents
from shared.deadline import Deadline
from shared.errors import InvalidObject, LandfallError
from shared.kube import Cluster, Key, Object, key_of, together, uid_of
from shared.observability import logger
from shared.plan import Outcome
from shared.queues import Outgoing
from shared.reconcile.batch import may_have_written
from shared.reconcile.connections import Connections
from shared.reconcile.placement_writes import write_targets
from shared.reconcile.placing import Target
from shared.reconcile.view import View, store_key
from shared.works import DESTINATION_LABEL, WorkPlacement, destination_of

_FEW = 20  # are asked for one by one; for more, one list of all the metadata is less work for the API server


@dataclass
class SecondLook:
    """What a batch has written, to be compared with what is now.

    Attributes:
        view: of the cluster, as it was before the write.
        targets: by Destination, what was to be written.
        outcomes: what became of each WorkPlacement.
        origins: by WorkPlacement, the messages that it comes from.
    """

    view: View
    targets: Mapping[Key, Target]
    outcomes: Mapping[Key, Outcome | None]
    origins: Mapping[Key, frozenset[str]]

    async def take(self, cluster: Cluster, connections: Connections, deadline: Deadline) -> list[Outgoing]:
        """Remove what was written for WorkPlacements that are gone by now.

        Returns:
            References to those that have to be written again, as they have changed meanwhile.
        """
        written = self._written()
        if not written:
            return []
        origin = frozenset[str]().union(*(self.origins[one] for keys in written.values() for one in keys))
        try:
            now = await self._now(written, cluster, deadline)
            gone: dict[Key, list[WorkPlacement]] = {}
            again: dict[Key, Object] = {}
            for key, keys in written.items():
                for one in self._concerned(key, keys, now):
                    known, obj = self.targets[key].all.get(one), now.get(one)
                    if obj is not None and (known is None or _differs(known, obj)):
                        again[one] = obj
                    if known is not None and not known.metadata.being_deleted and uid_of(obj) != known.metadata.uid:
                        gone.setdefault(key, []).append(known)
            if gone:
                again |= await self._remove(gone, cluster, connections, deadline)
        except LandfallError as error:
            # The verdicts must not wait for this. One more write finds what has changed, though not what is gone.
            logger.warning("what changed during the write of documents is left to one more: %s", error)
            stores = {store_key(self.targets[key].store) for key in written}
            return [Outgoing("documents", self.view.store_reference(store), origin) for store in stores]
        return [Outgoing("documents", self.view.reference(obj, kind="WorkPlacement"), origin) for obj in again.values()]

    def _written(self) -> dict[Key, set[Key]]:
        """Return, by Destination, the WorkPlacements whose files were changed, or may have been."""
        written = {
            key: {one for one in target.wanted & target.all.keys() if may_have_written(self.outcomes.get(one))}
            for key, target in self.targets.items()
        }
        return {key: keys for key, keys in written.items() if keys}

    async def _now(self, written: Mapping[Key, set[Key]], cluster: Cluster, deadline: Deadline) -> dict[Key, Object]:
        """Return the metadata of what was written, and of its neighbours where those share its file."""
        shared = sorted({self.targets[key].destination.name for key in written if self._shares_a_file(key)})
        lists = await together(
            cluster.list_all("WorkPlacement", deadline, {DESTINATION_LABEL: name}, metadata_only=True)
            for name in shared
        )
        found = {key_of(obj): obj for objects in lists for obj in objects}
        missing = {one for keys in written.values() for one in keys} - found.keys()
        return found | await cluster.read_many("WorkPlacement", missing, deadline, list_above=_FEW, metadata_only=True)

    def _concerned(self, key: Key, written: set[Key], now: Mapping[Key, Object]) -> set[Key]:
        """Return the WorkPlacements that a Destination's files were made of."""
        if not self._shares_a_file(key):
            return written
        target = self.targets[key]
        theirs = {one for one, obj in now.items() if self.view.target(one[0], destination_of(obj)) == key}
        return (target.all.keys() | theirs) - target.refused.keys()

    def _shares_a_file(self, key: Key) -> bool:
        return self.targets[key].mode == "aggregatedYAML"

    async def _remove(
        self,
        gone: Mapping[Key, Sequence[WorkPlacement]],
        cluster: Cluster,
        connections: Connections,
        deadline: Deadline,
    ) -> dict[Key, Object]:
        """Remove what was written for WorkPlacements that are gone, as their deletion would have.

        A place that someone living has by now stays: another Destination's directory, another WorkPlacement's, the
        record of one that was created again under its name.

        Returns:
            Living WorkPlacements that are to be written again instead, as theirs is the place.
        """
        view = await View.of_all(self.view.cluster, cluster, deadline)
        leaving: dict[Key, Target] = {}
        heirs: dict[Key, Object] = {}
        for key, placements in gone.items():
            before = self.targets[key]
            owner = view.owner(before.store, before.root)
            if owner is None and before.destination.spec.cleanup != "all":
                continue  # its Destination is gone, and leaves all its files behind
            if owner is not None and owner.metadata.uid != before.destination.metadata.uid:
                continue  # the directory is another's
            living: list[Object] = []
            if owner is not None:
                listed = await cluster.list_all("WorkPlacement", deadline, {DESTINATION_LABEL: owner.name})
                living = [obj for obj in listed if view.target(key_of(obj)[0], destination_of(obj)) == key]
            leaving[key], inherited = _leaving(before, placements, living)
            heirs |= inherited
        for one, outcome in (await write_targets(leaving, view, cluster, connections, deadline)).items():
            if isinstance(outcome, LandfallError):
                logger.warning("what was written for %s, which is gone, may still be there: %s", "/".join(one), outcome)
        return heirs


def _leaving(
    before: Target, placements: Sequence[WorkPlacement], living: Sequence[Object]
) -> tuple[Target, dict[Key, Object]]:
    """Return what removes the files of WorkPlacements that are gone, and the living ones that have their places."""
    target = Target(before.destination, before.store)
    directories: dict[str, Object] = {}
    for obj in living:
        if before.mode == "nestedByMetadata":
            directories[_directory(target.root, obj)] = obj
        else:
            target.add(key_of(obj), obj)
    heirs: dict[Key, Object] = {}
    for placement in placements:
        one = (placement.metadata.namespace, placement.name)
        heir = directories.get(documents.placement_directory(target.root, placement)) if directories else None
        if heir is not None:
            heirs[key_of(heir)] = heir
        elif one not in target.all and one not in target.refused:
            metadata = placement.metadata.model_copy(update={"deletion_timestamp": datetime.now(UTC)})
            target.all[one] = placement.model_copy(update={"metadata": metadata})
            target.wanted.add(one)
    return target, heirs


def _directory(root: str, obj: Object) -> str:
    """Return a WorkPlacement's own directory; empty where it can have none."""
    try:
        return documents.placement_directory(root, WorkPlacement.parse(obj))
    except InvalidObject:
        return ""


def _differs(known: WorkPlacement, obj: Object) -> bool:
    """Whether a WorkPlacement is another by now, or asks for something else."""
    metadata = obj["metadata"]
    newer = (metadata.get("generation") or 0) > known.metadata.generation
    leaves = bool(metadata.get("deletionTimestamp")) and not known.metadata.being_deleted
    return uid_of(obj) != known.metadata.uid or newer or leaves
