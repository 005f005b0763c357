"""PutObject as the client sends it, without the greater part of the client's time for a call.

aiobotocore takes a millisecond of Python for a put, four times what aiohttp takes for the request itself: it validates,
serialises, resolves the endpoint and derives the signing key anew each time. Here only what differs from one object to
the next is made anew. The rest stays the client's: where requests go and for which region is read off a listing that
it has sent with success, its connections carry them, its parser reads refusals, and a put whose answer is none of the
plain ones is made by the client itself.
"""

import base64
import hashlib
import hmac
import re
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Protocol, Self
from urllib.parse import quote, urlsplit

from aiobotocore.credentials import AioCredentials
from botocore.awsrequest import AWSPreparedRequest
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import ClientError
from botocore.handlers import add_recursion_detection_header
from botocore.parsers import create_parser

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

DIGEST_METADATA: Final = "landfall-sha256"  # what ETags cannot tell where they are no MD5 (SSE-KMS, multipart)
CONTENT_TYPE: Final = "application/octet-stream"  # Kratix's
# The client asks before it sends a body (100-continue), which spares a large one a refusal and costs a round trip.
# Larger ones than this are left to it: beside them its time is nothing.
LARGEST_BYTES: Final = 64 * 1024
_SCOPE: Final = re.compile(r"AWS4-HMAC-SHA256 Credential=[^,]+/\d{8}/(?P<region>[a-z0-9-]+)/s3/aws4_request,")
_OK, _BAD_REQUEST = 200, 400


@dataclass(frozen=True, slots=True)
class _Key:
    """A signing key and what it was derived from."""

    secret: str = field(repr=False)
    scope: str
    key: bytes = field(repr=False)

    @classmethod
    def derived(cls, secret: str, scope: str) -> Self:
        key = f"AWS4{secret}".encode()
        for part in scope.split("/"):
            key = hmac.digest(key, part.encode(), "sha256")
        return cls(secret, scope, key)


class Signer:
    """Signs requests that have no query (AWS's Signature Version 4, as S3 reads it: the path is taken as it is).

    The signing key is derived once for a day, a region and credentials.
    """

    def __init__(self) -> None:
        """Begin without a key."""
        self._key = _Key("", "", b"")

    def sign(
        self, method: str, path: str, headers: Mapping[str, str], region: str, credentials: ReadOnlyCredentials
    ) -> str:
        """Return the value of the header Authorization.

        Args:
            method: of HTTP.
            path: quoted as it is sent.
            headers: all that are to be signed, their names in lower case; among them host, x-amz-date and
                x-amz-content-sha256.
            region: of the bucket.
            credentials: to sign with; the session token is one of the headers.
        """
        names = sorted(headers)
        signed = ";".join(names)
        lines = [method, path, "", *(f"{name}:{headers[name]}" for name in names), "", signed]
        canonical = "\n".join([*lines, headers["x-amz-content-sha256"]])
        now = headers["x-amz-date"]
        scope = f"{now[:8]}/{region}/s3/aws4_request"
        to_sign = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        if (self._key.secret, self._key.scope) != (credentials.secret_key, scope):
            self._key = _Key.derived(credentials.secret_key or "", scope)
        signature = hmac.digest(self._key.key, to_sign.encode(), "sha256").hex()
        credential = f"{credentials.access_key}/{scope}"
        return f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={signed}, Signature={signature}"


@dataclass(frozen=True, slots=True)
class PutAnswer:
    """What a server answers; the names of the headers count in any case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Sender(Protocol):
    """The client's HTTP session, as far as it is needed here."""

    async def put(self, url: str, headers: Mapping[str, str], content: bytes) -> PutAnswer:
        """Send a PUT with exactly these headers, to a URL that is quoted already."""


@dataclass(frozen=True, slots=True)
class _Target:
    """Where the client's own requests for the bucket went: its URL up to the key, and what they said of us."""

    session: Sender
    url: str
    host: str
    path: str
    region: str
    user_agent: str


class Puts:
    """Writes the objects of one bucket."""

    def __init__(self, bucket: str, *, checksums: bool) -> None:
        """Begin without a target: the client writes until `learn` has seen it list.

        Args:
            bucket: its name.
            checksums: send CRC-32 too, as the client does for AWS's endpoints.
        """
        self._bucket = bucket
        self._checksums = checksums
        self._credentials: AioCredentials | None = None
        self._signer = Signer()
        self._target: _Target | None = None

    def begin(self, credentials: AioCredentials | None) -> None:
        """Take the credentials of a client that has just been opened, which refresh themselves."""
        self._credentials = credentials
        self._target = None

    def learn(self, session: Sender, request: AWSPreparedRequest, status: int) -> None:
        """See where a request of the client's went, and with what answer."""
        if request.method != "GET" or status != _OK or "list-type=2" not in request.url:
            return
        scope = _SCOPE.match(_text(request.headers.get("Authorization", "")))
        if scope is None:  # not signed as these puts would be: S3 Express, for example
            self._target = None
            return
        url = urlsplit(request.url)
        path = url.path if url.path.endswith("/") else f"{url.path}/"
        port = "" if url.port in {None, 80 if url.scheme == "http" else 443} else f":{url.port}"
        host = f"[{url.hostname}]{port}" if ":" in (url.hostname or "") else f"{url.hostname}{port}"
        agent = _text(request.headers.get("User-Agent", ""))
        self._target = _Target(session, f"{url.scheme}://{url.netloc}{path}", host, path, scope["region"], agent)

    async def put(self, s3: "S3Client", key: str, content: bytes) -> bool:
        """Write an object; False where the answer is a success that no S3 server would give.

        Raises:
            Exception: one of `s3_errors.FAILURES`, as the client raises them.
        """
        if self._target is not None and self._credentials is not None and len(content) <= LARGEST_BYTES:
            answer = await self._send(self._target, await self._credentials.get_frozen_credentials(), key, content)
            if answer.status == _OK and b"<Error" not in answer.body:
                return bool(answer.headers.get("ETag"))
            if answer.status > _BAD_REQUEST:
                raise _refusal(answer)
            self._target = None  # a redirect to another region, or something rare: the client finds out
        reply = await s3.put_object(
            Bucket=self._bucket,
            Key=key,
            Body=content,
            ContentMD5=_md5(content),
            ContentType=CONTENT_TYPE,
            Metadata={DIGEST_METADATA: hashlib.sha256(content).hexdigest()},
        )
        return bool(reply.get("ETag"))

    async def _send(self, target: _Target, credentials: ReadOnlyCredentials, key: str, content: bytes) -> PutAnswer:
        quoted = quote(key, safe="/~")
        digest = hashlib.sha256(content).hexdigest()
        headers = {
            # The MD5 protects the way to servers that know no newer checksum, and buckets with object lock demand one.
            "content-md5": _md5(content),
            "content-type": CONTENT_TYPE,
            "host": target.host,
            "x-amz-content-sha256": digest,
            "x-amz-date": time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()),
            f"x-amz-meta-{DIGEST_METADATA}": digest,
        }
        if self._checksums:
            headers["x-amz-checksum-crc32"] = base64.b64encode(zlib.crc32(content).to_bytes(4, "big")).decode()
            headers["x-amz-sdk-checksum-algorithm"] = "CRC32"
        if credentials.token:
            headers["x-amz-security-token"] = credentials.token
        authorization = self._signer.sign("PUT", target.path + quoted, headers, target.region, credentials)
        headers["authorization"] = authorization
        headers |= {"user-agent": target.user_agent, "accept-encoding": "identity"}
        add_recursion_detection_header({"headers": headers})
        return await target.session.put(target.url + quoted, headers, content)


def _refusal(answer: PutAnswer) -> ClientError:
    """Return what the client would raise."""
    response = {"status_code": answer.status, "headers": answer.headers, "body": answer.body}
    parsed: Any = create_parser("rest-xml").parse(response, None)  # type: ignore[arg-type]  # an error needs no shape
    return ClientError(parsed, "PutObject")


def _md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
