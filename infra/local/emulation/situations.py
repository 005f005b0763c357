"""One event for each function, and what has become of the world when it has been handled: seven steps of one life.

What is shown is what is checked: the lines that a step leads to are written down here, once more and by hand.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from infra.local.describe import condition_line, named
from infra.local.emulation.stage import BUCKET, Stage
from infra.local.template import ROOT

_EVENTS: Final = ROOT / "events"
_ANSWER: Final[object] = {"batchItemFailures": []}


@dataclass(frozen=True)
class Situation:
    """An event for a function.

    Attributes:
        function: name of its folder.
        path: of the event's file.
        prepare: brings about what the event speaks of, where the steps before have not.
        answer: what the function answers.
        becomes: the lines that `outcome` has to return then; None where nobody knows.
        look: what of the world is looked at, besides the queues.
    """

    function: str
    path: Path
    answer: object
    becomes: Sequence[str] | None
    look: Callable[[Stage], Iterator[str]] = lambda _: iter(())
    prepare: Callable[[Stage], None] = lambda _: None

    def outcome(self, stage: Stage) -> list[str]:
        """Return what has become of the world, as lines, and take the messages out of the queues."""
        return [*self.look(stage), *sorted(f"{queue} queue: {_told(body)}" for queue, body in stage.take())]

    def complaints(self, answer: object, became: Sequence[str]) -> list[str]:
        """Return what is not as it should be about an answer and an outcome."""
        if self.becomes is None:
            return []
        wrong = [] if answer == self.answer else [f"{self.function} answered {answer}, not {self.answer}"]
        wrong += [f"{self.function}: this should be there: {line}" for line in self.becomes if line not in became]
        return wrong + [
            f"{self.function}: this should not be there: {line}" for line in became if line not in self.becomes
        ]


def _told(message: Mapping[str, Any]) -> str:
    """Return a reference or a verdict in short."""
    reference = message.get("reference", message)
    parts = [f"{reference['kind']}/{reference['name']}"]
    if message.get("status"):
        parts += [message.get("type", "Ready"), message["status"], message["reason"]]
    parts += [f"without {name}" for name in message.get("remove_finalizers", ())]
    parts += [message["path"]] if message.get("path") else []
    return " ".join(parts)


def _files(stage: Stage) -> Iterator[str]:
    for path in sorted(stage.bucket.files(BUCKET)):
        yield f"s3://{BUCKET}/{path}"


def _condition(stage: Stage) -> Iterator[str]:
    for destination in stage.objects("destinations"):
        yield f"{named(destination)}: {condition_line(destination)}"


def _placements(stage: Stage) -> Iterator[str]:
    for placement in stage.objects("workplacements"):
        yield f"{named(placement)} at {placement['spec']['targetDestinationName']}"


def _deleted(stage: Stage) -> None:
    for placement in stage.objects("workplacements"):  # as write-documents does once the Work is gone
        name = placement["metadata"]["name"]
        stage.change("workplacements", name, {"metadata": {"finalizers": []}}, "default")
        stage.delete("workplacements", name, "default")
    cleanup = {"metadata": {"finalizers": ["kratix.io/destination-cleanup"]}, "spec": {"cleanup": "all"}}
    stage.change("destinations", "worker-1", cleanup)
    stage.delete("destinations", "worker-1")


_NAMESPACE: Final = "s3://kratix/destinations/dev/dependencies/kratix-canary-namespace.yaml"
_CONFIG_MAP: Final = "s3://kratix/destinations/dev/resources/kratix-canary-configmap.yaml"

SITUATIONS: Final = (
    Situation(
        function="on-destination-change",
        path=_EVENTS / "on-destination-change/watch-event.in-sqs.json",
        answer=_ANSWER,
        becomes=[
            "canary queue: Destination/worker-1",
            "status queue: Destination/worker-1 Ready False DestinationNotReady",
            "works queue: Destination/worker-1",
        ],
    ),
    Situation(
        function="write-canary",
        path=_EVENTS / "write-canary/references.json",
        answer=_ANSWER,
        look=_files,
        becomes=[_NAMESPACE, _CONFIG_MAP, "status queue: Destination/worker-1 Ready True TestDocumentsWritten"],
    ),
    Situation(
        function="status-report",
        path=_EVENTS / "status-report/verdicts.json",
        answer=_ANSWER,
        look=_condition,
        becomes=["Destination/worker-1: Ready True TestDocumentsWritten Test documents written to State Store"],
    ),
    Situation(
        function="on-work-change",
        path=_EVENTS / "on-work-change/references.json",
        answer=_ANSWER,
        look=_placements,
        becomes=[
            "WorkPlacement/redis.worker-1-5058f at worker-1",
            "status queue: Work/redis ScheduleSucceeded True AllWorkplacementsScheduled",
            "status queue: WorkPlacement/redis.worker-1-5058f ScheduleSucceeded True ScheduledToDestination",
        ],
    ),
    Situation(
        function="write-documents",
        path=_EVENTS / "write-documents/references.json",
        answer=_ANSWER,
        look=_files,
        becomes=[
            _NAMESPACE,
            "s3://kratix/destinations/dev/dependencies/redis/5058f/namespace.yaml",
            _CONFIG_MAP,
            "status queue: WorkPlacement/redis.worker-1-5058f WriteSucceeded True WorkloadsWrittenToStateStore",
        ],
    ),
    Situation(
        function="resync",
        path=_EVENTS / "resync/schedule.json",
        answer=None,
        becomes=[
            "canary queue: BucketStateStore/default",
            "canary queue: Destination/worker-1",
            "documents queue: Destination/worker-1",
            "works queue: Destination/*",
        ],
    ),
    Situation(
        function="cleanup",
        path=_EVENTS / "cleanup/references.json",
        answer=_ANSWER,
        prepare=_deleted,
        look=_files,
        becomes=[
            "status queue: Destination/worker-1 without kratix.io/destination-cleanup",
        ],
    ),
)
