"""on-work-change: bring Works to Destinations as WorkPlacements, and say how far that came.

See docs/contract.md#scheduling.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from shared import conditions
from shared.deadline import Deadline
from shared.errors import InvalidObject, LandfallError
from shared.kube import Cluster, Key, Object, each, key_of, uid_of
from shared.messages import Reference, Verdict
from shared.observability import logger
from shared.queues import Outgoing
from shared.reconcile import placements
from shared.reconcile.batch import Share, Task, Tasks, by_cluster, fold, for_each_cluster, retry
from shared.reconcile.connections import Connections
from shared.reconcile.managed import serves_all
from shared.resources import Destination, is_label_value
from shared.schedule import Placed, Refusal, schedule
from shared.settings import Settings
from shared.works import DESTINATION_LABEL, GROUP_LABEL, WORK_FINALIZER, WORK_LABEL, Work

_TOLD = 3  # refusals that a Work's condition quotes; the logs have all


async def place_works(
    messages: Mapping[str, Reference], connections: Connections, deadline: Deadline
) -> dict[str, Exception]:
    """Schedule the Works of a batch, each for itself.

    Args:
        messages: by message id, a Work; a WorkPlacement, whose Work is meant; or a Destination, which means all Works.
        connections: of this container.
        deadline: of this invocation.

    Returns:
        By message id: why it has to be delivered again. Where a message means all Works, each Work that failed is
        requeued instead.
    """
    if not serves_all(connections.settings):  # Kratix schedules every Work, whoever writes it (decision 5)
        return {}

    async def place(name: str, share: Mapping[str, Reference], cluster: Cluster) -> Share:
        batch = _Batch(name, fold(share), connections.settings)
        try:
            await batch.read_placements(cluster, deadline)
            async for works in batch.read_works(cluster, deadline):
                await batch.read_destinations(cluster, deadline)
                results = await each(batch.place(key, obj, cluster, deadline) for key, obj in works.items())
                for (key, obj), result in zip(works.items(), results, strict=True):
                    batch.settle(key, obj, result if isinstance(result, _Result) else _Result([], result))
        except LandfallError as error:  # what was done before is reported
            return {**dict.fromkeys(share, error), **batch.failures}, batch.outgoing
        return batch.failures, batch.outgoing

    return await for_each_cluster(by_cluster(messages, connections.clusters), place, connections, deadline)


class _Result(NamedTuple):
    """What became of one Work.

    Attributes:
        verdicts: to be reported.
        again: why it has to be done again; None where it has not.
        overtaken: the Work has changed meanwhile, and is placed once more.
    """

    verdicts: list[Verdict]
    again: Exception | None = None
    overtaken: bool = False


@dataclass
class _Batch:
    """One cluster's share of a batch.

    WorkPlacements are read before Works. In the other order, a WorkPlacement of a group that was added in between would
    look dangling.

    Attributes:
        tasks: what the messages are about.
        named: by Work, the messages about it and how often they have failed; None for all where those mean all Works.
        for_all: the ids of messages that mean all Works.
        doubted: Works one of whose WorkPlacements has begun or ceased to fail.
        placed: by Work, the metadata of its WorkPlacements.
        destinations: all that can be read; None while they have not been asked for.
        existing: names of all Destinations, and of which namespaces.
    """

    cluster: str
    tasks: Tasks
    settings: Settings
    named: dict[Key, Task] = field(default_factory=dict)
    for_all: frozenset[str] = frozenset()
    doubted: set[Key] = field(default_factory=set)
    placed: dict[Key, list[Object]] = field(default_factory=dict)
    destinations: list[Destination] | None = None
    existing: set[Key] = field(default_factory=set)
    failures: dict[str, Exception] = field(default_factory=dict)
    outgoing: list[Outgoing] = field(default_factory=list)

    async def read_placements(self, cluster: Cluster, deadline: Deadline) -> None:
        """Find out which Works the messages mean, and read the metadata of their WorkPlacements."""
        self.named = {task.key: task for (kind, _), task in self.tasks.items() if kind == "Work"}
        of_placements = [task for (kind, _), task in self.tasks.items() if kind == "WorkPlacement"]
        ids = (task.origin for (kind, _), task in self.tasks.items() if kind == "Destination")
        self.for_all = frozenset[str]().union(*ids)
        few = len(of_placements) + len(self.named) <= self.settings.list_above and not self.for_all
        listed: list[Object] = []
        if few:
            keys = [task.key for task in of_placements]
            found = await each(cluster.get("WorkPlacement", *key, deadline, metadata_only=True) for key in keys)
            for task, obj in zip(of_placements, found, strict=True):
                self._means(task, obj)
            calls = [
                cluster.list_all("WorkPlacement", deadline, {WORK_LABEL: name}, namespace=namespace, metadata_only=True)
                for namespace, name in self.named
                if is_label_value(name)
            ]
            for key, result in zip(
                [key for key in self.named if is_label_value(key[1])], await each(calls), strict=True
            ):
                if isinstance(result, Exception):
                    self._fail(self.named.pop(key).origin, result)
                else:
                    listed += result
        elif not self.for_all or await cluster.exists("Work", deadline):
            listed = await cluster.list_all("WorkPlacement", deadline, metadata_only=True)
            by_key = {key_of(obj): obj for obj in listed}
            for task in of_placements:
                self._means(task, by_key.get(task.key))
        for obj in listed:
            work = _work_of(obj)
            if work is not None:
                self.placed.setdefault(work, []).append(obj)

    async def read_works(self, cluster: Cluster, deadline: Deadline) -> AsyncIterator[dict[Key, Object]]:
        """Yield the Works that are meant, as many at a time as there is room for."""
        if not self.for_all and len(self.named) <= self.settings.list_above:
            found = await each(cluster.get("Work", *key, deadline) for key in self.named)
            works: dict[Key, Object] = {}
            for (key, task), obj in zip(self.named.items(), found, strict=True):
                if isinstance(obj, Exception):
                    self._fail(task.origin, obj)
                elif obj is not None:
                    works[key] = obj
            if works:
                yield works
            return
        async for page in cluster.pages("Work", deadline):
            works = {key: obj for obj in page if (key := key_of(obj)) in self.named or self.for_all}
            if works:
                yield works

    async def read_destinations(self, cluster: Cluster, deadline: Deadline) -> None:
        """Read all Destinations, once."""
        if self.destinations is not None:
            return
        self.destinations = []
        async for page in cluster.pages("Destination", deadline):
            for obj in page:
                self.existing.add(key_of(obj))
                try:
                    self.destinations.append(Destination.parse(obj))
                except InvalidObject:
                    continue  # it takes nothing until it can be read; on-destination-change says what is wrong with it

    def settle(self, key: Key, obj: Object, result: _Result) -> None:
        """Take down what is to be sent for a Work, and what has to be done again."""
        task = self.named.get(key)
        origin = self.for_all | (task.origin if task is not None else frozenset())
        self.outgoing += [Outgoing("status", verdict, origin) for verdict in result.verdicts]
        if result.overtaken:
            self.outgoing.append(Outgoing("works", Reference.to(obj, "Work", self.cluster), origin))
        if result.again is None:
            return
        attempt = 0 if task is None else min(reference.attempt for reference in task.references)
        if task is not None and not attempt:
            self._fail(task.origin, result.again)
        elif isinstance(result.again, LandfallError):
            reference = Reference.to(obj, "Work", self.cluster, attempt)
            self.outgoing += retry("works", reference, result.again, origin, self.settings)

    async def place(self, key: Key, obj: Object, cluster: Cluster, deadline: Deadline) -> _Result:
        """Bring one Work to its Destinations, and return what to report; or why it has to be done again."""
        reference = Reference.to(obj, "Work", self.cluster)
        placed = [found for found in self.placed.get(key, ()) if placements.belongs_to(found, obj)]
        metadata = obj["metadata"]
        has_finalizer = WORK_FINALIZER in (metadata.get("finalizers") or ())
        if metadata.get("deletionTimestamp"):
            removed = await each(placements.remove(found, obj, cluster, deadline, dangling=False) for found in placed)
            released = [Verdict(reference=reference, remove_finalizers=(WORK_FINALIZER,))] if has_finalizer else []
            result = _concluded(obj, reference, _refusals(placed, removed), removed)
            return _Result(released) if result == _Result([]) else result
        if not has_finalizer:  # nothing is placed before it is there; setting it comes back as the next change
            return _Result([Verdict(reference=reference, add_finalizers=(WORK_FINALIZER,))])
        near = self._near(key[0])
        try:
            work = Work.parse(obj)
            plan = schedule(work, await self._placed(placed, cluster, deadline), list(near.values()))
        except InvalidObject as error:
            return _concluded(obj, reference, [Refusal(group, str(error)) for group in _groups_of(obj)], [])
        existing = {found["metadata"]["name"]: found for found in placed}

        modes = {name: destination.spec.filepath.mode for name, destination in near.items()}
        changed = await each(
            placements.apply(
                placements.wanted(work, placement, modes.get(placement.destination, "")),
                existing.get(placement.name),
                obj,
                cluster,
                deadline,
            )
            for placement in plan.placements
        )
        dangling = [existing[name] for name in plan.dangling]
        removed = await each(placements.remove(found, obj, cluster, deadline, dangling=True) for found in dangling)
        verdicts = [
            conditions.placement_scheduled(
                Reference.to(now, "WorkPlacement", self.cluster), misplaced=placement.misplaced
            ).seeing(now)
            for placement, now in zip(plan.placements, changed, strict=True)
            if isinstance(now, dict)
        ]
        refusals = [*plan.refused, *_refusals(dangling, removed)]
        refusals += [
            Refusal(placement.group.id, str(error))
            for placement, error in zip(plan.placements, changed, strict=True)
            if _is_refusal(error)
        ]
        result = _concluded(obj, reference, refusals, [*changed, *removed])
        verdicts += result.verdicts
        if not refusals and result.again is None:
            verdict = conditions.work_scheduled(
                reference,
                len(work.spec.workload_groups),
                unscheduled=plan.unscheduled,
                misplaced=plan.misplaced,
                failing=await self._failing(key, obj, cluster, deadline),
            )
            if conditions.merged(verdict, obj) is not None:
                verdicts.append(verdict.seeing(obj))
        created = any(
            isinstance(now, dict) and placement.name not in existing
            for placement, now in zip(plan.placements, changed, strict=True)
        )
        return _Result(verdicts, result.again, created and await _has_changed(obj, cluster, deadline))

    async def _placed(self, found: Sequence[Object], cluster: Cluster, deadline: Deadline) -> list[Placed]:
        """Return a Work's WorkPlacements for scheduling; those without a Destination are read whole.

        One that was made while its Destination was being deleted can have missed the deletion of the others there.
        """
        placed = [_placed(obj) for obj in found]
        lost = [
            at
            for at, one in enumerate(placed)
            if one.destination and not {("", one.destination), (key_of(found[at])[0], one.destination)} & self.existing
        ]
        for at, obj in zip(
            lost, await each(cluster.get("WorkPlacement", *key_of(found[at]), deadline) for at in lost), strict=True
        ):
            if isinstance(obj, dict) and not placements.was_written(obj):
                placed[at] = replace(placed[at], unwritten_at_none=True)
        return placed

    async def _failing(self, key: Key, obj: Object, cluster: Cluster, deadline: Deadline) -> list[str]:
        """Return which of a Work's WorkPlacements fail; asked only where some may."""
        known = (obj.get("status") or {}).get("conditions") or ()
        if key not in self.doubted and all(c.get("reason") != "WorkplacementsFailing" for c in known):
            return []
        pages = cluster.pages("WorkPlacement", deadline, {WORK_LABEL: key[1]}, namespace=key[0])
        return sorted(
            [
                p["metadata"]["name"]
                async for page in pages
                for p in page
                if placements.belongs_to(p, obj) and conditions.write_failed(p)
            ]
        )

    def _near(self, namespace: str) -> dict[str, Destination]:
        """Return the Destinations that a Work may go to, by name: on older clusters, those of its own namespace."""
        return {d.name: d for d in self.destinations or () if d.metadata.namespace in {"", namespace}}

    def _means(self, task: Task, placement: Object | Exception | None) -> None:
        """Take up the Work that a message about a WorkPlacement means."""
        if isinstance(placement, Exception):
            self._fail(task.origin, placement)
            return
        key = _work_of(placement)
        if key is None:
            return
        self.doubted.add(key)
        known = self.named.get(key)
        if known is None:
            reference = Reference(cluster=self.cluster, kind="Work", namespace=key[0], name=key[1])
            known = Task(key, (reference,), frozenset())
        self.named[key] = replace(known, origin=known.origin | task.origin)

    def _fail(self, origin: frozenset[str], error: Exception) -> None:
        self.failures.update(dict.fromkeys(origin, error))


async def _has_changed(work: Object, cluster: Cluster, deadline: Deadline) -> bool:
    """Whether a Work is no longer the one that was read.

    What has just been created from it may then be of a group that it no longer has, and whoever placed the change may
    have looked before that was created. A change after this look finds it.
    """
    now = await cluster.get("Work", *key_of(work), deadline, metadata_only=True)
    if now is None or uid_of(now) != uid_of(work):
        return False  # the garbage collector takes what it owned
    parts = ("generation", "deletionTimestamp")
    return any(now["metadata"].get(part) != work["metadata"].get(part) for part in parts)


def _concluded(obj: Object, reference: Reference, refusals: Sequence[Refusal], done: Sequence[object]) -> _Result:
    """Return what is refused as a Work's verdict, and the first error among what was done that passes by itself."""
    again = next((error for error in done if isinstance(error, Exception) and not _is_refusal(error)), None)
    if not refusals:
        return _Result([], again)
    words = [refusal.why for refusal in refusals]
    for why in words:
        logger.warning("Work %s/%s: %s", *key_of(obj), why)
    more = [f"and {len(words) - _TOLD} more"] if len(words) > _TOLD else []
    ids = list(dict.fromkeys(refusal.group for refusal in refusals if refusal.group))
    failed = conditions.work_not_scheduled(reference, ids, "; ".join([*words[:_TOLD], *more]))
    return _Result([failed.seeing(obj)] if conditions.merged(failed, obj) is not None else [], again)


def _is_refusal(result: object) -> bool:
    """Whether a result is an error that only a person's change can mend."""
    return isinstance(result, LandfallError) and not result.transient


def _refusals(found: Sequence[Object], results: Sequence[object]) -> list[Refusal]:
    return [
        Refusal(_placed(obj).group, str(error)) for obj, error in zip(found, results, strict=True) if _is_refusal(error)
    ]


def _groups_of(obj: Object) -> list[str]:
    """Return the ids of a Work's groups, where the Work cannot be read; at least an empty one."""
    groups = (obj.get("spec") or {}).get("workloadGroups")
    ids = [str(group.get("id")) for group in groups if isinstance(group, dict)] if isinstance(groups, list) else []
    return ids or [""]


def _work_of(placement: Object | None) -> Key | None:
    if placement is None:
        return None
    _, name = placements.owner_of(placement)
    return (key_of(placement)[0], name) if name else None


def _placed(obj: Object) -> Placed:
    metadata = obj["metadata"]
    labels, leaving = metadata.get("labels") or {}, bool(metadata.get("deletionTimestamp"))
    return Placed(metadata["name"], labels.get(GROUP_LABEL, ""), labels.get(DESTINATION_LABEL, ""), leaving)
