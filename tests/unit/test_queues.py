"""A function that has used up its time still tells what it did, and is done telling before Lambda ends it."""

import asyncio
import selectors
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from shared.deadline import Deadline
from shared.messages import Reference
from shared.queues import Outgoing, Queues, Record
from shared.settings import Settings

NEVER = 1e6  # seconds
OUTGOING = Outgoing("status", Reference(kind="Destination", name="worker-1"), frozenset({"message"}))
RECORD: Record = {"messageId": "message", "receiptHandle": "receipt", "body": "", "attributes": {}}


class Jumping(asyncio.SelectorEventLoop):
    """A loop whose clock stands still while something is done, and jumps to the next timer where nothing is."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self.now


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self, loop: Jumping) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._loop.now += timeout or 0.0
        return super().select(0)


class SlowSqs:
    """An SQS that takes so many seconds for a call, which no real one can be made to on a clock that jumps."""

    def __init__(self, sending: float, settling: float) -> None:
        self.sending = sending
        self.settling = settling
        self.answered: list[str] = []

    async def send_message_batch(self, **asked: Any) -> dict[str, Any]:
        return await self._answer("sent", self.sending, asked)

    async def delete_message_batch(self, **asked: Any) -> dict[str, Any]:
        return await self._answer("settled", self.settling, asked)

    async def change_message_visibility_batch(self, **asked: Any) -> dict[str, Any]:
        return await self._answer("handed back", self.settling, asked)

    async def _answer(self, what: str, seconds: float, asked: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(seconds)
        self.answered.append(what)
        return {"Successful": asked["Entries"]}


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Iterator[asyncio.Runner]:
    with asyncio.Runner(loop_factory=Jumping) as jumping:
        clock = SimpleNamespace(monotonic=jumping.get_loop().time)
        monkeypatch.setattr("shared.deadline.time", clock)
        yield jumping


def told_when_the_time_is_over(runner: asyncio.Runner, sqs: SlowSqs) -> tuple[list[str], float]:
    """Return why messages have to come again, after a batch that used up its deadline, and how long telling took."""
    queues = Queues(Settings(status_queue_url="http://sqs/status", own_queue_url="http://sqs/own"))
    queues._client = sqs  # type: ignore[assignment]

    async def tell() -> list[str]:
        deadline = Deadline.after(0)
        failures = await queues.send([OUTGOING] * 1000, deadline)
        await asyncio.gather(queues.settle([RECORD] * 1000, deadline), queues.hand_back([RECORD], deadline))
        return sorted(failures)

    return runner.run(tell()), runner.get_loop().time()


def test_what_a_batch_found_is_sent_although_its_time_is_over(runner: asyncio.Runner) -> None:
    sqs = SlowSqs(sending=0.2, settling=0.1)
    failed, _ = told_when_the_time_is_over(runner, sqs)
    assert failed == []
    assert sqs.answered.count("sent") == 100


def test_queues_that_do_not_answer_leave_time_to_give_messages_back(runner: asyncio.Runner) -> None:
    sqs = SlowSqs(sending=NEVER, settling=0.1)
    failed, _ = told_when_the_time_is_over(runner, sqs)
    assert failed == ["message"]
    assert (sqs.answered.count("settled"), sqs.answered.count("handed back")) == (100, 1)


def test_where_no_queue_answers_there_is_time_left_for_the_answer_to_lambda(runner: asyncio.Runner) -> None:
    failed, seconds = told_when_the_time_is_over(runner, SlowSqs(sending=NEVER, settling=NEVER))
    assert failed == ["message"]
    assert seconds < Settings().reserve_seconds
