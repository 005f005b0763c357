"""resync: on a schedule, have everything looked at again; what events were lost is repaired by it."""

from collections.abc import Mapping

from shared.deadline import Deadline
from shared.kube import Cluster
from shared.reconcile.batch import Share, for_each_cluster
from shared.reconcile.changes import decide_everything, read_cluster
from shared.reconcile.connections import Connections
from shared.reconcile.readiness import count_unready


async def resync(messages: Mapping[str, object], connections: Connections, deadline: Deadline) -> dict[str, Exception]:
    """List everything once, report what is not as it should be, and have every State Store checked and compared.

    Each cluster is looked at for itself: one that is down leaves the others' resync whole. A State Store takes one
    message for all its Destinations, so that a cluster in which all is well costs one list a kind here, and one list
    a kind and one look into each store in write-canary.

    Args:
        messages: the schedule's one event; what it holds does not matter.
        connections: of this container.
        deadline: of this invocation.

    Returns:
        By message id: why the resync is not complete.
    """

    async def look(name: str, share: Mapping[str, object], cluster: Cluster) -> Share:
        view, placements = await read_cluster(name, cluster, deadline, columns=True)
        count_unready(view, placements, connections.settings.not_ready_seconds)
        return {}, decide_everything(view, placements, frozenset(share), connections.settings)

    return await for_each_cluster(dict.fromkeys(connections.settings.served, messages), look, connections, deadline)
