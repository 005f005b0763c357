"""write-canary: check State Stores, bring canary documents to where they belong, and say how it went."""

from collections.abc import Mapping

from shared.deadline import Deadline
from shared.kube import Cluster
from shared.messages import Reference
from shared.reconcile.batch import Share, Tasks, by_cluster, fold, for_each_cluster
from shared.reconcile.by_place import Done, PlaceWork, for_each_place, locate, with_destinations
from shared.reconcile.canary_batch import CanaryBatch
from shared.reconcile.claims import CLAIM
from shared.reconcile.connections import Connections
from shared.reconcile.ownership import Site, remembered_stores
from shared.reconcile.pausing import carried_out
from shared.reconcile.store_batch import StateStores
from shared.reconcile.view import View
from shared.reconcile.waiting import Waiting
from shared.resources import STORE_KINDS


async def write_canaries(
    messages: Mapping[str, Reference], connections: Connections, deadline: Deadline
) -> dict[str, Exception]:
    """Check the State Stores and write the canary documents of a batch, one changeset a State Store.

    Args:
        messages: by message id, a Destination to write, or a State Store to check and whose Destinations to write.
        connections: of this container.
        deadline: of this invocation.

    Returns:
        By message id: why it has to be delivered again.
    """
    settings = connections.settings

    async def write(name: str, share: Mapping[str, Reference], cluster: Cluster) -> Share:
        work = PlaceWork.of("write-canary", "canary", name, cluster, settings=settings, deadline=deadline)

        async def act(tasks: Tasks, site: Site | None) -> Done:
            named = [key for kind, key in tasks if kind == "Destination"]
            asked = [(kind, *key) for kind, key in tasks if kind in STORE_KINDS]
            within = deadline if site is None else site.deadline
            view = await View.of(name, cluster, within, named, asked)
            waiting = await Waiting.read(settings.lease_namespace, cluster, within) if named else None
            batch = CanaryBatch.of(tasks, "" if site is None else site.place, view)
            stores = StateStores(cluster, connections, deadline, within)
            checked = await stores.check_all(batch.stores.values())
            batch.decide(checked)
            if site is not None:
                await batch.claim(site, waiting)
                await site.forget([path[1:] for kind, (_, path) in tasks if kind == CLAIM])
            await batch.hold(cluster, deadline)
            edits = {write.edit.id: (write.store, write.edit) for write in batch.writes.values()}
            outcomes = await stores.write_all(edits)
            if waiting is not None:
                if any(True for key in named for _ in waiting.on(key)):
                    await view.read(cluster, within, stores=remembered_stores(view))
                await batch.wake(waiting)
            outgoing = [
                *batch.outgoing(checked, outcomes, settings),
                *(work.elsewhere(*moved) for moved in batch.elsewhere),
            ]
            failures = batch.out_of_time(checked, outcomes)
            outgoing += carried_out(view, batch.looked_at, batch.checked, failures)
            return Done(failures, outgoing, stores.settled)

        places = await locate(await with_destinations(fold(share), work, deadline), work, deadline)
        return await for_each_place(places, act, work, connections, deadline), []

    return await for_each_cluster(by_cluster(messages, connections.clusters), write, connections, deadline)
