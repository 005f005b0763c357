"""The queues: how much waits for how long, and the dead-letter queues."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from infra.checks.aws import Unanswered
from infra.checks.lines import Line, failed, not_checked, ok
from infra.checks.look import Look
from infra.checks.stack import QUEUE

_COUNTS: Final = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
)
_AGE_MINUTES: Final = 15
_OLDEST_SECONDS: Final = 1800  # the template's default of OldestMessageSeconds


async def queues(look: Look) -> list[Line]:
    """Check that no message waits for longer than the stack's parameter OldestMessageSeconds."""
    limit = int(look.stack.parameters.get("OldestMessageSeconds") or _OLDEST_SECONDS)
    lines: list[Line] = []
    for id_, url in sorted(look.stack.of_type(QUEUE).items()):
        name = url.rpartition("/")[2]
        what = f"queue {name.removeprefix(f'{look.stack.name}-')}"
        try:
            attributes = await _attributes(look, url)
            if _is_dead_letter(attributes):
                continue
            age = await _oldest(look, name)
        except Unanswered as error:
            lines.append(_not_read(what, id_, error))
            continue
        waiting, in_flight, delayed = (int(attributes.get(count, 0)) for count in _COUNTS)
        seen = f"{waiting} waiting, {in_flight} in flight, {delayed} delayed"
        if age is None:
            lines.append(ok(what, f"{seen}; CloudWatch has no age of the oldest in the last {_AGE_MINUTES} minutes"))
        elif age > limit:
            todo = "see the log of the function that reads it, and docs/operations.md, Too slow"
            lines.append(failed(what, f"{seen}; the oldest waits for {age:.0f} s, over {limit}", todo))
        else:
            lines.append(ok(what, f"{seen}; the oldest waited for {age:.0f} s"))
    return lines


async def dead_letters(look: Look) -> list[Line]:
    """Check that the dead-letter queues are empty; one that cannot be read has its line among the queues."""
    lines: list[Line] = []
    for url in sorted(look.stack.of_type(QUEUE).values()):
        what = f"queue {url.rpartition('/')[2].removeprefix(f'{look.stack.name}-')}"
        try:
            attributes = await _attributes(look, url)
        except Unanswered:
            continue
        if _is_dead_letter(attributes):
            count = sum(int(attributes.get(count, 0)) for count in _COUNTS)
            todo = "find out why, then send them back or delete them: docs/operations.md, Dead letters"
            lines.append(failed(what, f"{count} messages were put aside", todo) if count else ok(what, "empty"))
    return lines or [not_checked("dead-letter queues", "no queue of the stack is known to be one")]


def _is_dead_letter(attributes: Mapping[str, str]) -> bool:
    """Whether a queue is where messages end: every other queue of the stack has a redrive policy."""
    return "RedrivePolicy" not in attributes


async def _attributes(look: Look, url: str) -> Mapping[str, str]:
    names = [*_COUNTS, "RedrivePolicy"]
    answer = await look.aws.call("sqs", "get_queue_attributes", QueueUrl=url, AttributeNames=names)
    found: Mapping[str, str] = answer["Attributes"]
    return found


def _not_read(what: str, id_: str, error: Unanswered) -> Line:
    if "NonExistentQueue" in error.code or "QueueDoesNotExist" in error.code:
        return failed(what, f"{id_} is gone", "deploy the template again: it was deleted")
    return not_checked(what, str(error))


async def _oldest(look: Look, name: str) -> float | None:
    """Return the age in seconds of the oldest message as CloudWatch saw it last; None where it saw nothing."""
    end = datetime.now(UTC)
    answer = await look.aws.call(
        "cloudwatch",
        "get_metric_statistics",
        Namespace="AWS/SQS",
        MetricName="ApproximateAgeOfOldestMessage",
        Dimensions=[{"Name": "QueueName", "Value": name}],
        StartTime=end - timedelta(minutes=_AGE_MINUTES),
        EndTime=end,
        Period=60,
        Statistics=["Maximum"],
    )
    points: list[dict[str, Any]] = sorted(answer["Datapoints"], key=lambda point: point["Timestamp"])
    return float(points[-1]["Maximum"]) if points else None
