"""`landfall dead-letters`: messages that a function has given up on, listed, sent back, or deleted."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

import typer

from infra.checks.aws import Aws
from infra.checks.lines import CannotRun, NotChecked
from infra.checks.stack import QUEUE, read_stack
from infra.cli.output import Format, Output, count
from infra.cli.running import Form, leave
from shared.errors import InvalidObject

_SUFFIX: Final = "-dead-letter"
_SHOWN: Final = 10  # messages of a queue: what SQS hands out at a time

dead_letters_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

Stack = Annotated[str, typer.Option("--stack", help="Name of the CloudFormation stack.", show_default=False)]
Queue = Annotated[str, typer.Argument(help="Queue, as `list` names it: canary, documents, …", show_default=False)]


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """What one dead-letter queue holds.

    Attributes:
        queue: the queue that the messages are from, such as `canary`.
        url: of the dead-letter queue.
        number: of its messages, about.
        messages: some of them.
    """

    queue: str
    url: str
    number: int
    messages: list[Any]


@dead_letters_app.command("list", epilog="Examples:  landfall dead-letters list --stack landfall   |   … -o json")
def list_(stack: Stack, output: Form = Format.TEXT) -> None:
    """List the dead-letter queues, and some messages of each. Nothing is removed."""

    async def run() -> int:
        async with Aws() as aws:
            queues = await _queues(aws, stack)
            found = [await _look(aws, queue, url) for queue, url in queues.items()]
        out = Output(output)
        if output is not Format.TEXT:
            out.data([{"queue": one.queue, "messages": one.number, "some": one.messages} for one in found])
            return 0
        out.table(("QUEUE", "MESSAGES"), [(one.queue, str(one.number)) for one in found])
        for one in found:
            if one.messages:
                out.heading(f"{one.queue}: {count(len(one.messages), 'message')} of {one.number}")
                out.lines(json.dumps(message, ensure_ascii=False) for message in one.messages)
        return 0

    leave(_understood(run()))


@dead_letters_app.command("redrive", epilog="Examples:  landfall dead-letters redrive canary --stack landfall")
def redrive(queue: Queue, stack: Stack) -> None:
    """Send a queue's dead letters back to it, once the cause is gone."""

    async def run() -> int:
        async with Aws() as aws:
            url = await _named(aws, stack, queue)
            found = await aws.call("sqs", "get_queue_attributes", QueueUrl=url, AttributeNames=["QueueArn"])
            await aws.call("sqs", "start_message_move_task", SourceArn=found["Attributes"]["QueueArn"])
        Output().line(
            f"{queue}: its dead letters are on their way back; `landfall dead-letters list` says what is left"
        )
        return 0

    leave(_understood(run()))


@dead_letters_app.command("delete", epilog="Examples:  landfall dead-letters delete canary --stack landfall")
def delete(
    queue: Queue,
    stack: Stack,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a queue's dead letters. The resync looks at every object all the same, so nothing is lost."""
    if not yes:
        typer.confirm(f"Delete all dead letters of queue {queue} of stack {stack}?", abort=True)

    async def run() -> int:
        async with Aws() as aws:
            await aws.call("sqs", "purge_queue", QueueUrl=await _named(aws, stack, queue))
        Output().line(f"{queue}: its dead letters are deleted")
        return 0

    leave(_understood(run()))


async def _understood(work: Any) -> int:
    """Await a command's work; what AWS does not answer is an error of ours."""
    try:
        return int(await work)
    except (CannotRun, NotChecked) as error:
        raise InvalidObject(str(error)) from None


async def _queues(aws: Aws, stack: str) -> dict[str, str]:
    """Return the URLs of a stack's dead-letter queues by the names of the queues that they are for."""
    found = await read_stack(aws, stack)
    urls = sorted(found.of_type(QUEUE).values())
    names: Mapping[str, str] = {url.rpartition("/")[2].removeprefix(f"{found.name}-"): url for url in urls}
    return {name.removesuffix(_SUFFIX): url for name, url in names.items() if name.endswith(_SUFFIX)}


async def _named(aws: Aws, stack: str, queue: str) -> str:
    queues = await _queues(aws, stack)
    if queue not in queues:
        raise InvalidObject(f"stack {stack} has no queue {queue!r} with dead letters: name one of {', '.join(queues)}")
    return queues[queue]


async def _look(aws: Aws, queue: str, url: str) -> DeadLetters:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    counts = (await aws.call("sqs", "get_queue_attributes", QueueUrl=url, AttributeNames=names))["Attributes"]
    number = sum(int(counts.get(name, 0)) for name in names)
    received: list[dict[str, Any]] = []
    if number:
        answer = await aws.call("sqs", "receive_message", QueueUrl=url, MaxNumberOfMessages=_SHOWN, VisibilityTimeout=0)
        received = answer.get("Messages") or []
    return DeadLetters(queue, url, number, [_body(message["Body"]) for message in received])


def _body(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
