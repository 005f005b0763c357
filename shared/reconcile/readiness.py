"""The metrics of what is Ready: how many objects are not, and how long objects take to become it."""

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from aws_lambda_powertools.metrics import MetricUnit

from shared import conditions
from shared.messages import Verdict
from shared.observability import count_in_cluster, logger, measure
from shared.resources import STORE_KINDS
from shared.steering import PAUSED

# The condition whose True says that a kind's documents, or its schedule, are as the object's generation asks for.
# A WorkPlacement's Ready is no such condition: it stays True while a new generation is still to be written.
_TELLING: Final[Mapping[str, str]] = {
    "WorkPlacement": conditions.WRITE_SUCCEEDED,
    "Work": conditions.SCHEDULE_SUCCEEDED,
    **dict.fromkeys(("Destination", *STORE_KINDS), conditions.READY),
}
_STATUS_COLUMN: Final = "status"  # of WorkPlacements: the message of Ready, in Kratix's definitions as in ours
_FAILING: Final = "Failing"
# A condition that turned False so soon after a change of the object has most likely not been True in between.
_FIRST_FALSE_SECONDS: Final = 300


class Unready:
    """Counts how many objects a cluster has that have not been Ready for longer than a write takes.

    WorkPlacements are judged by the column Status of their list: their conditions would come with all documents. Since
    when one fails is the time of the last change of its status, so that one whose message keeps changing counts late.
    """

    def __init__(self, cluster: str, seconds: int) -> None:
        """Begin.

        Args:
            cluster: its name.
            seconds: that an object may take to become Ready.
        """
        self._cluster = cluster
        self._before = datetime.now(UTC) - timedelta(seconds=seconds)
        self._counts = dict.fromkeys(
            ("Destinations", "DestinationsNotReady", "StateStoresNotReady", "WorkPlacementsFailing"), 0
        )
        self._has_column = True

    def destinations(self, objects: Collection[Mapping[str, Any]]) -> None:
        """Count Destinations."""
        self._counts["Destinations"] += len(objects)
        self._counts["DestinationsNotReady"] += sum(_is_unready_since(obj, self._before) for obj in objects)

    def state_stores(self, objects: Collection[Mapping[str, Any]]) -> None:
        """Count State Stores."""
        self._counts["StateStoresNotReady"] += sum(_is_unready_since(obj, self._before) for obj in objects)

    def placements(self, objects: Collection[Mapping[str, Any]]) -> None:
        """Count WorkPlacements with their cells, as `Cluster.pages` yields them with `columns`."""
        self._has_column = self._has_column and all(_STATUS_COLUMN in obj["cells"] for obj in objects)
        if self._has_column:
            self._counts["WorkPlacementsFailing"] += sum(_fails_since(obj, self._before) for obj in objects)

    def record(self) -> None:
        """Record the metrics."""
        counts = dict(self._counts)
        if not self._has_column:
            del counts["WorkPlacementsFailing"]
            logger.warning(
                "cluster %s: the CustomResourceDefinition of WorkPlacements has no column Status, so nothing counts"
                " those that fail: update Kratix, or apply infra/kubernetes/crds/",
                self._cluster,
            )
        count_in_cluster(self._cluster, counts)


def measure_ready(verdict: Verdict, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Record the seconds from an object's creation, or its latest change of spec, until it is Ready.

    Only the first time for each generation counts; a Ready that comes back after an outage does not. Whether a False of
    the same generation was an outage is told by its time: one that began minutes after the change was.

    Args:
        verdict: that was reported.
        before: the object as it was, or what the verdict's message holds of it.
        after: as the API server returned it, with the condition set.
    """
    kind, metadata = verdict.reference.kind, after["metadata"]
    if verdict.status != "True" or verdict.type != _TELLING.get(kind) or metadata.get("deletionTimestamp"):
        return
    generation = metadata.get("generation") or 0
    if verdict.reference.generation != generation or _condition(after, conditions.READY).get("status") != "True":
        return
    began = _changed_at(metadata, generation)
    if began is not None and not _was_true(_condition(before, verdict.type), generation, began):
        took = (datetime.now(UTC) - began).total_seconds()
        measure("SecondsToReady", max(took, 0.0), MetricUnit.Seconds, kind=kind)


def _was_true(condition: Mapping[str, Any], generation: int, began: datetime) -> bool:
    """Whether a condition has been True for a generation before, as far as it tells."""
    if not condition or (condition.get("observedGeneration") or generation) < generation:
        return False
    if condition.get("status") == "True":
        return True
    since = _latest([condition.get("lastTransitionTime")])
    return since is not None and since > began + timedelta(seconds=_FIRST_FALSE_SECONDS)


def _changed_at(metadata: Mapping[str, Any], generation: int) -> datetime | None:
    """Return when an object got its generation, to the second; None where the API server does not tell."""
    if generation == 1:
        return _latest([metadata.get("creationTimestamp")])
    fields = metadata.get("managedFields") or ()
    return _latest(f.get("time") for f in fields if not f.get("subresource") and "f:spec" in (f.get("fieldsV1") or {}))


def _is_unready_since(obj: Mapping[str, Any], moment: datetime) -> bool:
    metadata, ready = obj["metadata"], _condition(obj, conditions.READY)
    if metadata.get("deletionTimestamp") or ready.get("status") == "True" or ready.get("reason") == PAUSED:
        return False
    return datetime.fromisoformat(ready.get("lastTransitionTime") or metadata["creationTimestamp"]) <= moment


def _fails_since(placement: Mapping[str, Any], moment: datetime) -> bool:
    metadata = placement["metadata"]
    if metadata.get("deletionTimestamp") or placement["cells"][_STATUS_COLUMN] != _FAILING:
        return False
    return datetime.fromisoformat(placement["status_changed"] or metadata["creationTimestamp"]) <= moment


def _condition(obj: Mapping[str, Any], of_type: str) -> Mapping[str, Any]:
    return conditions.find((obj.get("status") or {}).get("conditions") or (), of_type) or {}


def _latest(times: Iterable[str | None]) -> datetime | None:
    return max((datetime.fromisoformat(time) for time in times if time), default=None)
