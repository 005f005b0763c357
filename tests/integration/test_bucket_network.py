"""The bucket writer on bad networks: dead connections, resets, silence, latency.

See docs/failure-modes.md#12-partial-deletes, #18-frozen-connections.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from shared.deadline import Deadline
from shared.errors import OutOfTime, StoreUnavailable
from shared.plan import Written
from shared.settings import Settings
from shared.writers.s3.client import Bucket
from tests.contract.harness import BucketStore, edit, soon

if TYPE_CHECKING:
    from tests.servers.proxy import Toxiproxy
    from tests.servers.s3 import Minio


async def test_connections_that_died_in_a_frozen_container_cost_a_repetition(
    minio: Minio, toxiproxy: Toxiproxy
) -> None:
    store = BucketStore(minio)
    with toxiproxy.before(minio.url) as proxy:
        async with store.writer(endpoint=f"{proxy.host}:{proxy.port}") as writer:
            files = {f"a/{number}": b"x" for number in range(40)}
            await writer.write([edit(files)], soon())  # leaves a pool of connections
            proxy.down()
            proxy.up()
            outcomes = await writer.write([edit({**files, "a/new": b"y"})], soon())
    assert isinstance(outcomes["one"], Written)
    assert store.files() == {**files, "a/new": b"y"}


async def test_a_network_that_resets_connections_delays_but_loses_nothing(minio: Minio, toxiproxy: Toxiproxy) -> None:
    store = BucketStore(minio)
    files = {f"a/{number}": b"%d" % number for number in range(100)}
    with toxiproxy.before(minio.url) as proxy:
        proxy.add("limit_data", "downstream", toxicity=0.5, bytes=3000)  # half of the connections die after a few puts
        async with store.writer(endpoint=f"{proxy.host}:{proxy.port}") as writer:
            outcomes = await writer.write([edit(files, prune={"a"})], soon())
    assert isinstance(outcomes["one"], Written)
    assert store.files() == files


async def test_a_server_that_does_not_answer_is_unavailable_after_the_time_out(
    minio: Minio, toxiproxy: Toxiproxy
) -> None:
    store = BucketStore(minio)
    with toxiproxy.before(minio.url) as proxy:
        proxy.timeout(0)
        settings = store.settings(store_timeout_seconds=0.5)
        async with store.writer(endpoint=f"{proxy.host}:{proxy.port}", settings=settings) as writer:
            started = time.monotonic()
            with pytest.raises(StoreUnavailable, match=r"did not answer within 0\.5 s"):
                await writer.write([edit({"a": b""})], soon())
            assert time.monotonic() - started < 30


async def test_a_deadline_that_comes_first_is_out_of_time(minio: Minio, toxiproxy: Toxiproxy) -> None:
    store = BucketStore(minio)
    with toxiproxy.before(minio.url) as proxy:
        proxy.timeout(0)
        async with store.writer(endpoint=f"{proxy.host}:{proxy.port}") as writer:
            started = time.monotonic()
            with pytest.raises(OutOfTime):
                await writer.write([edit({"a": b""})], Deadline.after(1))
            assert time.monotonic() - started < 15


async def test_a_deadline_in_the_middle_leaves_some_edits_written_and_says_which(
    minio: Minio, toxiproxy: Toxiproxy
) -> None:
    store = BucketStore(minio)
    edits = [edit({f"{n}/a": b"x"}, id=str(n), root=str(n), prune={str(n)}) for n in range(200)]
    with toxiproxy.before(minio.url) as proxy:
        settings = store.settings(bucket_concurrency=2)
        async with store.writer(endpoint=f"{proxy.host}:{proxy.port}", settings=settings) as writer:
            await writer.read("open", soon())
            proxy.latency(100)
            outcomes = await writer.write(edits, Deadline.after(4))
    written = {key for key, outcome in outcomes.items() if isinstance(outcome, Written)}
    assert 0 < len(written) < 200
    assert all(isinstance(outcomes[key], OutOfTime) for key in outcomes.keys() - written)
    assert {path.partition("/")[0] for path in store.files()} >= written


async def test_a_slow_network_is_used_side_by_side(
    minio: Minio, toxiproxy: Toxiproxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = BucketStore(minio)
    under_way = most = 0
    put = Bucket.put

    async def counted(bucket: Bucket, path: str, content: bytes, deadline: Deadline) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        try:
            await put(bucket, path, content, deadline)
        finally:
            under_way -= 1

    monkeypatch.setattr(Bucket, "put", counted)
    with toxiproxy.before(minio.url) as proxy:
        async with store.writer(endpoint=f"{proxy.host}:{proxy.port}") as writer:
            await writer.read("open", soon())
            proxy.latency(50)
            await writer.write([edit({f"a/{n}": b"x" for n in range(320)}, prune={"a"})], soon())
    assert most == Settings().bucket_concurrency
    assert len(store.files()) == 320


async def test_a_cancelled_write_leaves_a_writer_that_works(minio: Minio) -> None:
    store = BucketStore(minio)
    files = {f"a/{n}": b"x" for n in range(300)}
    async with store.open() as writer:
        await writer.read("open", soon())
        task = asyncio.create_task(writer.write([edit(files)], soon()))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert isinstance((await writer.write([edit(files)], soon()))["one"], Written)
    assert store.files() == files


async def test_calls_side_by_side_open_one_client(minio: Minio) -> None:
    store = BucketStore(minio)
    store.seed({"a": b"x"})
    async with store.open() as writer:
        found = await asyncio.gather(*(writer.read("a", soon()) for _ in range(40)))
    assert found == [b"x"] * 40
