"""resync: on a schedule, have everything looked at again; what events were lost is repaired by it."""

from collections.abc import Mapping

from shared.deadline import Deadline
from shared.errors import LandfallError
from shared.reconcile.changes import decide_everything, read_cluster
from shared.reconcile.connections import Connections


async def resync(messages: Mapping[str, object], connections: Connections, deadline: Deadline) -> dict[str, Exception]:
    """List everything once, report what is not as it should be, and have every State Store checked and compared.

    A State Store takes one message for all its Destinations, so that a cluster in which all is well costs one list a
    kind here, and one list a kind and one look into each store in write-canary.

    Args:
        messages: the schedule's one event; what it holds does not matter.
        connections: of this container.
        deadline: of this invocation.

    Returns:
        By message id: why the resync is not complete.
    """
    name = connections.settings.cluster
    try:
        view, placements = await read_cluster(name, await connections.clusters.get(name), deadline)
    except LandfallError as error:
        return dict.fromkeys(messages, error)
    return await connections.queues.send(decide_everything(view, placements, frozenset(messages)), deadline)
