"""What a function does with the queue that invokes it, on a real SQS protocol: it takes the rest of a batch itself."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from infra.local.event_source import lambda_event
from infra.local.sources import Message
from shared import runtime
from shared.deadline import Deadline
from shared.errors import LandfallError
from shared.reconcile.connections import Connections
from tests.functions.conftest import Context
from tests.servers.sqs import AwsServer, Queue


class Mapped:
    """A queue and its function; `serve` plays the event source mapping."""

    def __init__(self, sqs: AwsServer) -> None:
        self.sqs = sqs
        self.queue: Queue = sqs.create_queue(receives=9, visibility_timeout=600)
        self.seen: list[list[str]] = []

    def send(self, *bodies: str) -> None:
        for body in bodies:
            self.sqs.send(self.queue.url, body)

    def serve(self, count: int) -> list[str]:
        """Hand that many messages to the function, delete those that it did, and return the bodies that it returned."""
        records = self.receive(count)
        batch = [Message(r["Body"], id=r["MessageId"], receipt=r["ReceiptHandle"], receives=1) for r in records]
        event = lambda_event(batch, "")
        answer = runtime.serve_queue(event, Context(), self._decode, self._use_case)  # type: ignore[arg-type]
        failed = {item["itemIdentifier"] for item in answer["batchItemFailures"]}
        for record in records:
            if record["MessageId"] not in failed:
                self.sqs.delete(self.queue.url, record["ReceiptHandle"])
        return sorted(record["Body"] for record in records if record["MessageId"] in failed)

    def receive(self, count: int = 10) -> list[dict[str, Any]]:
        return self.sqs.receive(self.queue.url, count=count)

    def left(self) -> tuple[int, int]:
        """Return how many messages wait, and how many are hidden."""
        got = self.sqs.sqs("GetQueueAttributes", QueueUrl=self.queue.url, AttributeNames=["All"])["Attributes"]
        return int(got["ApproximateNumberOfMessages"]), int(got["ApproximateNumberOfMessagesNotVisible"])

    def _decode(self, body: str) -> str:
        if body == "unreadable":
            raise LandfallError("it cannot be read")
        return body

    async def _use_case(
        self, messages: Mapping[str, str], connections: Connections, deadline: Deadline
    ) -> dict[str, Exception]:
        self.seen.append(sorted(messages.values()))
        return {id_: LandfallError("not now") for id_, body in messages.items() if body.startswith("bad")}


@pytest.fixture
def mapped(sqs: AwsServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mapped]:
    served = Mapped(sqs)
    monkeypatch.setenv("LANDFALL_SQS_ENDPOINT_URL", sqs.url)
    monkeypatch.setenv("LANDFALL_OWN_QUEUE_URL", served.queue.url)
    for name, value in sqs.environment().items():
        monkeypatch.setenv(name, value)
    runtime.close()
    yield served
    runtime.close()


def test_a_lone_message_is_done_at_once_and_the_queue_is_not_asked(mapped: Mapped) -> None:
    mapped.send("a", "b")
    assert mapped.serve(1) == []
    assert mapped.seen == [["a"]]
    assert mapped.left() == (1, 0)


def test_where_more_than_one_came_the_rest_of_the_queue_is_one_batch_with_it(mapped: Mapped) -> None:
    bodies = [f"{number:03}" for number in range(137)]
    mapped.send(*bodies)
    assert mapped.serve(10) == []
    assert mapped.seen == [bodies]
    assert mapped.left() == (0, 0)


def test_a_lone_message_right_after_another_batch_is_a_stream_and_brings_the_rest_along(
    mapped: Mapped, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "_STREAM_SECONDS", 60)
    mapped.send("a", "b", "c")
    mapped.serve(1)
    mapped.serve(1)
    assert mapped.seen == [["a"], ["b", "c"]]


def test_a_stream_is_gathered_until_a_moment_brings_nothing(mapped: Mapped, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_STREAM_SECONDS", 60)
    monkeypatch.setattr(runtime, "_SHORTEST_GATHERING_SECONDS", 60)
    monkeypatch.setattr(runtime, "_LONGEST_GATHERING_SECONDS", 60)
    moments = iter([["2"], ["3", "4"], []])  # what is sent while it is waited

    async def moment(_: float) -> None:
        mapped.send(*next(moments))

    first = list("abcdefgh")
    mapped.send(*first)
    mapped.serve(2)
    monkeypatch.setattr("shared.queues.asyncio.sleep", moment)
    mapped.send("1")
    mapped.serve(1)
    assert mapped.seen == [first, ["1", "2", "3", "4"]]
    assert next(moments, None) is None, "the last moment was waited for, and no other"


def test_as_much_as_the_last_time_waits_for_nothing(mapped: Mapped, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "_STREAM_SECONDS", 60)

    async def moment(_: float) -> None:
        raise AssertionError("it is waited")

    mapped.send(*"ab")
    mapped.serve(2)
    monkeypatch.setattr("shared.queues.asyncio.sleep", moment)
    mapped.send(*"cde")
    mapped.serve(1)
    assert mapped.seen == [["a", "b"], ["c", "d", "e"]]


def test_a_batch_is_no_larger_than_its_limit(mapped: Mapped, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANDFALL_BATCH_MESSAGES", "20")
    mapped.send(*(f"{number:03}" for number in range(60)))
    mapped.serve(10)
    (batch,) = mapped.seen
    assert 20 <= len(batch) <= 30, "ten came with the event, and a call may bring ten"
    assert mapped.left() == (60 - len(batch), 0)


def test_what_fails_comes_again_after_seconds_whoever_took_it(mapped: Mapped) -> None:
    mapped.send("bad 1", "b", "bad 2", "c", "unreadable")
    assert mapped.serve(2) == ["bad 1"]
    assert mapped.seen == [["b", "bad 1", "bad 2", "c"]]
    assert mapped.left() == (0, 3)
    again: list[str] = []
    for _ in range(15):  # hidden for five seconds, where the queue itself says ten minutes
        again += [message["Body"] for message in mapped.sqs.receive(mapped.queue.url, wait=1)]
        if len(again) == 3:
            break
    assert sorted(again) == ["bad 1", "bad 2", "unreadable"]


def test_a_queue_that_cannot_be_asked_costs_only_the_larger_batch(
    mapped: Mapped, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANDFALL_OWN_QUEUE_URL", mapped.queue.url + "-gone")
    mapped.send("a", "bad", "c")
    assert mapped.serve(2) == ["bad"]
    assert mapped.seen == [["a", "bad"]]
    assert mapped.left() == (1, 1)
