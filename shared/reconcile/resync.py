"""resync: on a schedule, have every Destination looked at again; what events were lost is repaired by it."""

from collections.abc import Mapping

from shared.deadline import Deadline
from shared.errors import LandfallError
from shared.kube import key_of
from shared.messages import Reference
from shared.queues import Outgoing
from shared.reconcile.connections import Connections


async def resync(messages: Mapping[str, object], connections: Connections, deadline: Deadline) -> dict[str, Exception]:
    """Send a reference to every Destination to the changes queue.

    Args:
        messages: the schedule's one event; what it holds does not matter.
        connections: of this container.
        deadline: of this invocation.

    Returns:
        By message id: why the resync is not complete.
    """
    name = connections.settings.cluster
    origin = frozenset(messages)
    try:
        cluster = await connections.clusters.get(name)
        objects = await cluster.list_all("Destination", deadline)
    except LandfallError as error:
        return dict.fromkeys(messages, error)
    references = (
        Reference(cluster=name, kind="Destination", namespace=namespace, name=own_name, why="resync")
        for namespace, own_name in map(key_of, objects)
    )
    return await connections.queues.send((Outgoing("changes", reference, origin) for reference in references), deadline)
