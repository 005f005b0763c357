"""resync: on a schedule, have everything looked at again; what events were lost is repaired by it."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from shared.deadline import Deadline
from shared.kube import Cluster
from shared.observability import count_in_cluster
from shared.reconcile.batch import Share, for_each_cluster
from shared.reconcile.changes import decide_everything, read_cluster
from shared.reconcile.connections import Connections
from shared.reconcile.view import View


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
        view, placements = await read_cluster(name, cluster, deadline)
        _count(view, connections.settings.not_ready_seconds)
        return {}, decide_everything(view, placements, frozenset(share), connections.settings)

    return await for_each_cluster(dict.fromkeys(connections.settings.served, messages), look, connections, deadline)


def _count(view: View, seconds: int) -> None:
    """Tell how many Destinations there are, and how many have not been Ready for longer than a write takes."""
    before = datetime.now(UTC) - timedelta(seconds=seconds)
    late = sum(_is_not_ready_since(obj, before) for obj in view.destinations.values())
    count_in_cluster(view.cluster, {"Destinations": len(view.destinations), "DestinationsNotReady": late})


def _is_not_ready_since(destination: Mapping[str, Any], moment: datetime) -> bool:
    metadata = destination["metadata"]
    if metadata.get("deletionTimestamp"):
        return False
    conditions = (destination.get("status") or {}).get("conditions") or ()
    ready: Mapping[str, Any] = next((c for c in conditions if c["type"] == "Ready"), {})
    if ready.get("status") == "True":
        return False
    return datetime.fromisoformat(ready.get("lastTransitionTime") or metadata["creationTimestamp"]) <= moment
