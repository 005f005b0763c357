"""What the bucket writer asks for, in which order and how often (docs/failure-modes.md#13-crash-in-a-write)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from shared.errors import LandfallError, PathConflict
from shared.plan import Written
from tests.contract.fault_proxy import Answer, Asked, FaultProxy, Faulty, fault_proxy
from tests.contract.harness import edit, soon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.contract.fault_proxy import Forward
    from tests.servers.s3 import Minio

KMS = {"x-amz-server-side-encryption": "aws:kms"}


@pytest.fixture
async def store(minio: Minio) -> AsyncIterator[Faulty]:
    async with fault_proxy(minio) as proxy:
        yield Faulty(minio, proxy)


def _with_etags(store: Faulty, etag: str, headers: dict[str, str]) -> None:
    """Show every object with an ETag that is not its content's MD5."""

    async def fault(asked: Asked, forward: Forward) -> Answer | None:
        if asked.operation not in {"List", "Head"}:
            return None
        answer = await forward()
        answer.body = re.sub(rb"<ETag>.*?</ETag>", f"<ETag>{etag}</ETag>".encode(), answer.body)
        if asked.operation == "Head":
            answer.headers = {k: v for k, v in answer.headers.items() if k.lower() != "etag"}
            answer.headers |= {"ETag": f'"{etag}"', **headers}
        return answer

    store.proxy.fault = fault


@pytest.mark.parametrize(
    ("etag", "headers"),
    [("0123456789abcdef" * 2, KMS), ("0123456789abcdef" * 2 + "-2", {}), ("0x8D1234", {})],
    ids=["sse-kms", "multipart", "opaque"],
)
async def test_unchanged_files_are_known_also_where_etags_are_no_md5(
    store: Faulty, etag: str, headers: dict[str, str]
) -> None:
    files = {"a/one": b"one", "a/empty": b""}
    async with store.open() as writer:
        await writer.write([edit(files, prune={"a"})], soon())
        _with_etags(store, etag, headers)
        store.proxy.asked.clear()
        again = await writer.write([edit(files, prune={"a"})], soon())
        assert store.proxy.operations["Put"] == 0
        changed = await writer.write([edit({**files, "a/one": b"two"}, prune={"a"})], soon())
    assert (again["one"].changed, changed["one"].changed) == (False, True)  # type: ignore[union-attr]
    assert store.files() == {"a/one": b"two", "a/empty": b""}


async def test_an_etag_that_is_an_md5_counts_more_than_what_stands_beside_it(store: Faulty) -> None:
    async with store.open() as writer:
        await writer.write([edit({"a": b"one"})], soon())
        _with_etags(store, "0123456789abcdef" * 2, {})
        outcomes = await writer.write([edit({"a": b"one"})], soon())
    assert outcomes["one"].changed  # type: ignore[union-attr]


async def test_nothing_is_deleted_before_everything_is_put(store: Faulty) -> None:
    store.seed({f"a/old-{number}": b"old" for number in range(20)})
    async with store.open() as writer:
        await writer.write([edit({f"a/new-{n}": b"new" for n in range(20)}, prune={"a"})], soon())
    order = [each.operation for each in store.proxy.asked if each.operation in {"Put", "DeleteObjects"}]
    assert order == ["Put"] * 20 + ["DeleteObjects"]


@pytest.mark.parametrize("step", range(8))
async def test_a_crash_at_any_step_is_mended_by_the_next_run(store: Faulty, step: int) -> None:
    store.seed({"a/old": b"old", "a/same": b"same", "a/changed": b"before", "b/thing": b"file", "b/state": b"old"})
    edits = [
        edit({"a/same": b"same", "a/changed": b"after", "a/new": b"new"}, id="a", root="a", prune={"a"}),
        edit({"b/thing/x": b"x", "b/state": b"new"}, id="b", root="b", prune={"b"}),
    ]
    calls = 0

    async def fault(asked: Asked, forward: Forward) -> Answer | None:
        nonlocal calls
        if asked.operation in {"List", "Head"}:
            return None
        calls += 1
        if calls == step + 1:
            await forward()  # the crash comes after the server's act and before we know of it
        return Answer.error(403, "AccessDenied") if calls > step else None

    store.proxy.fault = fault
    async with store.writer(settings=store.settings(bucket_concurrency=1)) as writer:
        crashed = await writer.write(edits, soon())
    store.proxy.fault = None
    if step < 5:
        assert any(isinstance(outcome, LandfallError) for outcome in crashed.values())
        assert "a/old" in store.files()
    async with store.open() as writer:
        await writer.write(edits, soon())
    assert store.files() == {path: content for each in edits for path, content in each.files.items()}


async def test_a_stranger_on_the_second_page_of_a_directory_keeps_a_file_from_replacing_it(store: Faulty) -> None:
    store.seed({"a/going": b"", "a/stranger": b""})

    async def fault(asked: Asked, forward: Forward) -> Answer | None:
        del forward
        if "prefix=a%2F&" not in asked.target:
            return None
        # One key a page: servers may send less than was asked for.
        first = "continuation-token" not in asked.target
        cut = "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>" if first else ""
        entry = f"<Contents><Key>a/{'going' if first else 'stranger'}</Key><ETag>e</ETag><Size>0</Size></Contents>"
        return Answer(200, f"<ListBucketResult><Name>b</Name>{cut}{entry}</ListBucketResult>".encode())

    store.proxy.fault = fault
    async with store.open() as writer:
        outcomes = await writer.write([edit({"a": b"file"}, remove={"a/going"})], soon())
    assert isinstance(outcomes["one"], PathConflict)
    assert "a/stranger" in str(outcomes["one"])
    assert set(store.files()) == {"a/going", "a/stranger"}


@pytest.fixture
def counted(store: Faulty) -> Iterator[FaultProxy]:
    store.proxy.asked.clear()
    yield store.proxy


async def test_one_destination_costs_a_look_up_a_path_and_an_unchanged_one_nothing_more(
    store: Faulty, counted: FaultProxy
) -> None:
    store.seed({f"dest/other-{number}/x": b"" for number in range(50)})
    files = {"dest/w/dependencies/a.yaml": b"a", "dest/w/resources/b.yaml": b"b"}
    async with store.open() as writer:
        await writer.write([edit(files, root="dest/w")], soon())
        assert counted.operations == {"List": 6, "Put": 2}
        counted.asked.clear()
        await writer.write([edit(files, root="dest/w")], soon())
    assert counted.operations == {"List": 6}


async def test_many_destinations_side_by_side_are_listed_at_once(store: Faulty, counted: FaultProxy) -> None:
    edits = [
        edit({f"dest/w{n}/dependencies/a": b"a", f"dest/w{n}/resources/b": b"b"}, id=str(n), root=f"dest/w{n}")
        for n in range(100)
    ]
    async with store.open() as writer:
        await writer.write(edits, soon())
        assert counted.operations == {"List": 2, "Put": 200}  # `dest/`, and whether `dest` itself is a file
        counted.asked.clear()
        assert not any(outcome.changed for outcome in (await writer.write(edits, soon())).values())  # type: ignore[union-attr]
    assert counted.operations == {"List": 2}


async def test_a_crowded_bucket_is_not_listed_for_a_few_paths(store: Faulty, counted: FaultProxy) -> None:
    page = "".join(f"<Contents><Key>x{n:04}</Key><ETag>e</ETag><Size>1</Size></Contents>" for n in range(1000))
    cut = "<Name>b</Name><IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"

    async def fault(asked: Asked, forward: Forward) -> Answer | None:
        del forward
        crowd = asked.operation == "List" and "prefix=&" in f"{asked.target}&"
        return Answer(200, f"<ListBucketResult>{cut}{page}</ListBucketResult>".encode()) if crowd else None

    counted.fault = fault
    edits = [edit({f"w{n}/a": b"a"}, id=str(n), root=f"w{n}") for n in range(30)]
    async with store.open() as writer:
        outcomes = await writer.write(edits, soon())
    assert all(isinstance(outcome, Written) for outcome in outcomes.values())
    assert counted.operations == {"List": 2 + 60, "Put": 30}


async def test_a_file_that_gives_way_to_a_directory_is_deleted_once_and_first(
    store: Faulty, counted: FaultProxy
) -> None:
    store.seed({"a/thing": b"file"})
    async with store.open() as writer:
        await writer.write([edit({"a/thing/x": b"x"}, prune={"a"})], soon())
    assert [each.operation for each in counted.asked if each.operation != "List"] == ["DeleteObjects", "Put"]
    assert store.files() == {"a/thing/x": b"x"}


async def test_a_prune_of_one_directory_is_one_listing(store: Faulty, counted: FaultProxy) -> None:
    async with store.open() as writer:
        await writer.write([edit({f"a/b/{n}/x": b"" for n in range(40)}, root="a/b", prune={"a/b"})], soon())
    assert counted.operations == {"List": 2 + 1, "Put": 40}


async def test_a_put_waits_for_nothing_before_it_sends_its_document(store: Faulty, counted: FaultProxy) -> None:
    async with store.open() as writer:
        await writer.write([edit({"a": b"small", "b": b"x" * 100_000})], soon())
    puts = {asked.target.rpartition("/")[2]: asked for asked in counted.asked if asked.operation == "Put"}
    assert {key: "Expect" in asked.headers for key, asked in puts.items()} == {"a": False, "b": True}
    assert store.files() == {"a": b"small", "b": b"x" * 100_000}
