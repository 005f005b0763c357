"""One Work: brought to the Destinations that match it, or looked at again at some of them."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from shared import conditions
from shared.deadline import Deadline
from shared.errors import InvalidObject, KubernetesConflict, LandfallError, is_out_of_reach
from shared.kube import Cluster, Object, each, key_of, uid_of
from shared.messages import Reference, Verdict
from shared.observability import logger
from shared.reconcile import placements
from shared.reconcile.eligible import EligibleDestinations, Relied, names_of
from shared.reconcile.work_results import (
    Result,
    concluded,
    first_transient,
    groups_of,
    has_created,
    is_refusal,
    placed_of,
    refusals_of,
)
from shared.schedule import DestinationInfo, Placed, Refusal, Schedule, schedule, wanted_labels
from shared.works import (
    GROUP_LABEL,
    MISPLACED_LABEL,
    UNSCHEDULED_LABEL,
    WORK_FINALIZER,
    WORK_LABEL,
    Work,
    destination_of,
)


@dataclass
class WorkPlacing:
    """Places Works of one cluster.

    Attributes:
        name: of the cluster, as messages have it.
        destinations: of the batch.
        relied: on which Destinations what was written relies; by namespace of the Work and name of the Destination,
            the WorkPlacements are in `written`.
    """

    name: str
    cluster: Cluster
    deadline: Deadline
    destinations: EligibleDestinations
    relied: Relied = field(default_factory=Relied)
    written: dict[tuple[str, str], list[Object]] = field(default_factory=dict)

    async def place(self, obj: Object, found: Sequence[Object], *, recheck: bool) -> Result:
        """Bring a Work to all Destinations that match it.

        Args:
            obj: the Work.
            found: the metadata of all its WorkPlacements, which were listed before the Work was read. In the other
                order, a WorkPlacement of a group that was added in between would look dangling.
            recheck: whether some of them may fail that did not, or the other way round.
        """
        reference = self._reference(obj)
        found = [one for one in found if placements.belongs_to(one, obj)]
        metadata = obj["metadata"]
        if metadata.get("deletionTimestamp"):
            removed = await self._remove(found, obj, dangling=False)
            has_finalizer = WORK_FINALIZER in (metadata.get("finalizers") or ())
            released = [Verdict(reference=reference, remove_finalizers=(WORK_FINALIZER,))] if has_finalizer else []
            result = concluded(obj, reference, refusals_of(found, removed), removed)
            return Result(released) if result == Result([]) else result
        if WORK_FINALIZER not in (metadata.get("finalizers") or ()):  # nothing is placed before it is there
            held = await self._hold(obj)
            if held is None:  # status-report sets it, or says why it cannot; setting it comes back as the next change
                return Result([Verdict(reference=reference, add_finalizers=(WORK_FINALIZER,))])
            obj = held
        try:
            work = Work.parse(obj)
            plan, eligible = await self._plan(work, found, self.destinations)
            if work.is_resource_request and plan.unscheduled and await self._mark(obj, waits=True):
                # A Destination that has begun to match before the mark was set did not find it.
                plan, eligible = await self._plan(work, found, EligibleDestinations(self.cluster, self.deadline))
        except InvalidObject as error:
            return concluded(obj, reference, [Refusal(group, str(error)) for group in groups_of(obj)], [])
        refusals, done, verdicts = await self._carry_out(work, obj, plan, found, eligible)
        result = concluded(obj, reference, refusals, done)
        verdicts += result.verdicts
        if not refusals and result.again is None:
            failing = await self._failing(obj, recheck=recheck)
            verdicts += self._says(obj, work, plan.unscheduled, plan.misplaced, failing)
            if not plan.unscheduled:
                await self._mark(obj, waits=False)
        return Result(verdicts, result.again, has_created(found, done) and await self._has_changed(obj))

    async def place_at(self, obj: Object, names: Collection[str], found: Sequence[Object], *, recheck: bool) -> Result:
        """Bring a Work up to date at some Destinations alone: they have changed, and it has not.

        A Work that is new, being deleted or cannot be read has a message of its own.

        Args:
            obj: the Work.
            names: of the Destinations.
            found: the metadata of its WorkPlacements there, which were listed before the Work was read.
            recheck: whether what the Work says may be outdated although nothing is changed here.
        """
        metadata = obj["metadata"]
        if metadata.get("deletionTimestamp") or WORK_FINALIZER not in (metadata.get("finalizers") or ()):
            return Result()
        found = [one for one in found if placements.belongs_to(one, obj)]
        try:
            work = Work.parse(obj)
            if work.is_resource_request:
                if recheck:  # it may have to go somewhere else, and has few WorkPlacements
                    return Result(whole=True)
                work = _only(work, {placed_of(one).group for one in found})
            there = await self.destinations.named(names, metadata.get("namespace") or "")
            plan = schedule(work, await self._placed(found, self.destinations), list(there.values()))
        except InvalidObject:
            return Result()
        refusals, done, verdicts = await self._carry_out(work, obj, plan, found, there)
        again = first_transient(done)
        says = conditions.find((obj.get("status") or {}).get("conditions") or (), conditions.SCHEDULE_SUCCEEDED) or {}
        well = says.get("status") == "True" and says.get("observedGeneration") == metadata.get("generation")
        if refusals or (says.get("reason") == "FailedToScheduleWorkloads" and (plan.placements or plan.dangling)):
            return Result(verdicts, again, whole=True)  # which says all refusals together
        if again is None and not (well and not plan.misplaced and not plan.dangling and not recheck):
            whole = Work.parse(obj)
            unscheduled, misplaced = await self._ask(whole)
            verdicts += self._says(obj, whole, unscheduled, misplaced, await self._failing(obj, recheck=recheck))
        return Result(verdicts, again, has_created(found, done) and await self._has_changed(obj))

    async def outdated(self) -> list[Reference]:
        """Return the WorkPlacements whose Destinations have changed since the write relied on them."""
        changed = await self.relied.outdated(self.cluster, self.deadline)
        return [
            Reference.to(placement, "WorkPlacement", self.name)
            for key in sorted(changed)
            for placement in self.written[key]
        ]

    async def _plan(
        self, work: Work, found: Sequence[Object], destinations: EligibleDestinations
    ) -> tuple[Schedule, Mapping[str, DestinationInfo]]:
        """Return where a Work goes, and the Destinations by name that this was decided with."""
        namespace = work.metadata.namespace
        eligible: dict[str, DestinationInfo] = {}
        placed: list[Placed] = []
        if work.is_resource_request:
            placed = await self._placed(found, destinations)
        stays = {one.group for one in placed if not one.unwritten_at_none}
        for group in work.spec.workload_groups:
            if group.id not in stays:
                wanted = wanted_labels(group, dry_run=work.is_dry_run)
                eligible |= names_of(await destinations.matching(wanted, namespace))
        others = {destination_of(one) for one in found} - eligible.keys() - {""}
        eligible |= await destinations.named(others, namespace)
        if not work.is_resource_request:  # by now most of its Destinations have been read
            placed = await self._placed(found, destinations)
        return schedule(work, placed, list(eligible.values())), eligible

    async def _carry_out(
        self,
        work: Work,
        obj: Object,
        plan: Schedule,
        found: Sequence[Object],
        eligible: Mapping[str, DestinationInfo],
    ) -> tuple[list[Refusal], list[Object | Exception | None], list[Verdict]]:
        """Create, change and delete WorkPlacements; return refusals, what each call returned, and what to report."""
        existing = {one["metadata"]["name"]: one for one in found}
        modes = {name: info.mode for name, info in eligible.items()}
        changed = await each(
            placements.apply(
                placements.wanted(work, placement, modes.get(placement.destination, "")),
                existing.get(placement.name),
                obj,
                self.cluster,
                self.deadline,
            )
            for placement in plan.placements
        )
        dangling = [existing[name] for name in plan.dangling]
        removed = await self._remove(dangling, obj, dangling=True)
        verdicts = []
        for placement, now in zip(plan.placements, changed, strict=True):
            if isinstance(now, dict):
                reference = Reference.to(now, "WorkPlacement", self.name)
                verdict = conditions.placement_scheduled(reference, misplaced=placement.misplaced)
                verdicts.append(verdict.seeing(now))
                namespace = work.metadata.namespace
                self.relied.on(namespace, placement.destination, eligible.get(placement.destination))
                written = placements.compact(now)
                self.written.setdefault((namespace, placement.destination), []).append(written)
        refusals = [*plan.refused, *refusals_of(dangling, removed)]
        refusals += [
            Refusal(placement.group.id, str(error))
            for placement, error in zip(plan.placements, changed, strict=True)
            if is_refusal(error)
        ]
        return refusals, [*changed, *removed], verdicts

    async def _remove(self, found: Sequence[Object], work: Object, *, dangling: bool) -> list[Exception | None]:
        return await each(placements.remove(one, work, self.cluster, self.deadline, dangling=dangling) for one in found)

    async def _placed(self, found: Sequence[Object], destinations: EligibleDestinations) -> list[Placed]:
        """Return a Work's WorkPlacements for scheduling; those without a Destination are read whole.

        One that was made while its Destination was being deleted can have missed the deletion of the others there.
        """
        placed = [placed_of(obj) for obj in found]
        await destinations.named({one.destination for one in placed if one.destination}, _namespace(found))
        lost = [
            at
            for at, one in enumerate(placed)
            if one.destination and not destinations.exists(one.destination, key_of(found[at])[0])
        ]
        read = await each(self.cluster.get("WorkPlacement", *key_of(found[at]), self.deadline) for at in lost)
        for at, obj in zip(lost, read, strict=True):
            if isinstance(obj, dict) and not placements.was_written(obj):
                placed[at] = replace(placed[at], unwritten_at_none=True)
        return placed

    async def _ask(self, work: Work) -> tuple[list[str], list[str]]:
        """Return the ids of a Work's groups that are nowhere, and of those that are misplaced somewhere."""
        owner = {"metadata": {"name": work.name, "uid": work.metadata.uid}}

        async def groups_with(labels: Mapping[str, str], first: int | None = None) -> AsyncIterator[set[str]]:
            pages = self.cluster.pages(
                "WorkPlacement",
                self.deadline,
                {WORK_LABEL: work.name, **labels},
                namespace=work.metadata.namespace,
                metadata_only=True,
                first=first,
            )
            async for page in pages:
                yield {placed_of(one).group for one in page if placements.belongs_to(one, owner)}

        wrong: set[str] = set()
        async for found in groups_with({MISPLACED_LABEL: "true"}):
            wrong |= found
        nowhere = []
        for group in work.spec.workload_groups:
            async for found in groups_with({GROUP_LABEL: group.id}, first=_FEW):
                if found:
                    break
            else:
                nowhere.append(group.id)
        return nowhere, [group.id for group in work.spec.workload_groups if group.id in wrong]

    async def _failing(self, obj: Object, *, recheck: bool) -> list[str]:
        """Return which of a Work's WorkPlacements fail; asked only where some may."""
        known = (obj.get("status") or {}).get("conditions") or ()
        if not recheck and all(c.get("reason") != "WorkplacementsFailing" for c in known):
            return []
        namespace, name = key_of(obj)
        pages = self.cluster.pages("WorkPlacement", self.deadline, {WORK_LABEL: name}, namespace=namespace)
        return sorted(
            [
                p["metadata"]["name"]
                async for page in pages
                for p in page
                if placements.belongs_to(p, obj) and conditions.write_failed(p)
            ]
        )

    def _says(
        self, obj: Object, work: Work, unscheduled: Sequence[str], misplaced: Sequence[str], failing: Sequence[str]
    ) -> list[Verdict]:
        """Return what a Work is to say, if it does not say so already."""
        verdict = conditions.work_scheduled(
            self._reference(obj),
            len(work.spec.workload_groups),
            unscheduled=unscheduled,
            misplaced=misplaced,
            failing=failing,
        )
        return [verdict.seeing(obj)] if conditions.merged(verdict, obj) is not None else []

    async def _hold(self, obj: Object) -> Object | None:
        """Set our finalizer; return the Work with it, None where that is left to status-report."""
        finalizers = [*(obj["metadata"].get("finalizers") or ()), WORK_FINALIZER]
        return await self._patch(obj, {"finalizers": finalizers})

    async def _mark(self, obj: Object, *, waits: bool) -> bool:
        """Let a Work be found, or not any more, when a Destination changes; return whether it was marked now."""
        marked = UNSCHEDULED_LABEL in (obj["metadata"].get("labels") or {})
        if marked == waits:
            return False
        return await self._patch(obj, {"labels": {UNSCHEDULED_LABEL: "true" if waits else None}}) is not None

    async def _patch(self, obj: Object, metadata: Mapping[str, Any]) -> Object | None:
        """Change a Work's metadata, and take the change over; None where the Work has changed or that is refused."""
        try:
            now = await self.cluster.patch({**obj, "kind": "Work"}, {"metadata": dict(metadata)}, self.deadline)
        except KubernetesConflict:  # which is an event, and a message of its own
            return None
        except LandfallError as error:
            if is_out_of_reach(error):
                raise
            logger.warning("Work %s/%s: %s", *key_of(obj), error)
            return None
        if now is not None:
            now = {**now, "kind": "Work"}
            obj["metadata"] = now["metadata"]
        return now

    async def _has_changed(self, work: Object) -> bool:
        """Whether a Work is no longer the one that was read.

        What has just been created from it may then be of a group that it no longer has, and the invocation that placed
        the change may have looked before that was created. A change after this look finds it.
        """
        now = await self.cluster.get("Work", *key_of(work), self.deadline, metadata_only=True)
        if now is None or uid_of(now) != uid_of(work):
            return False  # the garbage collector takes what it owned
        parts = ("generation", "deletionTimestamp")
        return any(now["metadata"].get(part) != work["metadata"].get(part) for part in parts)

    def _reference(self, obj: Object) -> Reference:
        return Reference.to(obj, "Work", self.name)


_FEW = 5


def _only(work: Work, groups: Collection[str]) -> Work:
    """Return a Work with some of its groups."""
    kept = tuple(group for group in work.spec.workload_groups if group.id in groups)
    return work.model_copy(update={"spec": work.spec.model_copy(update={"workload_groups": kept})})


def _namespace(found: Sequence[Object]) -> str:
    return key_of(found[0])[0] if found else ""
