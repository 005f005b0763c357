"""Batches, invocations and partial batch responses as Lambda plays them, with real processes as functions."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from infra.local.event_source import EventSourceMapping, failed_ids, lambda_event
from infra.local.sources import MemoryQueue, Message
from infra.local.template import EventSource, Function
from infra.local.workers import FunctionFailed, FunctionPool, Log, function_environment

ARN = "arn:aws:sqs:us-east-1:000000000000:landfall-canary"


@pytest.mark.parametrize(
    ("answer", "failed"),
    [
        pytest.param(None, set(), id="null"),
        pytest.param({}, set(), id="an empty object"),
        pytest.param({"batchItemFailures": []}, set(), id="an empty list"),
        pytest.param({"batchItemFailures": None}, set(), id="a null list"),
        pytest.param({"statusCode": 200}, set(), id="an object about something else"),
        pytest.param({"batchItemFailures": [{"itemIdentifier": "a"}]}, {"a"}, id="one of two"),
        pytest.param({"batchItemFailures": [{"itemIdentifier": "c"}]}, {"a", "b"}, id="an unknown identifier"),
        pytest.param({"batchItemFailures": [{"itemIdentifier": ""}]}, {"a", "b"}, id="an empty identifier"),
        pytest.param({"batchItemFailures": [{"itemIdentifier": None}]}, {"a", "b"}, id="a null identifier"),
        pytest.param({"batchItemFailures": [{"itemId": "a"}]}, {"a", "b"}, id="a bad key"),
        pytest.param({"batchItemFailures": ["a"]}, {"a", "b"}, id="no objects"),
        pytest.param({"batchItemFailures": {"itemIdentifier": "a"}}, {"a", "b"}, id="no list"),
        pytest.param("done", {"a", "b"}, id="a string"),
    ],
)
def test_a_partial_batch_response_is_read_as_lambda_reads_it(answer: object, failed: set[str]) -> None:
    assert failed_ids(answer, {"a", "b"}) == failed


def test_the_event_has_what_lambda_gives_a_function_for_an_sqs_batch() -> None:
    attributes = {"cluster": {"StringValue": "west", "DataType": "String"}}
    message = Message("ä", id="m", receipt="r", receives=2, sent_at=1.5, first_received_at=2.25, attributes=attributes)
    assert lambda_event([message], ARN) == {
        "Records": [
            {
                "messageId": "m",
                "receiptHandle": "r",
                "body": "ä",
                "attributes": {
                    "ApproximateReceiveCount": "2",
                    "SentTimestamp": "1500",
                    "SenderId": "local",
                    "ApproximateFirstReceiveTimestamp": "2250",
                },
                "messageAttributes": {
                    "cluster": {
                        "stringValue": "west",
                        "stringListValues": [],
                        "binaryListValues": [],
                        "dataType": "String",
                    }
                },
                "md5OfBody": "8419b71c87a225a2c70b50486fbee545",
                "eventSource": "aws:sqs",
                "eventSourceARN": ARN,
                "awsRegion": "us-east-1",
            }
        ]
    }


HANDLER = """
import json, os, pathlib, sys, time

def lambda_handler(event, context):
    bodies = [record["body"] for record in event["Records"]]
    with open(os.environ["SEEN"], "a") as seen:
        print(json.dumps({"bodies": bodies, "pid": os.getpid(), "left": context.get_remaining_time_in_millis(),
                          "name": context.function_name, "request": context.aws_request_id}), file=seen)
    print("to stdout")
    print(f"to stderr, dont_write_bytecode={sys.dont_write_bytecode}", file=sys.stderr)
    if "raise" in bodies:
        raise ValueError("no")
    if "exit" in bodies:
        os._exit(3)
    if "hang" in bodies:
        time.sleep(60)
    return {"batchItemFailures": [{"itemIdentifier": r["messageId"]} for r in event["Records"] if r["body"] == "bad"]}
"""

Start = Callable[..., AbstractAsyncContextManager["Rig"]]


class Rig:
    """A queue, its dead-letter queue, a function of one process, and what that saw."""

    def __init__(self, folder: Path, *, timeout_seconds: int, handler: str) -> None:
        (folder / "tried.py").write_text(handler)
        self.dead = MemoryQueue("dead", "")
        self.queue = MemoryQueue("canary", ARN, max_receives=2, dead_letter=self.dead, first_redelivery_seconds=0.05)
        self.log = Log(folder / "log")
        self._seen = folder / "seen"
        function = Function("F", "tried", folder, "tried.lambda_handler", timeout_seconds, 128, {}, {})
        environment = function_environment(os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}, {"SEEN": str(self._seen)})
        self.pool = FunctionPool(function, environment, self.log)

    @property
    def seen(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._seen.read_text().splitlines()] if self._seen.exists() else []

    @property
    def batches(self) -> list[list[str]]:
        return [invocation["bodies"] for invocation in self.seen]

    def send(self, *bodies: str) -> None:
        for body in bodies:
            self.queue.send(Message(body))

    async def settled(self, count: int) -> None:
        async with asyncio.timeout(20):
            while self.queue.settled + self.dead.sent < count:  # noqa: ASYNC110 -- what is waited for has no event
                await asyncio.sleep(0.01)


@pytest.fixture
def start(tmp_path: Path) -> Start:
    @asynccontextmanager
    async def run(
        *bodies: str, batch_size: int = 100, window: float = 1, timeout_seconds: int = 10, handler: str = HANDLER
    ) -> AsyncIterator[Rig]:
        rig = Rig(tmp_path, timeout_seconds=timeout_seconds, handler=handler)
        rig.send(*bodies)
        declared = EventSource("F", "Q", batch_size, window, partial=True)
        mapping = EventSourceMapping(declared, rig.queue, rig.pool)
        mapping.start()
        try:
            yield rig
        finally:
            await mapping.stop(5)
            await rig.pool.stop()
            rig.log.close()

    return run


async def test_a_bad_message_comes_again_alone_and_ends_in_the_dead_letter_queue(start: Start) -> None:
    async with start("a", "bad", "b") as rig:
        await rig.settled(3)
        assert rig.batches == [["a", "bad", "b"], ["bad"]]
        assert [message.body for message in rig.dead.messages] == ["bad"]
        assert rig.queue.settled == 2


@pytest.mark.parametrize("way", ["raise", "exit", "hang"])
async def test_an_invocation_without_an_answer_brings_its_whole_batch_again(start: Start, way: str) -> None:
    async with start("a", way, timeout_seconds=2 if way == "hang" else 10) as rig:
        await rig.settled(2)
        assert rig.batches == [["a", way]] * 2
        assert sorted(message.body for message in rig.dead.messages) == sorted(["a", way])
        assert rig.pool.failures == 2
        pids = {invocation["pid"] for invocation in rig.seen}
        assert len(pids) == (1 if way == "raise" else 2), "a process that ended or hung is replaced, another is kept"


async def test_one_process_serves_one_invocation_after_the_other(start: Start) -> None:
    async with start("a") as rig:
        await rig.settled(1)
        rig.send("b")
        await rig.settled(2)
        assert rig.batches == [["a"], ["b"]]
        assert len({invocation["pid"] for invocation in rig.seen}) == 1
        assert len({invocation["request"] for invocation in rig.seen}) == 2
        assert {invocation["name"] for invocation in rig.seen} == {"landfall-tried"}
        assert all(5_000 < invocation["left"] <= 10_000 for invocation in rig.seen)


async def test_batches_are_no_larger_than_declared(start: Start) -> None:
    async with start(*map(str, range(25)), batch_size=10) as rig:
        await rig.settled(25)
        assert [len(batch) for batch in rig.batches] == [10, 10, 5]


async def test_without_a_window_a_batch_is_what_is_there(start: Start) -> None:
    async with start(window=0) as rig:
        rig.send("alone")
        await rig.settled(1)
        rig.send("b", "c")
        await rig.settled(3)
        assert rig.batches == [["alone"], ["b", "c"]]


async def test_a_window_is_waited_for_and_ends_early_where_the_batch_is_full(start: Start) -> None:
    async with start(window=60, batch_size=3) as rig:
        rig.send("a")
        await asyncio.sleep(0.1)
        assert rig.batches == []
        rig.send("b", "c")
        await rig.settled(3)
        assert rig.batches == [["a", "b", "c"]]


async def test_what_a_process_had_taken_itself_comes_again_when_it_ends(start: Start) -> None:
    async with start(window=0) as rig:
        rig.send("taken")
        assert [message.body for message in rig.queue.take(10)] == ["taken"]  # before the mapping wakes up
        rig.send("exit")
        await rig.settled(2)
        assert any("taken" in batch for batch in rig.batches)


async def test_what_is_given_to_a_process_after_its_end_comes_again(start: Start) -> None:
    """A process that is killed while it asks for more messages gets its answer, and nothing is there to read it."""
    async with start(window=0) as rig:
        rig.send("late")
        assert [message.body for message in rig.queue.take(10)] == ["late"]
        rig.send("other")
        await rig.settled(2)
        assert rig.batches == [["other"], ["late"]]


async def test_a_batch_stays_within_what_lambda_takes(start: Start) -> None:
    megabyte = "x" * 1_000_000
    async with start(*[megabyte] * 8) as rig:
        await rig.settled(8)
        assert [len(batch) for batch in rig.batches] == [6, 2]


async def test_a_queue_that_is_away_for_a_moment_does_not_end_the_flow(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.local.event_source._AWAY_SECONDS", 0.01)
    async with start() as rig:
        delete, failures = rig.queue.delete, 1

        async def away(messages: Sequence[Message]) -> None:
            nonlocal failures
            if failures:
                failures -= 1
                await rig.queue.give_back(messages)
                raise OSError("gone for lunch")
            await delete(messages)

        monkeypatch.setattr(rig.queue, "delete", away)
        rig.send("a")
        await rig.settled(1)
        assert rig.batches == [["a"], ["a"]]
        assert "tried: queue canary: OSError: gone for lunch" in rig.log.tail(10)


async def test_what_a_handler_prints_is_logged_and_its_answer_stays_clean(start: Start) -> None:
    async with start("a") as rig:
        await rig.settled(1)
        await rig.pool.stop()
        assert rig.log.tail(10) == ["tried: to stdout", "tried: to stderr, dont_write_bytecode=False"]
        assert rig.log.path.read_text() == "tried: to stdout\ntried: to stderr, dont_write_bytecode=False\n"


async def test_a_handler_that_cannot_be_imported_is_told_in_its_own_words(start: Start) -> None:
    async with start(handler="raise RuntimeError('no settings')") as rig:
        with pytest.raises(FunctionFailed, match="tried: RuntimeError: no settings"):
            await rig.pool.prewarm()


def test_ambient_aws_credentials_are_kept_and_only_their_lack_is_filled(tmp_path: Path) -> None:
    own = function_environment({"AWS_PROFILE": "me", "HOME": str(tmp_path)}, {"A": "b"})
    assert "AWS_ACCESS_KEY_ID" not in own
    assert (own["AWS_PROFILE"], own["A"], own["AWS_REGION"]) == ("me", "b", "us-east-1")
    without = function_environment({"HOME": str(tmp_path), "AWS_DEFAULT_REGION": "eu-west-1"}, {})
    assert (without["AWS_ACCESS_KEY_ID"], without["AWS_REGION"]) == ("local", "eu-west-1")
    (tmp_path / ".aws").mkdir()
    assert "AWS_ACCESS_KEY_ID" not in function_environment({"HOME": str(tmp_path)}, {})
