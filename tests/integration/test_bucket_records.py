"""The records of mode none in a bucket: whatever fails or is cut off, the next run knows every file.

See docs/failure-modes.md#13-crash-in-a-write.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from shared.documents import flat_edit, recorded_files, state_file_path
from shared.errors import AccessDenied, LandfallError
from shared.plan import Edit, Written
from shared.resources import Destination
from shared.works import WorkPlacement
from tests.contract.fault_proxy import Answer, Asked, Faulty, fault_proxy
from tests.contract.harness import soon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from shared.plan import Outcome
    from shared.writers.base import Writer
    from tests.contract.fault_proxy import Forward
    from tests.servers.s3 import Minio

ROOT = "dev"
Files = dict[str, bytes]


@pytest.fixture
async def store(minio: Minio) -> AsyncIterator[Faulty]:
    async with fault_proxy(minio) as proxy:
        yield Faulty(minio, proxy)


def placement(*, leaving: bool) -> WorkPlacement:
    metadata: dict[str, Any] = {"name": "w.dest-abcde", "namespace": "team", "uid": "u"}
    if leaving:
        metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    return WorkPlacement.parse(
        {"kind": "WorkPlacement", "metadata": metadata, "spec": {"targetDestinationName": "dest"}}
    )


RECORD = state_file_path(ROOT, placement(leaving=False))


def edit_of(files: Files | None, record: bytes | None) -> Edit:
    """Return what write-documents makes of a WorkPlacement with these files, or of its deletion, and its record."""
    ref = {"kind": "BucketStateStore", "name": "default"}
    destination = Destination.parse({"metadata": {"name": "dest"}, "spec": {"stateStoreRef": ref, "path": ROOT}})
    recorded = recorded_files(record, destination)
    which = placement(leaving=files is None)
    return flat_edit("one", which, destination, ROOT, files=files or {}, recorded=recorded, others={})


async def run(writer: Writer, files: Files | None) -> Outcome:
    """Write a WorkPlacement's files, or delete them where there are none, by the record that is there."""
    edit = edit_of(files, await writer.read(RECORD, soon()))
    return (await writer.write([edit], soon()))["one"]


def holding(files: Files | None) -> Files:
    """Return what the bucket holds once a run has succeeded."""
    if files is None:
        return {}
    record = edit_of(files, None).files[RECORD]
    return {f"{ROOT}/{path}": content for path, content in files.items()} | {RECORD: record}


# What is there, what is being written while all stops, and what is written after that; None is the deletion.
A, B, C = {"a": b"a"}, {"b": b"b"}, {"c": b"c"}
TURNS: dict[str, tuple[Files | None, Files | None, Files | None]] = {
    "fewer": (A | B, A, A),
    "others": (A | B, {"a": b"new"} | C, {"a": b"new"} | C),
    "others, and then others": (A | B, A | C, {"d": b"d"}),
    "others, and then as before": (A | B, A | C, A | B),
    "others, and then deleted": (A | B, B | C, None),
    "the first, and then others": (None, A | B, B | C),
    "the first, and then deleted": (None, A | B, None),
    "deleted": (A | B, None, None),
    "a file for a directory": (A | {"x/y": b"1"}, {"x": b"2"}, C),
}


@pytest.mark.parametrize(("before", "cut", "after"), TURNS.values(), ids=TURNS)
async def test_nothing_is_orphaned_at_whatever_step_a_run_is_cut_off(
    store: Faulty, before: Files | None, cut: Files | None, after: Files | None
) -> None:
    step = calls = 0

    async def fault(asked: Asked, forward: Forward) -> Answer | None:
        nonlocal calls
        if asked.operation in {"List", "Head", "Get"}:
            return None
        calls += 1
        if calls == step:
            await forward()  # the crash comes after the server's act and before we know of it
        return Answer.error(403, "AccessDenied") if calls >= step else None

    finished = False
    async with store.writer(settings=store.settings(bucket_concurrency=1)) as writer:
        while not finished:
            step, calls = step + 1, 0
            await run(writer, before)
            assert store.files() == holding(before)
            store.proxy.fault = fault
            outcome = await run(writer, cut)
            store.proxy.fault = None
            finished = calls < step
            assert isinstance(outcome, Written if finished else LandfallError)
            assert isinstance(await run(writer, after), Written)
            assert store.files() == holding(after), f"after call {step}"
            await run(writer, None)
    assert step > 2


@pytest.mark.parametrize("files", [A, None], ids=["update", "deletion"])
async def test_a_file_that_could_not_be_deleted_stays_on_record(store: Faulty, files: Files | None) -> None:
    async def fault(asked: Asked, forward: Forward) -> Answer | None:
        del forward
        if asked.operation != "DeleteObjects":
            return None
        for key in set(asked.keys) - {f"{ROOT}/b"}:
            store.server.delete(store.bucket, key)
        failed = f"<Error><Key>{ROOT}/b</Key><Code>AccessDenied</Code></Error>"
        return Answer(200, f"<DeleteResult>{failed}</DeleteResult>".encode())

    async with store.open() as writer:
        await run(writer, A | B)
        store.proxy.fault = fault
        assert isinstance(await run(writer, files), AccessDenied)
        assert isinstance(await run(writer, files), AccessDenied), "nor is it forgotten by the next run"
        store.proxy.fault = None
        assert isinstance(await run(writer, files), Written)
    assert store.files() == holding(files)


@pytest.mark.parametrize(
    ("before", "files", "puts"),
    [
        pytest.param(None, A | B, 3, id="the first"),
        pytest.param(A | B, {"a": b"new"} | B, 1, id="only contents"),
        pytest.param(A, A | B, 2, id="more"),
        pytest.param(A | B, A, 1, id="fewer"),
        pytest.param(A | B, A | C, 3, id="others"),
    ],
)
async def test_a_record_is_put_twice_only_where_files_come_and_go(
    store: Faulty, before: Files | None, files: Files, puts: int
) -> None:
    async with store.open() as writer:
        await run(writer, before)
        store.proxy.asked.clear()
        await run(writer, files)
    assert store.proxy.operations["Put"] == puts
