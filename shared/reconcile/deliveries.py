"""write-documents: bring the documents of WorkPlacements to where they belong, and say how it went.

See docs/contract.md#documents.
"""

from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from shared.deadline import Deadline
from shared.errors import KubernetesError, OutOfTime
from shared.kube import Cluster, Key, Object, key_of, selectors, together
from shared.messages import Reference
from shared.reconcile.batch import Share, Task, Tasks, by_cluster, fold, for_each_cluster
from shared.reconcile.by_place import Done, PlaceWork, for_each_place, locate, with_destinations
from shared.reconcile.connections import Connections
from shared.reconcile.delivery import WORK_PLACEMENT, Delivery, target_of
from shared.reconcile.directories import sharing
from shared.reconcile.ownership import Site
from shared.reconcile.placement_writes import write_targets
from shared.reconcile.placing import limits_of
from shared.reconcile.store_batch import StateStores
from shared.reconcile.view import View
from shared.resources import is_label_value
from shared.works import DESTINATION_LABEL, destination_of

_READ_AT_ONCE: Final = 100  # WorkPlacements by name, before it is looked how large they are
# Of documents, as they are carried, that one part has: a share of the memory of all places that are written at once.
_OF_THE_MEMORY: Final = 16


async def write_documents(
    messages: Mapping[str, Reference], connections: Connections, deadline: Deadline
) -> dict[str, Exception]:
    """Write the documents of a batch of WorkPlacements, one changeset a State Store, or some where they are large.

    Args:
        messages: by message id, a WorkPlacement; or a Destination or a State Store, all of whose WorkPlacements are
            meant.
        connections: of this container.
        deadline: of this invocation.

    Returns:
        By message id: why it has to be delivered again.
    """
    settings = connections.settings

    async def write(name: str, share: Mapping[str, Reference], cluster: Cluster) -> Share:
        work = PlaceWork.of("write-documents", "documents", name, cluster, settings=settings, deadline=deadline)

        async def act(tasks: Tasks, site: Site | None) -> Done:
            within = deadline if site is None else site.deadline
            view, done = View(name), Done()
            stores = StateStores(cluster, connections, deadline, within)

            async def deliver(part: _Part) -> None:
                delivery = await _read(part, site, view, cluster, within)
                await delivery.hold(cluster, deadline)
                outcomes = {**delivery.outcomes}
                if site is not None:
                    outcomes |= await write_targets(delivery.targets, site, stores, limits_of(settings))
                done.failures |= delivery.unreachable
                done.outgoing += delivery.unsaid()
                for key, outcome in outcomes.items():
                    if isinstance(outcome, OutOfTime):
                        done.failures.update(dict.fromkeys(delivery.origins[key], outcome))
                    else:
                        done.outgoing += delivery.outgoing(key, outcome, settings)
                done.outgoing += delivery.retries(outcomes, settings)
                done.outgoing += [work.elsewhere(*moved) for moved in delivery.elsewhere]
                for key, known in {**dict.fromkeys(delivery.targets, delivery.place), **delivery.moved}.items():
                    connections.places.learn(name, key, known)

            try:
                async for part in _parts(tasks, cluster, within, settings.memory_bytes // _OF_THE_MEMORY):
                    await deliver(part)
            except (OutOfTime, KubernetesError) as error:  # what was done before is reported
                ids = frozenset[str]().union(*(task.origin for task in tasks.values()))
                done.failures = {**dict.fromkeys(ids, error), **done.failures}
            done.settled = stores.settled
            return done

        tasks = await with_destinations(fold(share), work, deadline)
        places = await _locate(tasks, work, connections, deadline)
        return await for_each_place(places, act, work, connections, deadline), []

    return await for_each_cluster(by_cluster(messages, connections.clusters), write, connections, deadline)


async def _locate(
    tasks: Tasks, work: PlaceWork, connections: Connections, deadline: Deadline
) -> dict[str, dict[tuple[str, Key], Task]]:
    """Return tasks by the place that they are about; "" for those that have none.

    A WorkPlacement says where it goes only by its Destination's name. Where that Destination's State Store is known
    from before, it is taken to be still the same: under the Lease it is looked at again.
    """
    single = {key: task for (kind, key), task in tasks.items() if kind == WORK_PLACEMENT}
    found = await locate({key: task for key, task in tasks.items() if key[0] != WORK_PLACEMENT}, work, deadline)
    unknown = [key for key, task in single.items() if not task.reference.place]
    placements = await work.cluster.read_many(WORK_PLACEMENT, unknown, deadline, metadata_only=True)
    names = {key: destination_of(obj) for key, obj in placements.items()}
    places = {key: connections.places.of(work.cluster_name, key[0], name) for key, name in names.items()}
    targets = await _targets([(key[0], name) for key, name in names.items() if not places[key]], work.cluster, deadline)
    view = await View.of(work.cluster_name, work.cluster, deadline, set(targets.values()))
    for key, task in single.items():
        place = task.reference.place or places.get(key, "")
        if not place and key in names:
            place = view.place(targets[key[0], names[key]])
        found.setdefault(place, {})[WORK_PLACEMENT, key] = task
    return found


async def _targets(named: Collection[Key], cluster: Cluster, deadline: Deadline) -> dict[Key, Key]:
    """Return the Destinations that WorkPlacements name, by namespace of the WorkPlacement and that name.

    They may not exist. On older clusters, where Destinations have a namespace, it is the WorkPlacement's own.
    """
    if not named:
        return {}
    namespaced = await cluster.is_namespaced("Destination", deadline)
    return {(namespace, name): (namespace if namespaced else "", name) for namespace, name in named}


@dataclass
class _Part:
    """As many WorkPlacements as are held in memory at once.

    Attributes:
        objects: the WorkPlacements to deal with.
        origins: the messages that they come from.
        asked: how they were asked for: the references.
        size: bytes of their documents, as they are carried.
    """

    objects: dict[Key, Object] = field(default_factory=dict)
    origins: dict[Key, frozenset[str]] = field(default_factory=dict)
    asked: dict[Key, Reference] = field(default_factory=dict)
    size: int = 0

    def add(self, key: Key, obj: Object, task: Task, reference: Reference) -> None:
        self.objects[key], self.origins[key], self.asked[key] = obj, task.origin, reference
        workloads = (obj.get("spec") or {}).get("workloads") or ()
        self.size += sum(len(workload.get("content") or "") for workload in workloads if isinstance(workload, dict))


async def _parts(tasks: Tasks, cluster: Cluster, deadline: Deadline, room: int) -> AsyncIterator[_Part]:
    """Yield the WorkPlacements that tasks mean, as many at a time as there is room for; at least one."""
    single = {key: task for (kind, key), task in tasks.items() if kind == WORK_PLACEMENT}
    part = _Part()
    keys = sorted(single)
    for at in range(0, len(keys), _READ_AT_ONCE):
        found = await cluster.read_many(WORK_PLACEMENT, keys[at : at + _READ_AT_ONCE], deadline)
        for key in list(found):
            obj = found.pop(key)
            if (reference := single[key].current(obj)) is not None:
                part.add(key, obj, single[key], reference)
            if part.size > room:
                yield part
                part = _Part()
    async for key, obj, task in _of_destinations(tasks, cluster, deadline):
        if key not in single:
            part.add(key, obj, task, max(task.references, key=lambda reference: reference.attempt))
        if part.size > room:
            yield part
            part = _Part()
    if part.objects:
        yield part


async def _of_destinations(
    tasks: Tasks, cluster: Cluster, deadline: Deadline
) -> AsyncIterator[tuple[Key, Object, Task]]:
    """Yield the WorkPlacements of the Destinations that tasks mean, page by page."""
    whole = {key: task for (kind, key), task in tasks.items() if kind == "Destination"}
    names = sorted({name for _, name in whole if is_label_value(name)})
    if not names:
        return
    namespaced = await cluster.is_namespaced("Destination", deadline)
    for _, selector in selectors(DESTINATION_LABEL, names):
        async for page in cluster.pages(WORK_PLACEMENT, deadline, selector):
            while page:
                obj = page.pop(0)
                key = key_of(obj)
                if (task := whole.get((key[0] if namespaced else "", target_of(obj)))) is not None:
                    yield key, obj, task


async def _read(part: _Part, site: Site | None, view: View, cluster: Cluster, deadline: Deadline) -> Delivery:
    """Find out where the WorkPlacements of a part go, and what else has to be known of their Destinations."""
    named = [(key[0], target_of(obj)) for key, obj in part.objects.items() if target_of(obj)]
    unread = set((await _targets(named, cluster, deadline)).values()) - view.destinations.keys()
    await view.read(cluster, deadline, unread)
    delivery = Delivery(view, "" if site is None else site.place)
    for key, obj in part.objects.items():
        delivery.take(key, obj, part.origins[key], part.asked[key])
    if site is not None:
        await delivery.claim(site)
    if crowded := delivery.crowded():  # modes in which one WorkPlacement's files depend on all the others'
        labels = [{DESTINATION_LABEL: destination} for destination in sorted(crowded)]
        found = await together(cluster.list_all(WORK_PLACEMENT, deadline, wanted) for wanted in labels)
        delivery.surround({key_of(obj): obj for objects in found for obj in objects})
    shared = await sharing(list(delivery.targets.values()), delivery.objects.keys(), cluster, deadline)
    delivery.surround(shared, one_place=True)
    return delivery
