"""The queues in memory: delays, redelivery, dead letters; and their HTTP API as a real SQS client sees it."""

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import pytest_asyncio
from aiobotocore.session import get_session
from botocore.exceptions import ClientError

from infra.local.sources import MemoryQueue, Message
from infra.local.sqs_api import SqsApi

if TYPE_CHECKING:
    from types_aiobotocore_sqs.client import SQSClient


def queue(**more: Any) -> MemoryQueue:
    return MemoryQueue("canary", "arn:aws:sqs:us-east-1:000000000000:landfall-canary", **more)


async def test_messages_come_in_order_and_no_more_than_asked_for() -> None:
    source = queue()
    for number in range(5):
        source.send(Message(str(number)))
    assert [m.body for m in await source.receive(3, 0)] == ["0", "1", "2"]
    assert [m.body for m in await source.receive(3, 0)] == ["3", "4"]
    assert await source.receive(3, 0) == []


async def test_a_waiting_receive_wakes_as_soon_as_a_message_comes() -> None:
    source = queue()
    receiving = asyncio.create_task(source.receive(10, 3600))
    await asyncio.sleep(0.01)
    source.send(Message("late"))
    async with asyncio.timeout(60):
        assert [m.body for m in await receiving] == ["late"]


async def test_a_delayed_message_is_not_there_before_its_time() -> None:
    source = queue()
    began = time.monotonic()
    source.send(Message("delayed"), 0.5)
    assert await source.receive(1, 0) == []
    assert [m.body for m in await source.receive(1, 5)] == ["delayed"]
    assert time.monotonic() - began >= 0.5


async def test_a_message_that_is_given_back_comes_again_with_a_higher_count_and_another_receipt() -> None:
    source = queue(max_receives=5, first_redelivery_seconds=0.5)
    source.send(Message("again"))
    (first,) = await source.receive(1, 0)
    assert (first.receives, source.in_flight) == (1, 1)
    receipt = first.receipt
    await source.give_back([first])
    assert await source.receive(1, 0) == []
    (second,) = await source.receive(1, 5)
    assert (second.id, second.receives) == (first.id, 2)
    assert second.receipt != receipt
    await source.delete([second])
    assert (source.settled, source.returned, source.in_flight) == (1, 1, 0)


async def test_each_redelivery_waits_twice_as_long() -> None:
    source = queue(first_redelivery_seconds=0.04)
    source.send(Message("again"))
    (message,) = await source.receive(1, 5)
    for shortest in (0.04, 0.08, 0.16):
        began = time.monotonic()
        await source.give_back([message])
        (message,) = await source.receive(1, 5)
        assert time.monotonic() - began >= shortest


async def test_a_message_goes_to_the_dead_letter_queue_after_its_last_reception() -> None:
    dead = queue()
    source = queue(max_receives=2, dead_letter=dead, first_redelivery_seconds=0.01)
    source.send(Message("poison"))
    for _ in range(2):
        (message,) = await source.receive(1, 5)
        await source.give_back([message])
    assert await source.receive(1, 0.05) == []
    assert [m.body for m in dead.messages] == ["poison"]


async def test_a_message_that_is_settled_already_is_not_given_back() -> None:
    source = queue()
    source.send(Message("once"))
    (message,) = await source.receive(1, 0)
    await source.delete([message])
    await source.give_back([message])
    assert (source.messages, source.returned) == ([], 0)


@pytest_asyncio.fixture
async def served() -> AsyncIterator[tuple["SQSClient", str, MemoryQueue]]:
    memory = queue()
    api = SqsApi({"CanaryQueue": memory})
    await api.start()
    context = get_session().create_client(
        "sqs",
        endpoint_url=api.url,
        region_name="us-east-1",
        aws_access_key_id="x",
        aws_secret_access_key="x",
    )
    async with context as client:
        yield client, api.queue_url(memory), memory
    await api.stop()


async def test_a_batch_arrives_with_delays_and_attributes(served: tuple["SQSClient", str, MemoryQueue]) -> None:
    client, url, memory = served
    answer = await client.send_message_batch(
        QueueUrl=url,
        Entries=[
            {"Id": "a", "MessageBody": "now"},
            {"Id": "b", "MessageBody": "later", "DelaySeconds": 60},
            {
                "Id": "c",
                "MessageBody": "ä",
                "MessageAttributes": {"cluster": {"StringValue": "west", "DataType": "String"}},
            },
        ],
    )
    assert [entry["Id"] for entry in answer["Successful"]] == ["a", "b", "c"]
    assert [m.body for m in memory.messages] == ["now", "ä", "later"]
    received = await memory.receive(10, 0)
    assert [m.body for m in received] == ["now", "ä"]
    assert received[1].attributes["cluster"]["StringValue"] == "west"
    counts = await client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
    assert counts["Attributes"]["ApproximateNumberOfMessagesNotVisible"] == "2"


async def test_a_single_message_arrives(served: tuple["SQSClient", str, MemoryQueue]) -> None:
    client, url, memory = served
    answer = await client.send_message(QueueUrl=url, MessageBody="one")
    assert [m.id for m in memory.messages] == [answer["MessageId"]]
    assert (await client.get_queue_url(QueueName="landfall-canary"))["QueueUrl"] == url


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        pytest.param([("a", "x")] * 2, "BatchEntryIdsNotDistinct", id="one id twice"),
        pytest.param([(str(n), "x") for n in range(11)], "TooManyEntriesInBatchRequest", id="eleven entries"),
        pytest.param([], "EmptyBatchRequest", id="no entry"),
    ],
)
async def test_a_batch_over_a_quota_is_refused_as_sqs_refuses_it(
    served: tuple["SQSClient", str, MemoryQueue], entries: list[tuple[str, str]], code: str
) -> None:
    client, url, memory = served
    with pytest.raises(ClientError) as refused:
        await client.send_message_batch(
            QueueUrl=url, Entries=[{"Id": id_, "MessageBody": body} for id_, body in entries]
        )
    assert refused.value.response["Error"]["Code"].rpartition(".")[2] == code
    assert memory.sent == 0


async def test_a_batch_over_one_mebibyte_is_refused(served: tuple["SQSClient", str, MemoryQueue]) -> None:
    _, url, memory = served
    entries = [{"Id": id_, "MessageBody": "x" * 600_000} for id_ in "ab"]
    body = io.BytesIO(json.dumps({"QueueUrl": url, "Entries": entries}).encode())
    headers = {"X-Amz-Target": "AmazonSQS.SendMessageBatch"}
    async with aiohttp.ClientSession() as session, session.post(url, data=body, headers=headers) as answer:
        assert answer.status == 400
        assert (await answer.json(content_type=None))["__type"] == "com.amazonaws.sqs#BatchRequestTooLong"
    assert memory.sent == 0


async def test_a_bad_entry_fails_alone(served: tuple["SQSClient", str, MemoryQueue]) -> None:
    client, url, memory = served
    answer = await client.send_message_batch(
        QueueUrl=url,
        Entries=[{"Id": "a", "MessageBody": "x", "DelaySeconds": 901}, {"Id": "b", "MessageBody": "y"}],
    )
    assert [(f["Id"], f["Code"]) for f in answer["Failed"]] == [("a", "InvalidParameterValue")]
    assert [m.body for m in memory.messages] == ["y"]


async def test_an_unknown_queue_is_told_as_such(served: tuple["SQSClient", str, MemoryQueue]) -> None:
    client, url, _ = served
    with pytest.raises(client.exceptions.QueueDoesNotExist):
        await client.send_message(QueueUrl=url + "-gone", MessageBody="x")


async def test_a_function_takes_settles_and_hands_back_what_it_received_itself(
    served: tuple["SQSClient", str, MemoryQueue],
) -> None:
    client, url, memory = served
    for body in "abc":
        memory.send(Message(body))
    got = (await client.receive_message(QueueUrl=url, MaxNumberOfMessages=10, MessageAttributeNames=["All"]))[
        "Messages"
    ]
    assert [message["Body"] for message in got] == ["a", "b", "c"]
    assert not (await client.receive_message(QueueUrl=url)).get("Messages")
    entries: Any = [{"Id": str(at), "ReceiptHandle": message["ReceiptHandle"]} for at, message in enumerate(got)]
    deleted = await client.delete_message_batch(QueueUrl=url, Entries=[entries[0], {"Id": "x", "ReceiptHandle": "?"}])
    assert [entry["Id"] for entry in deleted["Successful"]] == ["0"]
    assert [entry["Code"] for entry in deleted["Failed"]] == ["ReceiptHandleIsInvalid"]
    soon: Any = [{**entries[1], "VisibilityTimeout": 0}]
    await client.change_message_visibility_batch(QueueUrl=url, Entries=soon)
    assert [message.body for message in await memory.receive(10, 1)] == ["b"]
    await memory.abandon()
    assert [message.body for message in memory.messages] == ["c"], "the rest, when the function has ended"
    assert (memory.settled, memory.returned) == (1, 2)
