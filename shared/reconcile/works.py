"""on-work-change: bring Works to Destinations as WorkPlacements, and say how far that came (spec section 7)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from shared import conditions
from shared.deadline import Deadline
from shared.errors import InvalidObject, KubernetesConflict, KubernetesUnavailable, LandfallError
from shared.kube import Cluster, Key, Object, key_of, together
from shared.messages import Reference, Verdict
from shared.observability import logger
from shared.queues import Outgoing
from shared.reconcile.batch import Share, Tasks, by_cluster, fold, for_each_cluster
from shared.reconcile.connections import Connections
from shared.resources import API_VERSION, Destination
from shared.schedule import Placed, Placement, schedule
from shared.works import (
    DESTINATION_LABEL,
    GROUP_LABEL,
    MISPLACED_LABEL,
    PIPELINE_LABEL,
    REPO_FINALIZER,
    STATE_FILE_FINALIZER,
    WORK_FINALIZER,
    WORK_GENERATION_ANNOTATION,
    WORK_LABEL,
    Work,
)

_ATTEMPTS = 5  # at a WorkPlacement that others keep changing


async def place_works(
    messages: Mapping[str, Reference], connections: Connections, deadline: Deadline
) -> dict[str, Exception]:
    """Schedule the Works of a batch.

    Args:
        messages: by message id, a Work; a WorkPlacement, whose Work is meant; or a Destination, which means all Works.
        connections: of this container.
        deadline: of this invocation.

    Returns:
        By message id: why it has to be delivered again.
    """

    async def place(name: str, share: Mapping[str, Reference], cluster: Cluster) -> Share:
        failures: dict[str, Exception] = {}
        outgoing: list[Outgoing] = []
        batch = await _read(name, fold(share), cluster, deadline)
        results = await together(batch.place(key, cluster, deadline) for key in batch.works)
        for key, result in zip(batch.works, results, strict=True):
            if isinstance(result, LandfallError):
                failures.update(dict.fromkeys(batch.origins[key], result))
            else:
                outgoing += [Outgoing("status", verdict, batch.origins[key]) for verdict in result]
        return failures, outgoing

    return await for_each_cluster(by_cluster(messages, connections.clusters), place, connections, deadline)


async def _read(name: str, tasks: Tasks, cluster: Cluster, deadline: Deadline) -> "_Batch":
    batch = _Batch(name)
    of_placements = [task for (kind, _), task in tasks.items() if kind == "WorkPlacement"]
    origins = {task.key: task.origin for (kind, _), task in tasks.items() if kind == "Work"}
    for_all = frozenset(i for (kind, _), task in tasks.items() if kind == "Destination" for i in task.origin)
    if for_all:
        works = {key_of(obj): obj for obj in await cluster.list_all("Work", deadline)}
        placed = await cluster.list_all("WorkPlacement", deadline, metadata_only=True) if works else []
        origins |= {key: origins.get(key, frozenset()) | for_all for key in works}
    else:
        placed = await cluster.list_all("WorkPlacement", deadline, metadata_only=True)
        works = {}
    by_key = {key_of(obj): obj for obj in placed}
    for task in of_placements:
        work = _work_of(by_key.get(task.key))
        if work is not None:
            origins[work] = origins.get(work, frozenset()) | task.origin
    if not for_all:
        works = await cluster.read_many("Work", list(origins), deadline)
    batch.works = works
    batch.origins = {key: origins.get(key, frozenset()) for key in works}
    batch.doubted = {work for task in of_placements if (work := _work_of(by_key.get(task.key))) is not None}
    for obj in placed:
        work = _work_of(obj)
        if work is not None:
            batch.placed.setdefault(work, []).append(obj)
    if works:
        for obj in await cluster.list_all("Destination", deadline):
            try:
                batch.destinations.append(Destination.parse(obj))
            except InvalidObject:
                continue  # it takes nothing until it can be read; on-destination-change says what is wrong with it
    return batch


def _work_of(placement: Object | None) -> Key | None:
    if placement is None:
        return None
    name = (placement["metadata"].get("labels") or {}).get(WORK_LABEL)
    return (key_of(placement)[0], name) if name else None


@dataclass
class _Batch:
    """One cluster's share of a batch.

    Attributes:
        works: to be scheduled.
        origins: by Work, the messages that it comes from.
        doubted: Works one of whose WorkPlacements has begun or ceased to fail.
        placed: by Work, the metadata of its WorkPlacements.
        destinations: all that can be read.
    """

    cluster: str
    works: dict[Key, Object] = field(default_factory=dict)
    origins: dict[Key, frozenset[str]] = field(default_factory=dict)
    doubted: set[Key] = field(default_factory=set)
    placed: dict[Key, list[Object]] = field(default_factory=dict)
    destinations: list[Destination] = field(default_factory=list)

    async def place(self, key: Key, cluster: Cluster, deadline: Deadline) -> list[Verdict] | LandfallError:
        """Bring one Work to its Destinations, and return what to report; or why it has to be done again."""
        obj = self.works[key]
        try:
            return await self._place(key, obj, cluster, deadline)
        except (KubernetesConflict, KubernetesUnavailable) as error:
            return error
        except LandfallError as error:
            logger.warning("Work %s/%s cannot be scheduled: %s", *key, error)
            return [self._failed(obj, error)]

    async def _place(self, key: Key, obj: Object, cluster: Cluster, deadline: Deadline) -> list[Verdict]:
        reference = self._reference(obj, "Work")
        placed = self.placed.get(key, [])
        metadata = obj["metadata"]
        has_finalizer = WORK_FINALIZER in (metadata.get("finalizers") or ())
        if metadata.get("deletionTimestamp"):
            await together(cluster.delete("WorkPlacement", *key_of(found), deadline) for found in placed)
            return [Verdict(reference=reference, remove_finalizers=(WORK_FINALIZER,))] if has_finalizer else []
        if not has_finalizer:  # nothing is placed before it is there; setting it comes back as the next change
            return [Verdict(reference=reference, add_finalizers=(WORK_FINALIZER,))]
        work = Work.parse(obj)
        plan = schedule(work, [_placed(found) for found in placed], self._near(work))
        existing = {found["metadata"]["name"]: found for found in placed}
        changed = await together(
            self._apply(work, placement, existing.get(placement.name), cluster, deadline)
            for placement in plan.placements
        )
        await together(cluster.delete("WorkPlacement", key[0], name, deadline) for name in plan.dangling)
        verdicts = [
            conditions.placement_scheduled(self._reference(now, "WorkPlacement"), misplaced=placement.misplaced)
            for placement, now in zip(plan.placements, changed, strict=True)
            if now is not None
        ]
        verdict = conditions.work_scheduled(
            reference,
            len(work.spec.workload_groups),
            unscheduled=plan.unscheduled,
            misplaced=plan.misplaced,
            failing=await self._failing(key, obj, cluster, deadline),
        )
        if conditions.merged(verdict, obj) is not None:
            verdicts.append(verdict)
        return verdicts

    async def _failing(self, key: Key, obj: Object, cluster: Cluster, deadline: Deadline) -> list[str]:
        """Return which of a Work's WorkPlacements fail; asked only where some may."""
        known = (obj.get("status") or {}).get("conditions") or ()
        if key not in self.doubted and all(c.get("reason") != "WorkplacementsFailing" for c in known):
            return []
        placements = await cluster.list_all("WorkPlacement", deadline, {WORK_LABEL: key[1]})
        return sorted(
            p["metadata"]["name"] for p in placements if key_of(p)[0] == key[0] and conditions.write_failed(p)
        )

    async def _apply(
        self, work: Work, placement: Placement, known: Object | None, cluster: Cluster, deadline: Deadline
    ) -> Object | None:
        """Create a WorkPlacement or bring it up to date; return it if it is not what it was."""
        wanted = self._wanted(work, placement)
        for _ in range(_ATTEMPTS):
            try:
                if known is None:
                    return await cluster.create(wanted, deadline)
                return await self._bring_up_to_date(wanted, known, cluster, deadline)
            except KubernetesConflict:  # another run, or a status, came between: look again
                known = await cluster.get("WorkPlacement", work.metadata.namespace, placement.name, deadline)
        raise KubernetesUnavailable(f"others keep changing WorkPlacement {placement.name}; it is tried again later")

    async def _bring_up_to_date(
        self, wanted: Object, known: Object, cluster: Cluster, deadline: Deadline
    ) -> Object | None:
        if known["metadata"].get("deletionTimestamp") or _generation(known) > _generation(wanted):
            return None  # it goes, or another run has read a newer Work than we have
        metadata: dict[str, Any] = {}
        for part in ("labels", "annotations"):
            now, want = known["metadata"].get(part) or {}, wanted["metadata"][part]
            metadata[part] = {name: value for name, value in want.items() if now.get(name) != value}
        labels = known["metadata"].get("labels") or {}
        if MISPLACED_LABEL in labels and MISPLACED_LABEL not in wanted["metadata"]["labels"]:
            metadata["labels"][MISPLACED_LABEL] = None
        if not any(metadata.values()):
            return None
        patch = {"metadata": metadata, **({"spec": wanted["spec"]} if metadata["annotations"] else {})}
        return await cluster.patch({**known, "kind": "WorkPlacement"}, patch, deadline)

    def _wanted(self, work: Work, placement: Placement) -> Object:
        metadata = work.metadata
        mode = next((d.spec.filepath.mode for d in self._near(work) if d.name == placement.destination), "")
        labels = {
            WORK_LABEL: work.name,
            GROUP_LABEL: placement.group.id,
            DESTINATION_LABEL: placement.destination,
            PIPELINE_LABEL: metadata.labels.get(PIPELINE_LABEL, ""),
            **({MISPLACED_LABEL: "true"} if placement.misplaced else {}),
        }
        spec: dict[str, Any] = {
            "targetDestinationName": placement.destination,
            "promiseName": work.spec.promise_name,
            "id": placement.group.id,
            "generation": metadata.generation,
            "workloads": [dict(workload) for workload in placement.group.workloads],
        }
        if work.spec.resource_name:
            spec["resourceName"] = work.spec.resource_name
        return {
            "apiVersion": API_VERSION,
            "kind": "WorkPlacement",
            "metadata": {
                "name": placement.name,
                "namespace": metadata.namespace,
                "labels": labels,
                "annotations": {WORK_GENERATION_ANNOTATION: str(metadata.generation)},
                "finalizers": [REPO_FINALIZER, *([STATE_FILE_FINALIZER] if mode == "none" else [])],
                "ownerReferences": [
                    {
                        "apiVersion": API_VERSION,
                        "kind": "Work",
                        "name": work.name,
                        "uid": metadata.uid,
                        "controller": True,
                        "blockOwnerDeletion": True,
                    }
                ],
            },
            "spec": spec,
        }

    def _near(self, work: Work) -> list[Destination]:
        """Return the Destinations that a Work may go to: on older clusters, those of its own namespace."""
        return [d for d in self.destinations if d.metadata.namespace in {"", work.metadata.namespace}]

    def _reference(self, obj: Object, kind: str) -> Reference:
        return Reference.to(obj, kind, self.cluster)

    def _failed(self, obj: Object, error: LandfallError) -> Verdict:
        ids = [str(group.get("id")) for group in (obj.get("spec") or {}).get("workloadGroups") or ()]
        return conditions.work_not_scheduled(self._reference(obj, "Work"), ids, str(error))


def _placed(obj: Object) -> Placed:
    metadata = obj["metadata"]
    labels, leaving = metadata.get("labels") or {}, bool(metadata.get("deletionTimestamp"))
    return Placed(metadata["name"], labels.get(GROUP_LABEL, ""), labels.get(DESTINATION_LABEL, ""), leaving)


def _generation(placement: Object) -> int:
    generation = (placement["metadata"].get("annotations") or {}).get(WORK_GENERATION_ANNOTATION, "")
    return int(generation) if generation.isdigit() else 0
