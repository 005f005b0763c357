"""Plays a stack's functions and event source mappings, as Lambda does: with each function's own role and variables."""

import contextlib
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from aiobotocore.session import get_session

from infra.local.event_source import EventSourceMapping
from infra.local.sqs_source import SqsSource
from infra.local.template import EventSource
from infra.local.workers import FunctionPool, Log
from tests.infra.stack import Identity, Stack, function
from tests.servers.process import private_environment

_GRACE_SECONDS = 5.0


@dataclass(frozen=True)
class Played:
    """A stack at work.

    Attributes:
        stack: whose functions they are.
        functions: by the names of their folders.
        identities: what each of them calls AWS as.
        log: what they print.
    """

    stack: Stack
    functions: dict[str, FunctionPool]
    identities: dict[str, Identity]
    log: Log

    def waiting(self) -> dict[str, int]:
        """Return how many messages each queue has that has any, those in flight included, and delayed ones not."""
        sqs, found = self.stack.client("sqs"), {}
        counts = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        for url in sqs.list_queues()["QueueUrls"]:
            told = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=counts)["Attributes"]
            count = sum(int(n) for n in told.values())
            if count:
                found[url.rpartition("/")[2].removeprefix(f"{self.stack.name}-")] = count
        return found


@contextlib.asynccontextmanager
async def played(stack: Stack, **machine: str) -> AsyncIterator[Played]:
    """Run everything until the block ends.

    Args:
        stack: what to run.
        machine: variables that only this machine asks for: a CA, an endpoint.
    """
    async with AsyncExitStack() as leaving:
        folder = leaving.enter_context(tempfile.TemporaryDirectory(prefix="landfall-stack-"))
        log = Log(Path(folder) / "functions.log")
        leaving.callback(log.close)
        made = {
            physical: id_ for id_, (type_, physical) in stack.resources().items() if type_ == "AWS::Lambda::Function"
        }
        region = stack.server.region
        aws = {"AWS_REGION": region, "AWS_DEFAULT_REGION": region, "AWS_ENDPOINT_URL": stack.server.url}
        pools, identities = {}, {}
        for name, configuration in stack.functions().items():
            identities[name] = stack.assume(configuration["Role"], name)
            runs = function(stack, made[configuration["FunctionName"]], name)
            # What Lambda sets, the function's own variables, and what this machine asks for.
            variables = {
                **aws,
                **identities[name].environment(),
                **runs.environment,
                **machine,
                "PYTHONUNBUFFERED": "1",
            }
            pools[name] = FunctionPool(runs, private_environment(**variables), log)
            leaving.push_async_callback(pools[name].stop)
        by_arn = {configuration["FunctionArn"]: name for name, configuration in stack.functions().items()}
        for declared in stack.client("lambda").list_event_source_mappings()["EventSourceMappings"]:
            name, arn = by_arn[declared["FunctionArn"]], declared["EventSourceArn"]
            identity = identities[name]
            client = await leaving.enter_async_context(
                get_session().create_client(
                    "sqs",
                    region_name=region,
                    endpoint_url=stack.server.url,
                    # Lambda's pollers read a queue as the function.
                    aws_access_key_id=identity.access_key,
                    aws_secret_access_key=identity.secret_key,
                    aws_session_token=identity.token,
                )
            )
            mapping = EventSourceMapping(
                EventSource(
                    function=pools[name].function.id,
                    queue=arn,
                    batch_size=declared["BatchSize"],
                    window_seconds=float(declared.get("MaximumBatchingWindowInSeconds", 0)),
                    partial="ReportBatchItemFailures" in declared.get("FunctionResponseTypes", []),
                ),
                SqsSource(client, stack.queue(arn), name=arn.rpartition(":")[2], arn=arn),
                pools[name],
            )
            leaving.push_async_callback(mapping.stop, _GRACE_SECONDS)
            mapping.start()
        yield Played(stack, pools, identities, log)
