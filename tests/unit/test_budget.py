"""The memory that a function shares: in order, never more than there is, and kept things go before anyone waits."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from shared import budget
from shared.budget import Budget
from shared.errors import StoreUnavailable, TooLarge


def test_what_does_not_fit_waits_in_order_until_others_give_back() -> None:
    shared = Budget(100)
    first = shared.ask(60, "first")
    large = shared.ask(80, "large")
    small = shared.ask(10, "small")
    assert (first.granted.done(), large.granted.done(), small.granted.done()) == (True, False, False)
    first.shrink(30)
    assert not large.granted.done()
    first.release()
    assert large.granted.done()
    assert small.granted.done()
    assert not shared.ask(11, "next").granted.done()


def test_what_can_never_fit_is_refused_with_a_sentence() -> None:
    with pytest.raises(TooLarge, match=r"the pack needs 101 bytes .* LANDFALL_MEMORY_BYTES"):
        Budget(100).ask(101, "the pack")


def test_who_stops_waiting_is_passed_over_and_holds_nothing() -> None:
    shared = Budget(100)
    first = shared.ask(100, "first")
    gone, cancelled, last = (shared.ask(100, name) for name in ("gone", "cancelled", "last"))
    gone.release()
    cancelled.granted.cancel()
    first.release()
    assert last.granted.done()
    cancelled.release()
    last.release()
    assert shared.ask(100, "all").granted.done()


async def test_a_coroutine_waits_no_longer_than_it_may_and_holds_nothing_then() -> None:
    shared = Budget(100)
    with shared.ask(100, "first"):
        waiting = shared.ask(1, "second")
        with pytest.raises(StoreUnavailable, match="memory was in use for 0 seconds"):
            await waiting.wait(0.05)
    assert shared.ask(100, "all").granted.done()


async def test_a_coroutine_is_woken_by_a_thread() -> None:
    shared = Budget(100)
    first = shared.ask(100, "first")
    threading.Timer(0.05, first.release).start()
    await shared.ask(100, "second").wait(10)


def test_many_threads_never_have_more_than_there_is() -> None:
    shared, lock, now, most = Budget(100), threading.Lock(), 0, 0

    def work(number: int) -> None:
        nonlocal now, most
        size = 1 + number * 37 % 100
        with shared.ask(size, "work") as room:
            room.granted.result(10)
            with lock:
                now += size
                most = max(most, now)
            with lock:
                now -= size

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(300)))
    assert 0 < most <= 100
    assert shared.ask(100, "all").granted.done()


def test_kept_things_take_a_share_and_the_least_recently_kept_go_first() -> None:
    shared = Budget(100)
    for owner in "abc":
        shared.keep(owner, owner.upper(), 10)
    assert shared.take("a") is None
    assert shared.take("b") is not None
    shared.keep("d", "D", 26)
    assert shared.take("d") is None, "it is over the share by itself"
    assert shared.take("c") is not None


def test_kept_things_go_when_others_need_the_room_and_are_not_kept_while_anyone_waits() -> None:
    shared = Budget(100)
    shared.keep("a", "A", 20)
    taken = shared.take("a")
    assert taken is not None
    thing, room = taken
    assert (thing, room.size) == ("A", 20)
    waiting = shared.ask(90, "large")
    assert not waiting.granted.done()
    room.release()
    assert waiting.granted.done()
    shared.keep("a", "A", 20)
    assert shared.take("a") is None, "there is no room for it"
    waiting.release()
    shared.keep("a", "A", 20)
    assert shared.ask(100, "all").granted.done()
    assert shared.take("a") is None


def test_forgetting_lets_others_in() -> None:
    shared = Budget(100)
    shared.keep("a", "A", 20)
    shared.forget("a")
    shared.forget("b")
    assert shared.take("a") is None
    assert shared.ask(100, "all").granted.done()


def test_a_process_has_one_budget() -> None:
    assert budget.of(1000) is budget.of(1000)
    asyncio.run(asyncio.to_thread(budget.trim))
