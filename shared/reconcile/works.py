"""on-work-change: bring Works to Destinations as WorkPlacements, and say how far that came.

A message costs what it is about (docs/decisions/0004-scheduling-by-selectors.md): a Work, its WorkPlacements and the
Destinations that its selectors select; a Destination, the WorkPlacements there and the Works that may match it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, TypeVar

from shared.deadline import Deadline
from shared.errors import LandfallError
from shared.kube import Cluster, Key, Object, each, key_of
from shared.messages import Reference
from shared.queues import Outgoing
from shared.reconcile import placements
from shared.reconcile.batch import Share, Task, by_cluster, fold, for_each_cluster, retry
from shared.reconcile.connections import Connections
from shared.reconcile.eligible import EligibleDestinations
from shared.reconcile.one_work import WorkPlacing
from shared.reconcile.work_results import Result, work_of
from shared.resources import is_label_value
from shared.settings import Settings
from shared.works import DESTINATION_LABEL, RESOURCE_LABEL, UNSCHEDULED_LABEL, WORK_LABEL, destination_of

_Item = TypeVar("_Item")

_EVERYTHING: Final = "*"  # the name of a Destination that no Destination has: all Works are meant
_WORKS: Final = 16  # read and placed at a time: each has up to 1.5 MiB of documents
_NAMES: Final = 50  # in one list by labels: a URL may have 8 KB on its way, and a name 63 characters


async def place_works(
    messages: Mapping[str, Reference], connections: Connections, deadline: Deadline
) -> dict[str, Exception]:
    """Schedule the Works of a batch, each for itself.

    Args:
        messages: by message id, a Work; a WorkPlacement, whose Work is meant, be it gone already; a Destination, which
            means the Works that are placed there or may be; or the Destination `*`, which means all Works.
        connections: of this container.
        deadline: of this invocation.

    Returns:
        By message id: why it has to be delivered again. Where a message means several Works, each Work that failed is
        requeued instead.
    """

    async def place(name: str, share: Mapping[str, Reference], cluster: Cluster) -> Share:
        batch = _Batch(name, cluster, connections.settings, deadline)
        try:
            await batch.run(share)
        except LandfallError as error:  # what was done before is reported
            return {**dict.fromkeys(share, error), **batch.failures}, batch.outgoing
        return batch.failures, batch.outgoing

    return await for_each_cluster(by_cluster(messages, connections.clusters), place, connections, deadline)


@dataclass
class _Job:
    """A Work that is meant.

    Attributes:
        at: the Destinations at which it is looked at; None for all.
        recheck: whether what it says may be outdated although nothing has to be written.
        task: the messages that name it, or one of its WorkPlacements; None where a Destination is all that is named.
        also: ids of messages that name no more than a Destination.
    """

    at: set[str] | None = field(default_factory=set)
    recheck: bool = False
    task: Task | None = None
    also: frozenset[str] = frozenset()

    @property
    def message_ids(self) -> frozenset[str]:
        """Ids of all messages that it comes from."""
        return self.also | (self.task.origin if self.task is not None else frozenset())

    def named_by(self, task: Task, key: Key) -> None:
        """Take up messages that name it."""
        origin = task.origin | (self.task.origin if self.task is not None else frozenset())
        self.task = Task(key, task.references, origin)


@dataclass
class _Batch:
    """One cluster's share of a batch.

    WorkPlacements are read before Works. In the other order, a WorkPlacement of a group that was added in between would
    look dangling.

    Attributes:
        jobs: the Works that are meant, in the order of the messages.
        found: by Work, the metadata of its WorkPlacements: all, or those at the Destinations of its job.
    """

    name: str
    cluster: Cluster
    settings: Settings
    deadline: Deadline
    jobs: dict[Key, _Job] = field(default_factory=dict)
    found: dict[Key, list[Object]] = field(default_factory=dict)
    failures: dict[str, Exception] = field(default_factory=dict)
    outgoing: list[Outgoing] = field(default_factory=list)
    placing: WorkPlacing = field(init=False)

    def __post_init__(self) -> None:
        destinations = EligibleDestinations(self.cluster, self.deadline)
        self.placing = WorkPlacing(self.name, self.cluster, self.deadline, destinations)

    async def run(self, share: Mapping[str, Reference]) -> None:
        """Place the Works that the messages mean.

        Raises:
            KubernetesError: what all of them need could not be read.
        """
        tasks = fold(share)
        destinations = {key: task for (kind, key), task in tasks.items() if kind == "Destination"}
        for (kind, key), task in tasks.items():
            if kind == "Work":
                job = self.jobs.setdefault(key, _Job())
                job.at = None
                job.named_by(task, key)
        everything = [task for (_, name), task in destinations.items() if name == _EVERYTHING]
        await self._read_placements([task for (kind, _), task in tasks.items() if kind == "WorkPlacement"])
        if everything:
            await self._all_works(frozenset[str]().union(*(task.origin for task in destinations.values())))
        else:
            await self._at_destinations(destinations)
            await self._named_works()
        for reference in await self.placing.outdated():
            self.outgoing.append(Outgoing("works", reference, frozenset(share)))

    async def _read_placements(self, tasks: Sequence[Task]) -> None:
        """Take up the Works that messages about WorkPlacements mean, each at the Destination of that one."""
        read = await each(
            self.cluster.get("WorkPlacement", *task.key, self.deadline, metadata_only=True) for task in tasks
        )
        for task, result in zip(tasks, read, strict=True):
            namespace, name = task.key
            if isinstance(result, Exception):
                self.failures.update(dict.fromkeys(task.origin, result))
                continue
            if result is None:  # its name is all that is left; what it cannot mean does not exist, or changes nothing
                meant = [((namespace, work), destination) for work, destination in placements.meant_by(name)]
            else:
                work = work_of(result)
                meant = [] if work is None else [(work, destination_of(result))]
            for key, destination in meant:
                job = self.jobs.setdefault(key, _Job())
                job.recheck = True
                job.named_by(task, key)
                if job.at is not None:
                    job.at.add(destination)

    async def _all_works(self, message_ids: frozenset[str]) -> None:
        """Place all Works; of their WorkPlacements and of the Destinations, what decides is kept in memory."""
        if not await self.cluster.exists("Work", self.deadline):
            return
        async for page in self.cluster.pages("WorkPlacement", self.deadline, metadata_only=True):
            self._keep(page)
        await self.placing.destinations.read_all()
        async for page in self.cluster.pages("Work", self.deadline):
            for obj in page:
                job = self.jobs.setdefault(key_of(obj), _Job())
                job.at = None
                job.also |= message_ids
            await self._place(page)
            for obj in page:
                self.found.pop(key_of(obj), None)

    async def _at_destinations(self, tasks: Mapping[Key, Task]) -> None:
        """Look at the Works that are placed at Destinations, and at those that may match one of them now.

        Kratix labels the Works of resource requests. Those are concerned where they are placed, or where they are
        marked as unscheduled; a Destination more means nothing to the others. All other Works are read.
        """
        if not tasks:
            return
        message_ids = frozenset[str]().union(*(task.origin for task in tasks.values()))
        names = sorted({name for _, name in tasks})
        for namespace in sorted({namespace for namespace, _ in tasks}):  # before all Works ask for them at once
            there = [name for own, name in tasks if own == namespace]
            await self.placing.destinations.named(there, namespace)
        for part in _parts([name for name in names if is_label_value(name)], _NAMES):
            await self._list_placements(f"{DESTINATION_LABEL} in ({','.join(part)})")
        for key, found in self.found.items():
            self._take_up(key, {destination_of(one) for one in found}, message_ids)
        async for page in self.cluster.pages("Work", self.deadline, f"!{RESOURCE_LABEL}"):
            await self._place([obj for obj in page if self._may_match(obj, tasks, message_ids)])
        waiting = f"{RESOURCE_LABEL},{UNSCHEDULED_LABEL}"
        async for page in self.cluster.pages("Work", self.deadline, waiting, metadata_only=True):
            for obj in page:
                self._again(obj, message_ids)

    def _take_up(self, key: Key, at: Iterable[str], message_ids: frozenset[str]) -> None:
        """Have a Work looked at at Destinations."""
        job = self.jobs.setdefault(key, _Job())
        job.also |= message_ids
        if job.at is not None:
            job.at.update(at)

    def _may_match(self, work: Object, destinations: Iterable[Key], message_ids: frozenset[str]) -> bool:
        """Whether a Work is to be looked at now; one that has a message of its own, or gets one, is not."""
        key = key_of(work)
        if not (work.get("spec") or {}).get("resourceName"):
            self._take_up(key, (name for namespace, name in destinations if namespace in {"", key[0]}), message_ids)
        elif _is_unscheduled(work):
            self._again(work, message_ids)
        job = self.jobs.get(key)
        return job is not None and bool(job.at) and job.task is None

    async def _named_works(self) -> None:
        """Place the Works that are still to be placed, each read by its name."""
        await self._list_of_works([key for key, job in self.jobs.items() if job.at is None])
        await self._list_at([(key, job.at) for key, job in self.jobs.items() if job.at and job.task is not None])
        keys = list(self.jobs)
        for part in _parts(keys, _WORKS):
            await self._read_and_place(part)
        again = [key for key in keys if key in self.jobs]  # they turned out to need all of it
        await self._list_of_works(again)
        for part in _parts(again, _WORKS):
            await self._read_and_place(part)

    async def _list_of_works(self, keys: Sequence[Key]) -> None:
        """Read the metadata of all WorkPlacements of Works."""
        by_namespace: dict[str, list[str]] = {}
        for namespace, name in keys:
            self.found.pop((namespace, name), None)
            if is_label_value(name):
                by_namespace.setdefault(namespace, []).append(name)
        for namespace, names in by_namespace.items():
            for part in _parts(names, _NAMES):
                await self._list_placements(f"{WORK_LABEL} in ({','.join(part)})", namespace)

    async def _list_at(self, wanted: Sequence[tuple[Key, set[str]]]) -> None:
        """Read the metadata of Works' WorkPlacements at some Destinations."""
        for (namespace, work), names in wanted:
            at = sorted(name for name in names if is_label_value(name))
            if is_label_value(work) and at:
                self.found.pop((namespace, work), None)
                selector = f"{WORK_LABEL}={work},{DESTINATION_LABEL} in ({','.join(at)})"
                await self._list_placements(selector, namespace)

    async def _list_placements(self, selector: str, namespace: str = "") -> None:
        pages = self.cluster.pages("WorkPlacement", self.deadline, selector, namespace=namespace, metadata_only=True)
        async for page in pages:
            self._keep(page)

    def _keep(self, page: Iterable[Object]) -> None:
        for obj in page:
            work = work_of(obj)
            if work is not None:
                self.found.setdefault(work, []).append(placements.compact(obj))

    async def _read_and_place(self, keys: Sequence[Key]) -> None:
        read = await each(self.cluster.get("Work", *key, self.deadline) for key in keys)
        works = []
        for key, obj in zip(keys, read, strict=True):
            if isinstance(obj, dict):
                works.append(obj)
                continue
            job = self.jobs.pop(key)
            if obj is not None:
                self.failures.update(dict.fromkeys(job.message_ids, obj))
        await self._place(works)

    async def _place(self, works: Sequence[Object]) -> None:
        """Place Works of which there are jobs, and take down what is to be sent and to be done again."""
        results = await each(self._place_one(obj) for obj in works)
        for obj, result in zip(works, results, strict=True):
            key = key_of(obj)
            given = result if isinstance(result, Result) else Result(again=result)
            if given.whole and self.jobs[key].at is not None and not given.verdicts:
                self.jobs[key].at = None
            else:
                self._settle(self.jobs.pop(key), obj, given)

    async def _place_one(self, obj: Object) -> Result:
        key = key_of(obj)
        job, found = self.jobs[key], self.found.get(key, ())
        if job.at is None:
            return await self.placing.place(obj, found, recheck=job.recheck)
        return await self.placing.place_at(obj, job.at, found, recheck=job.recheck)

    def _settle(self, job: _Job, obj: Object, result: Result) -> None:
        """Take down what is to be sent for a Work, and what has to be done again."""
        message_ids = job.message_ids
        self.outgoing += [Outgoing("status", verdict, message_ids) for verdict in result.verdicts]
        if result.whole:
            self._again(obj, message_ids)
        if result.again is None:
            return
        attempt = 0 if job.task is None else min(reference.attempt for reference in job.task.references)
        if job.task is not None and not attempt:
            self.failures.update(dict.fromkeys(job.task.origin, result.again))
        elif isinstance(result.again, LandfallError):
            reference = Reference.to(obj, "Work", self.name, attempt)
            self.outgoing += retry("works", reference, result.again, message_ids, self.settings)

    def _again(self, obj: Object, message_ids: frozenset[str]) -> None:
        """Have a Work placed by a message of its own."""
        self.outgoing.append(Outgoing("works", Reference.to(obj, "Work", self.name), message_ids))


def _is_unscheduled(work: Object) -> bool:
    """Whether a Work waits for a Destination: by our mark, or by what it says."""
    said = (work.get("status") or {}).get("conditions") or ()
    marked = UNSCHEDULED_LABEL in (work["metadata"].get("labels") or {})
    return marked or not said or any(c.get("reason") == "UnscheduledWorkloads" for c in said)


def _parts(items: Sequence[_Item], size: int) -> Iterator[list[_Item]]:
    left = iter(items)
    while part := list(islice(left, size)):
        yield part
