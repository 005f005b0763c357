"""PutObject without the client: signature and headers as botocore's, and when the client is asked after all."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import botocore.auth
import pytest
from aiobotocore.credentials import AioCredentials
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSPreparedRequest, AWSRequest
from botocore.credentials import Credentials, ReadOnlyCredentials
from botocore.exceptions import ClientError

from shared.writers.s3.put import LARGEST_BYTES, PutAnswer, Puts

if TYPE_CHECKING:
    from collections.abc import Mapping

KEYS = [
    "plain.yaml",
    "a directory/with spaces.yaml",
    "ünïcode/文件.yaml",
    "plus+and~tilde%25percent",
    "every/$&',:;=@!*()[]{}?#\"<>|^`.yaml",
    "destinations/dev/kratix-canary-namespace.yaml",
]
LISTINGS = {
    "path-style": "http://127.0.0.1:9000/bucket?list-type=2&prefix=a",
    "https": "https://minio.example.com/bucket?list-type=2",
    "port": "https://minio.example.com:9443/bucket?prefix=&list-type=2",
    "default-port": "http://minio.example.com:80/bucket?list-type=2",
    "ipv6": "http://[fd12::1]:9000/bucket?list-type=2",
    "virtual-host": "https://bucket.s3.eu-west-1.amazonaws.com/?list-type=2&prefix=a",
}


@dataclass
class Sent:
    url: str
    headers: dict[str, str]
    content: bytes


class Recorder:
    """Stands in for the HTTP session, because what it is given is what is tested."""

    def __init__(self, *answers: PutAnswer) -> None:
        self.sent: list[Sent] = []
        self._answers = list(answers)

    async def put(self, url: str, headers: Mapping[str, str], content: bytes) -> PutAnswer:
        self.sent.append(Sent(url, dict(headers), content))
        return self._answers.pop(0) if self._answers else PutAnswer(200, {"ETag": '"x"'}, b"")


class Client:
    """Stands in for aiobotocore's client where only it is to be seen whether it was asked."""

    def __init__(self) -> None:
        self.puts: list[str] = []

    async def put_object(self, **parameters: Any) -> dict[str, str]:
        self.puts.append(parameters["Key"])
        return {"ETag": '"x"'}


def listing(url: str, *, region: str = "eu-west-1", service: str = "s3") -> AWSPreparedRequest:
    scope = f"Credential=AKIA/20260102/{region}/{service}/aws4_request"
    authorization = f"AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0"
    headers: Any = {"Authorization": authorization.encode(), "User-Agent": b"agent/1"}
    return AWSPreparedRequest("GET", url, headers, None, stream_output=False)


def puts_after(url: str, session: Recorder, *, checksums: bool = False, token: str | None = None) -> Puts:
    puts = Puts("bucket", checksums=checksums)
    puts.begin(AioCredentials("AKIA", "SECRET", token))
    puts.learn(session, listing(url), 200)
    return puts


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("url", LISTINGS.values(), ids=LISTINGS)
@pytest.mark.parametrize("token", [None, "TOKEN"], ids=["keys", "token"])
async def test_the_signature_is_the_one_that_botocore_makes(
    url: str, key: str, token: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Recorder()
    await puts_after(url, session, token=token, checksums=token is not None).put(Client(), key, b"content")  # type: ignore[arg-type]
    (sent,) = session.sent
    headers = dict(sent.headers)
    signature = headers.pop("authorization")
    assert headers.pop("accept-encoding") == "identity"
    when = dt.datetime.strptime(headers.pop("x-amz-date"), "%Y%m%dT%H%M%SZ").replace(tzinfo=None)  # noqa: DTZ007
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: when)
    assert headers.pop("host") == botocore.auth._host_from_url(url)  # type: ignore[attr-defined]
    assert headers.pop("x-amz-content-sha256") == hashlib.sha256(b"content").hexdigest()
    assert headers.pop("x-amz-security-token", None) == token
    request = AWSRequest("PUT", sent.url, headers, b"content")
    S3SigV4Auth(Credentials("AKIA", "SECRET", token), "s3", "eu-west-1").add_auth(request)
    assert signature == request.headers["Authorization"]
    assert sent.url == f"{url.partition('?')[0].rstrip('/')}/{quote(key, safe='/~')}"


async def test_an_object_is_sent_with_what_servers_and_other_readers_need() -> None:
    session = Recorder()
    await puts_after(LISTINGS["path-style"], session).put(Client(), "a", b"content")  # type: ignore[arg-type]
    headers = session.sent[0].headers
    assert headers["content-md5"] == base64.b64encode(hashlib.md5(b"content").digest()).decode()
    assert headers["content-type"] == "application/octet-stream"
    assert headers["x-amz-meta-landfall-sha256"] == hashlib.sha256(b"content").hexdigest()
    assert headers["user-agent"] == "agent/1"
    assert not [name for name in headers if "checksum" in name or name == "expect"]
    assert session.sent[0].content == b"content"


async def test_aws_gets_the_checksum_that_its_own_client_sends() -> None:
    session = Recorder()
    await puts_after(LISTINGS["virtual-host"], session, checksums=True).put(Client(), "a", b"content")  # type: ignore[arg-type]
    headers = session.sent[0].headers
    assert base64.b64decode(headers["x-amz-checksum-crc32"]) == zlib.crc32(b"content").to_bytes(4, "big")
    assert headers["x-amz-sdk-checksum-algorithm"] == "CRC32"


async def test_a_large_document_is_left_to_the_client_which_asks_before_it_sends() -> None:
    session, client = Recorder(), Client()
    puts = puts_after(LISTINGS["path-style"], session)
    await puts.put(client, "small", b"x" * LARGEST_BYTES)  # type: ignore[arg-type]
    await puts.put(client, "large", b"x" * (LARGEST_BYTES + 1))  # type: ignore[arg-type]
    assert [request.headers.get("expect") for request in session.sent] == [None]
    assert client.puts == ["large"]


async def test_each_put_is_signed_with_the_credentials_of_that_moment() -> None:
    class Rotating(AioCredentials):
        turn = 0

        async def get_frozen_credentials(self) -> ReadOnlyCredentials:  # type: ignore[override]
            self.turn += 1
            return ReadOnlyCredentials(f"KEY{self.turn}", f"SECRET{self.turn}", f"TOKEN{self.turn}")

    session = Recorder()
    puts = Puts("bucket", checksums=False)
    puts.begin(Rotating("", ""))
    puts.learn(session, listing(LISTINGS["https"]), 200)
    for _ in range(2):
        await puts.put(Client(), "a", b"")  # type: ignore[arg-type]
    for turn, sent in enumerate(session.sent, 1):
        assert sent.headers["x-amz-security-token"] == f"TOKEN{turn}"
        headers = {
            name: value for name, value in sent.headers.items() if name not in {"authorization", "accept-encoding"}
        }
        request = AWSRequest("PUT", sent.url, headers, b"")
        request.context["timestamp"] = headers["x-amz-date"]
        signer = S3SigV4Auth(Credentials(f"KEY{turn}", f"SECRET{turn}"), "s3", "eu-west-1")
        wanted = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
        assert sent.headers["authorization"].endswith(f"Signature={wanted}")
        assert f"Credential=KEY{turn}/" in sent.headers["authorization"]


async def test_a_function_hands_its_trace_on(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Recorder()
    puts = puts_after(LISTINGS["path-style"], session)
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "write-canary")
    for trace in ("Root=1-one", "Root=1-two"):
        monkeypatch.setenv("_X_AMZN_TRACE_ID", trace)
        await puts.put(Client(), "a", b"")  # type: ignore[arg-type]
    assert [request.headers["X-Amzn-Trace-Id"] for request in session.sent] == ["Root=1-one", "Root=1-two"]


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        pytest.param(listing(LISTINGS["https"]), 301, id="redirected"),
        pytest.param(listing(LISTINGS["https"]), 403, id="refused"),
        pytest.param(listing("https://minio.example.com/bucket/key"), 200, id="no-listing"),
        pytest.param(listing(LISTINGS["https"], service="s3express"), 200, id="another-way-of-signing"),
    ],
)
async def test_nothing_but_a_listing_that_succeeded_says_where_objects_go(
    request_: AWSPreparedRequest, status: int
) -> None:
    session, client = Recorder(), Client()
    puts = Puts("bucket", checksums=False)
    puts.begin(AioCredentials("AKIA", "SECRET"))
    puts.learn(session, request_, status)
    assert await puts.put(client, "a", b"")  # type: ignore[arg-type]
    assert (client.puts, session.sent) == (["a"], [])


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(PutAnswer(301, {"x-amz-bucket-region": "eu-central-1"}, b""), id="moved"),
        pytest.param(PutAnswer(307, {}, b""), id="moved-for-now"),
        pytest.param(
            PutAnswer(400, {}, b"<Error><Code>AuthorizationHeaderMalformed</Code></Error>"), id="wrong-region"
        ),
        pytest.param(PutAnswer(200, {}, b"<Error><Code>InternalError</Code></Error>"), id="an-error-with-200"),
    ],
)
async def test_what_is_out_of_the_ordinary_is_left_to_the_client(answer: PutAnswer) -> None:
    session, client = Recorder(answer), Client()
    puts = puts_after(LISTINGS["https"], session)
    for key in ("a", "b"):
        assert await puts.put(client, key, b"")  # type: ignore[arg-type]
    assert client.puts == ["a", "b"]
    assert len(session.sent) == 1


async def test_a_refusal_is_raised_as_the_client_raises_it() -> None:
    body = b"<Error><Code>ExpiredToken</Code><Message>gone</Message></Error>"
    session, client = Recorder(PutAnswer(403, {"x-amz-request-id": "7"}, body)), Client()
    with pytest.raises(ClientError) as caught:
        await puts_after(LISTINGS["https"], session).put(client, "a", b"")  # type: ignore[arg-type]
    assert caught.value.response["Error"]["Code"] == "ExpiredToken"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    assert client.puts == []


async def test_a_success_without_an_etag_is_none() -> None:
    session = Recorder(PutAnswer(200, {}, b"<html>Welcome</html>"))
    assert not await puts_after(LISTINGS["https"], session).put(Client(), "a", b"")  # type: ignore[arg-type]


async def test_what_is_remembered_between_puts_shows_no_secret() -> None:
    puts = puts_after(LISTINGS["https"], Recorder(), token="TOKEN")
    await puts.put(Client(), "a", b"")  # type: ignore[arg-type]
    assert "SECRET" not in repr(puts) + repr(vars(puts)) + repr(vars(puts._signer))
