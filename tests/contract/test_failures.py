"""A store that refuses, is not there or does not answer: which error, saying what, and holding no secret."""

from __future__ import annotations

import base64
import traceback
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from shared.deadline import Deadline
from shared.errors import AccessDenied, LandfallError, OutOfTime, StoreNotFound, StoreUnavailable
from tests.contract.harness import Store, edit, soon

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from shared.writers.base import Writer

    Call = Callable[[Writer, Deadline], Awaitable[object]]

CALLS: dict[str, Call] = {
    "write": lambda writer, deadline: writer.write([edit({"a/b": b"c"}, prune={"a"})], deadline),
    "read": lambda writer, deadline: writer.read("a/b", deadline),
    "check": lambda writer, deadline: writer.check("a", deadline),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


async def failure(writer: Writer, call: Call, deadline: Deadline, store: Store) -> LandfallError:
    """Make a call that must fail, and see that neither the error nor the writer shows a secret."""
    async with writer:
        with pytest.raises(LandfallError) as caught:
            await call(writer, deadline)
        shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value) + repr(writer) + str(writer)
    for secret in store.secrets:
        encoded = base64.b64encode(secret.encode()).decode().rstrip("=")
        assert not [form for form in (secret, quote(secret, safe=""), encoded) if form in shown]
    return caught.value


@every_call
async def test_wrong_credentials_are_denied_access(store: Store, call: Call) -> None:
    store.seed({"a/b": b"before"})
    error = await failure(store.open_wrong(), call, soon(), store)
    assert isinstance(error, AccessDenied)
    assert error.transient
    assert store.files() == {"a/b": b"before"}


@every_call
async def test_a_missing_bucket_or_repository_is_not_found(store: Store, call: Call) -> None:
    error = await failure(store.open_missing(), call, soon(), store)
    assert isinstance(error, StoreNotFound)


@every_call
async def test_a_store_that_cannot_be_reached_is_unavailable(store: Store, call: Call) -> None:
    error = await failure(store.open_unreachable(), call, soon(), store)
    assert isinstance(error, StoreUnavailable)
    assert error.transient


@every_call
async def test_a_deadline_that_has_passed_stops_every_call(store: Store, call: Call) -> None:
    store.seed({"a/old": b"stays"})
    error = await failure(store.open(), call, Deadline.after(0), store)
    assert isinstance(error, OutOfTime)
    assert store.files() == {"a/old": b"stays"}


async def test_a_writer_works_on_after_a_failure(store: Store) -> None:
    async with store.open() as writer:
        with pytest.raises(OutOfTime):
            await writer.write([edit({"a": b"one"})], Deadline.after(0))
        await writer.write([edit({"a": b"one"})], soon())
    assert store.files() == {"a": b"one"}


async def test_closing_twice_or_unused_does_no_harm(store: Store) -> None:
    await store.open().close()
    writer = store.open()
    assert await writer.read("nothing", soon()) is None
    await writer.close()
    await writer.close()
