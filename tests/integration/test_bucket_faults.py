"""The bucket writer before servers that fail: what is repeated, what is not, and what it says.

See docs/failure-modes.md#12-partial-deletes, #14-bucket-refusals, #18-frozen-connections.
"""

from __future__ import annotations

import time
import traceback
from typing import TYPE_CHECKING

import pytest

from shared.deadline import Deadline
from shared.errors import (
    AccessDenied,
    LandfallError,
    OutOfTime,
    QuotaExceeded,
    StateStoreError,
    StateStoreNotReady,
    StoreNotFound,
    StoreUnavailable,
    WriteRejected,
)
from shared.plan import Written
from tests.contract.fault_proxy import Answer, Asked, Faulty, fault_proxy
from tests.contract.harness import edit, soon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.contract.fault_proxy import Forward
    from tests.servers.s3 import Minio


@pytest.fixture
async def store(minio: Minio) -> AsyncIterator[Faulty]:
    async with fault_proxy(minio) as proxy:
        yield Faulty(minio, proxy)


def slow_down() -> Answer:
    return Answer.error(503, "SlowDown", "Please reduce your request rate.")


@pytest.mark.parametrize("operation", ["List", "Put", "DeleteObjects"])
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(slow_down(), id="slow-down"),
        pytest.param(Answer(500), id="500-without-a-body"),
        pytest.param(Answer.error(503, "SlowDownWrite"), id="minio-slow-down"),
        pytest.param(Answer.error(400, "RequestTimeout"), id="request-timeout"),
        pytest.param(Answer(cut=True), id="cut"),
    ],
)
async def test_a_passing_failure_is_repeated_until_it_has_passed(store: Faulty, operation: str, answer: Answer) -> None:
    store.seed({"a/old": b"old"})
    store.proxy.fail(operation, answer, answer)
    async with store.open() as writer:
        outcomes = await writer.write([edit({"a/new": b"new"}, prune={"a"})], soon())
    assert isinstance(outcomes["one"], Written)
    assert store.files() == {"a/new": b"new"}
    assert store.proxy.operations[operation] >= 3


async def test_a_put_that_was_applied_before_the_connection_was_cut_is_a_success(store: Faulty) -> None:
    cut: list[str] = []

    async def fault(asked: Asked, forward: Forward) -> Answer | None:
        if asked.operation != "Put" or cut:
            return None
        assert (await forward()).status == 200
        cut.append(asked.target)
        return Answer(cut=True)

    store.proxy.fault = fault
    async with store.open() as writer:
        outcomes = await writer.write([edit({"a/new": b"new"})], soon())
    assert isinstance(outcomes["one"], Written)
    assert store.files() == {"a/new": b"new"}
    assert cut


async def test_a_server_that_stays_overloaded_is_given_up_after_a_few_calls(store: Faulty) -> None:
    store.proxy.fail_always(slow_down())
    async with store.open() as writer:
        with pytest.raises(StoreUnavailable, match="SlowDown") as caught:
            await writer.write([edit({"a": b"", "b": b""}, prune={"c"})], soon())
    assert store.bucket in str(caught.value)
    assert store.proxy.endpoint in str(caught.value)
    assert 6 <= len(store.proxy.asked) <= 20


async def test_puts_that_have_not_begun_are_spared_a_server_that_is_down(store: Faulty) -> None:
    async def fault(asked: Asked, forward: Forward) -> Answer | None:
        del forward
        return slow_down() if asked.operation == "Put" else None

    store.proxy.fault = fault
    files = {f"a/{number}": b"x" for number in range(300)}
    async with store.writer(settings=store.settings(bucket_concurrency=4)) as writer:
        outcomes = await writer.write([edit(files)], soon())
    assert isinstance(outcomes["one"], StoreUnavailable)
    assert store.proxy.operations["Put"] <= 4 * 6


async def test_the_deadline_ends_the_repetitions(store: Faulty) -> None:
    store.proxy.fail_always(slow_down())
    started = time.monotonic()
    async with store.open() as writer:
        with pytest.raises((StoreUnavailable, OutOfTime)):
            await writer.read("a", Deadline.after(1))
    assert time.monotonic() - started < 10


async def test_only_the_keys_that_delete_objects_names_as_failed_are_sent_again(store: Faulty) -> None:
    store.seed({f"a/{number}": b"" for number in range(5)})

    async def fault(asked: Asked, forward: Forward) -> Answer | None:
        if asked.operation != "DeleteObjects" or store.proxy.operations["DeleteObjects"] > 1:
            return None
        await forward()
        store.seed({"a/1": b"still", "a/3": b"there"})
        failed = "".join(
            f"<Error><Key>{key}</Key><Code>{code}</Code></Error>"
            for key, code in {"a/1": "InternalError", "a/3": "SlowDown", "a/4": "NoSuchKey"}.items()
        )
        return Answer(200, f"<DeleteResult>{failed}</DeleteResult>".encode())

    store.proxy.fault = fault
    async with store.open() as writer:
        outcomes = await writer.write([edit(prune={"a"})], soon())
    assert isinstance(outcomes["one"], Written)
    first, second = (each.keys for each in store.proxy.asked if each.operation == "DeleteObjects")
    assert first == [f"a/{number}" for number in range(5)]
    assert second == ["a/1", "a/3"]
    assert store.files() == {}


async def test_a_key_that_may_not_be_deleted_fails_its_own_edit_alone(store: Faulty) -> None:
    store.seed({"a/x": b"", "b/x": b""})
    failed = b"<DeleteResult><Error><Key>a/x</Key><Code>AccessDenied</Code></Error></DeleteResult>"
    store.proxy.fail("DeleteObjects", Answer(200, failed))
    async with store.open() as writer:
        outcomes = await writer.write([edit(id="one", prune={"a"}), edit(id="two", prune={"b"})], soon())
    assert isinstance(outcomes["one"], AccessDenied)
    assert "s3:DeleteObject" in str(outcomes["one"])
    assert isinstance(outcomes["two"], Written)
    assert store.proxy.operations["DeleteObjects"] == 1


async def test_keys_that_never_stop_failing_end_as_unavailable(store: Faulty) -> None:
    store.seed({"a/x": b""})
    failed = b"<DeleteResult><Error><Key>a/x</Key><Code>InternalError</Code></Error></DeleteResult>"
    store.proxy.fail("DeleteObjects", *[Answer(200, failed)] * 20)
    async with store.open() as writer:
        outcomes = await writer.write([edit(prune={"a"})], soon())
    assert isinstance(outcomes["one"], StoreUnavailable)
    assert store.proxy.operations["DeleteObjects"] == 6


@pytest.mark.parametrize(
    "answer",
    [
        Answer.error(501, "NotImplemented"),
        Answer(501),
        Answer(405),
        Answer.error(400, "MissingContentMD5"),
        Answer.error(400, "MalformedXML"),
    ],
    ids=["not-implemented", "501", "405", "missing-md5", "malformed"],
)
async def test_where_delete_objects_is_refused_each_key_is_deleted_by_itself(store: Faulty, answer: Answer) -> None:
    store.seed({f"a/{number}": b"" for number in range(7)})
    store.proxy.fail("DeleteObjects", *[answer] * 20)
    async with store.open() as writer:
        outcomes = await writer.write([edit(prune={"a"})], soon())
    assert isinstance(outcomes["one"], Written)
    assert store.files() == {}
    assert store.proxy.operations["Delete"] == 7


async def test_delete_objects_carries_an_md5_for_servers_that_know_no_newer_checksum(store: Faulty) -> None:
    store.seed({"a/x": b""})
    async with store.open() as writer:
        await writer.write([edit({"b": b"b"}, prune={"a"})], soon())
    sent = {each.operation: each.headers for each in store.proxy.asked}
    assert "Content-MD5" in sent["DeleteObjects"]
    assert "Content-MD5" in sent["Put"]
    assert not [name for name in sent["Put"] if "checksum" in name.lower()]


# Each: the answer, the error it becomes, and words of its sentence.
ANSWERS: dict[str, tuple[Answer, type[LandfallError], str]] = {
    "no-bucket": (Answer.error(404, "NoSuchBucket"), StoreNotFound, "create it, or correct spec.bucketName"),
    "unknown-key": (Answer.error(403, "InvalidAccessKeyId"), AccessDenied, "correct accessKeyID"),
    "wrong-secret": (Answer.error(403, "SignatureDoesNotMatch"), AccessDenied, "correct secretAccessKey"),
    "not-allowed": (Answer.error(403, "AccessDenied"), AccessDenied, "s3:ListBucket"),
    "403-without-a-body": (Answer(403), AccessDenied, "HTTP 403"),
    "401": (Answer(401), AccessDenied, "HTTP 401"),
    "expired": (Answer.error(400, "ExpiredToken"), AccessDenied, "expired: renew"),
    "clock": (Answer.error(403, "RequestTimeTooSkewed"), AccessDenied, "clock"),
    "redirect": (Answer(307, headers={"Location": "http://other.example/"}), StateStoreNotReady, "redirect"),
    "moved": (Answer(301, headers={"Location": "http://other.example/"}), StateStoreNotReady, "redirect"),
    "to-https": (Answer(301, headers={"Location": "https://127.0.0.1/"}), StateStoreNotReady, "insecure to false"),
    "web-page": (Answer(200, b"<html><p>Welcome</p></html>"), StateStoreNotReady, "web page"),
    "broken-page": (Answer(200, b"<html><p>Welcome<br></html>"), StateStoreNotReady, "web page"),
    "missing-page": (Answer(404, b"<!doctype html><p>Not found"), StateStoreNotReady, "web page"),
    "forbidden-page": (Answer(403, b"<!doctype html><p>Sign in"), AccessDenied, "web page (403)"),
    "page-of-a-proxy": (Answer(502, b"<html>Bad Gateway</html>"), StoreUnavailable, "in trouble"),
    "text": (Answer(200, b"Hello"), StateStoreNotReady, "not S3's"),
    "nothing": (Answer(200), StateStoreNotReady, "not S3's"),
    "tls": (Answer(400, b"Client sent an HTTP request to an HTTPS server."), StateStoreNotReady, "insecure to false"),
    "strange-code": (Answer.error(400, "secret: hunter2"), WriteRejected, "HTTP 400"),
    "too-large": (Answer.error(400, "EntityTooLarge"), WriteRejected, "EntityTooLarge"),
    "quota": (Answer.error(403, "QuotaExceeded"), QuotaExceeded, "raise it"),
    "full": (Answer.error(507, "XMinioStorageFull"), QuotaExceeded, "disks are full"),
    "new-words": (Answer.error(400, "NewCode", "we moved to Mars"), WriteRejected, "(NewCode: we moved to Mars)"),
}


@pytest.mark.parametrize(("answer", "kind", "words"), ANSWERS.values(), ids=ANSWERS)
async def test_each_refusal_has_its_own_sentence_with_bucket_and_endpoint(
    store: Faulty, answer: Answer, kind: type[LandfallError], words: str
) -> None:
    store.proxy.fail_always(answer)
    async with store.open() as writer:
        with pytest.raises(StateStoreError) as caught:
            await writer.write([edit({"a": b""})], soon())
    assert type(caught.value) is kind
    assert words in str(caught.value)
    assert f"bucket {store.bucket} at {store.proxy.endpoint}" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert len(store.proxy.asked) <= 6


async def test_what_servers_echo_is_not_repeated(store: Faulty) -> None:
    key = store.server.root.access_key
    echo = f"<AWSAccessKeyId>{key}</AWSAccessKeyId><StringToSign>AWS4-HMAC {key}</StringToSign>"
    store.proxy.fail_always(Answer.error(403, "SignatureDoesNotMatch", f"key {key}", echo))
    async with store.open() as writer:
        with pytest.raises(AccessDenied) as caught:
            await writer.check("", soon())
    shown = "".join(traceback.format_exception(caught.value))
    assert key not in shown
    assert "StringToSign" not in shown


async def test_a_redirect_takes_neither_documents_nor_credentials_to_another_host(store: Faulty, minio: Minio) -> None:
    async with fault_proxy(minio) as other, store.open() as writer:
        location = {"Location": f"http://{other.endpoint}/{store.bucket}/a"}
        for status in (301, 302, 303, 307, 308):
            store.proxy.fail("Put", *[Answer(status, headers=location)] * 20)
            outcomes = await writer.write([edit({"a": b"document"})], soon())
            assert isinstance(outcomes["one"], StateStoreNotReady)
        assert other.asked == []
    assert store.files() == {}


async def test_a_listing_that_ends_without_its_rest_deletes_nothing(store: Faulty) -> None:
    store.seed({"a/old": b"old"})
    listing = b"<ListBucketResult><Name>b</Name><IsTruncated>true</IsTruncated></ListBucketResult>"
    store.proxy.fail("List", *[Answer(200, listing)] * 20)
    async with store.open() as writer:
        with pytest.raises(StoreUnavailable, match="listing"):
            await writer.write([edit({"a/new": b""}, prune={"a"})], soon())
    assert store.files() == {"a/old": b"old"}


async def test_a_failed_put_spares_what_its_edit_would_delete_and_not_the_others(store: Faulty) -> None:
    store.seed({"a/old": b"old", "b/old": b"old"})

    async def fault(asked: Asked, forward: Forward) -> Answer | None:
        del forward
        denied = asked.operation == "Put" and asked.target.partition("?")[0].endswith("/a/new")
        return Answer.error(403, "AccessDenied") if denied else None

    store.proxy.fault = fault
    edits = [edit({f"{name}/new": b"new"}, id=name, root=name, prune={name}) for name in "ab"]
    async with store.open() as writer:
        outcomes = await writer.write(edits, soon())
    assert isinstance(outcomes["a"], AccessDenied)
    assert isinstance(outcomes["b"], Written)
    assert store.files() == {"a/old": b"old", "b/new": b"new"}


async def test_a_put_that_a_web_server_takes_for_a_page_is_no_success(store: Faulty) -> None:
    store.proxy.fail("Put", Answer(200, b"<html><p>Welcome</p></html>"))
    async with store.open() as writer:
        outcomes = await writer.write([edit({"a": b"document"})], soon())
    assert isinstance(outcomes["one"], StateStoreNotReady)
    assert "not S3's" in str(outcomes["one"])
