"""What S3 servers and the network answer, as our own errors: each a sentence with what to change, and no secret.

Servers echo access keys, signatures and the string to sign, so nothing of an answer is repeated but its code, its
status and its message, without what belongs to credentials.
"""

import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
)
from botocore.parsers import ResponseParserError

from shared.errors import (
    AccessDenied,
    LandfallError,
    StateStoreError,
    StateStoreNotReady,
    StoreNotFound,
    StoreUnavailable,
    WriteRejected,
)
from shared.writers.s3.words import IN_TROUBLE, meaning_of, right_for
from shared.writers.words import Meaning, Redactor

# What a client's call can raise; TimeoutError is an OSError.
FAILURES: Final = (BotoCoreError, ClientError, ResponseParserError, aiohttp.ClientError, OSError)

SERVER_ATTEMPTS: Final = 6  # 5xx, SlowDown, a cut connection
CONNECT_ATTEMPTS: Final = 3  # no such name, connection refused
SLOW_ATTEMPTS: Final = 2  # each has cost a whole time-out
_ONE: Final = 1
_TLS_FAILURES: Final = (SSLError, aiohttp.ClientSSLError)
_CUT: Final = (HTTPClientError, aiohttp.ClientError, OSError)

_RETRIED_STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504, 509})
_CODE: Final = re.compile(r"[A-Za-z0-9.]{1,60}", re.ASCII)
_PAGE: Final = re.compile(rb"\s*(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html)", re.IGNORECASE)
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_OK, _MULTIPLE_CHOICES, _BAD_REQUEST, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 200, 300, 400, 401, 403, 404
_TOO_MANY, _SERVER_ERROR = 429, 500


@dataclass(frozen=True, slots=True)
class Where:
    """The bucket that messages are about.

    Attributes:
        insecure: whether it is talked to over plain http.
        redactor: knows the credentials, which servers repeat.
    """

    bucket: str
    host: str
    insecure: bool = False
    redactor: Redactor = field(default_factory=Redactor, compare=False)

    def __str__(self) -> str:
        return f"bucket {self.bucket} at {self.host}"


def attempts_for(error: Exception) -> int:
    """Return how often a call may be made in all when it fails like this; 1 means that a repetition cannot help."""
    if isinstance(error, ClientError):
        row = meaning_of(code_of(error), _message(error))
        retried = _status(error) in _RETRIED_STATUSES if row is None else row.meaning is Meaning.TROUBLE
        return SERVER_ATTEMPTS if retried else _ONE
    if isinstance(error, TimeoutError | ConnectTimeoutError | ReadTimeoutError):
        return SLOW_ATTEMPTS
    if ours_in(error) is not None or isinstance(error, _TLS_FAILURES):
        return _ONE
    if isinstance(_cause(error), aiohttp.ClientConnectorError):
        return CONNECT_ATTEMPTS
    if isinstance(error, _CUT) or isinstance(_cause(error), _CUT):
        return SERVER_ATTEMPTS
    return _ONE


def was_cut_off(error: Exception) -> bool:
    """Whether a call failed without an answer after it may have been sent."""
    connecting = isinstance(error, ConnectTimeoutError) or isinstance(_cause(error), aiohttp.ClientConnectorError)
    return not isinstance(error, ClientError) and not connecting and ours_in(error) is None


def is_retried_code(code: str) -> bool:
    """Whether an entry of DeleteObjects' `Errors` with that code may succeed when it is sent again."""
    row = meaning_of(code, "")
    return row is not None and row.meaning is Meaning.TROUBLE


def translate(error: Exception, where: Where, timeout: float) -> LandfallError:
    """Return our error for what a call to the bucket raised.

    Args:
        error: one of `FAILURES`.
        where: the bucket, for the sentence.
        timeout: of one call, in seconds.
    """
    if isinstance(error, ClientError):
        return for_code(code_of(error), where, _status(error), _message(error), error.operation_name)
    if (ours := ours_in(error)) is not None:
        return ours
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return AccessDenied(f"{where}: the function has no role whose credentials it could use: give it one")
    if isinstance(error, TimeoutError | ConnectTimeoutError | ReadTimeoutError):
        return StoreUnavailable(
            f"{where} did not answer within {timeout:g} s: check that the endpoint can be reached from the function"
        )
    return _tls(error, where) if isinstance(error, _TLS_FAILURES) else _network(error, where)


def for_code(
    code: str, where: Where, status: int = 0, message: str = "", operation: str = "DeleteObjects"
) -> StateStoreError:
    """Return our error for an answer of a server's.

    Args:
        code: of S3's error, or the status where the answer has no body.
        where: the bucket, for the sentence.
        status: of HTTP; 0 for an entry of DeleteObjects' `Errors`.
        message: the server's own, which is shown for what no table knows.
        operation: of botocore's, that was answered so.
    """
    if code == "NoSuchKey" and operation == "ListObjectsV2":
        # A list of a bucket that is in the host's name, too, is to the server an object of the bucket's name.
        rest = where.host.removeprefix(f"{where.bucket.lower()}.")
        if rest != where.host:
            return StateStoreNotReady(f"{where}: spec.endpoint names the bucket already: write {rest}")
        return StateStoreNotReady(f"{where}: spec.endpoint leads to another bucket: write the host of the S3 API alone")
    said = where.redactor.signed(message)
    answered = f"({shown(code, status)}{f': {said}' if said and said.lower() != 'none' else ''})"
    if (row := meaning_of(code, message)) is None:
        return _by_status(code, where, status, answered, right_for(operation))
    if row.meaning in {Meaning.MISSING, Meaning.TROUBLE}:
        return row.meaning.error(f"{where} {row.advice} ({shown(code, status)})")
    return row.meaning.error(f"{where}: {row.advice} {answered}")


def _by_status(code: str, where: Where, status: int, answered: str, right: str) -> StateStoreError:
    if code == "AccessDenied" or status in {_FORBIDDEN, _UNAUTHORIZED}:
        return AccessDenied(f"{where}: access is denied: allow these credentials {right} {answered}")
    if status in _RETRIED_STATUSES:
        return StoreUnavailable(f"{where} {IN_TROUBLE} {answered}")
    if _MULTIPLE_CHOICES <= status < _BAD_REQUEST:
        return StateStoreNotReady(
            f"{where} answers with a redirect, which is not followed with credentials: write the final host in"
            f" spec.endpoint {answered}"
        )
    if status == _BAD_REQUEST and code.isdigit() and where.insecure:
        return StateStoreNotReady(
            f"{where} takes no plain http: set spec.insecure to false if it speaks TLS {answered}"
        )
    if status == _NOT_FOUND and code.isdigit():
        return StoreNotFound(
            f"{where} is not there: check that spec.endpoint is the S3 API's, and spec.bucketName {answered}"
        )
    return WriteRejected(f"{where} refused the call {answered}: see the server's own log for why")


def unlike_s3(
    where: Where, status: int, headers: Mapping[str, str], body: bytes, *, listing: bool
) -> StateStoreError | None:
    """Return the error for an answer that no S3 server gives: a redirect to elsewhere, or a web page.

    Args:
        where: the bucket, for the sentence.
        status: of the answer.
        headers: of the answer.
        body: of the answer.
        listing: whether a list was asked for, so that a success has to be one.
    """
    if status in _REDIRECTS and headers.get("Location") and b"<Code>" not in body:
        return _redirected(where, headers["Location"])
    if status >= _SERVER_ERROR or status == _TOO_MANY:
        return None  # a proxy's word for trouble behind it
    if _PAGE.match(body):
        if status in {_UNAUTHORIZED, _FORBIDDEN}:
            return AccessDenied(
                f"{where} answers with a web page ({status}): a proxy or a firewall in between denies the call, or"
                " spec.endpoint is not the S3 API's"
            )
        return StateStoreNotReady(
            f"{where} answers with a web page, not as S3 does: write the endpoint of the S3 API into spec.endpoint, not"
            " that of a console or a website"
        )
    return no_s3(where) if listing and status == _OK and not body.lstrip().startswith(b"<") else None


def _redirected(where: Where, location: str) -> StateStoreError:
    try:
        target = urlsplit(location)
        host = target.hostname or ""
        shown_host = f"{host}:{target.port}" if target.port else host
    except ValueError:
        target, host, shown_host = urlsplit(""), "", ""
    ours = urlsplit(f"//{where.host}").hostname
    if where.insecure and target.scheme == "https" and host == ours:
        return StateStoreNotReady(f"{where} redirects from http to https: set spec.insecure to false")
    return StateStoreNotReady(
        f"{where} answers with a redirect to {shown_host[:100] or 'nowhere'}, which is not followed with credentials:"
        " write that host into spec.endpoint if it is the S3 API's, or correct spec.endpoint"
    )


def no_s3(where: Where) -> StateStoreNotReady:
    """Return the error for a success that no S3 server would answer."""
    return StateStoreNotReady(f"{where} gave an answer that is not S3's: check spec.endpoint and spec.insecure")


def shown(code: str, status: int = 0) -> str:
    """Return an error code as a message may show it: servers can put anything there."""
    if _CODE.fullmatch(code) and not code.isdigit():
        return code
    return f"HTTP {status}" if status else "no known code"


def code_of(error: ClientError) -> str:
    """Return the S3 error code of an answer; for answers without a body it is the status."""
    return str(error.response.get("Error", {}).get("Code", ""))


def ours_in(error: BaseException) -> LandfallError | None:
    """Return an error of our own (of the address guard) that the client's libraries have wrapped."""
    return next((link for link in _chain(error) if isinstance(link, LandfallError)), None)


def _message(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Message") or "")


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _cause(error: BaseException) -> Any:
    return getattr(error, "kwargs", {}).get("error", error)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    queue: list[Any] = [error]
    while queue:
        link = queue.pop()
        if isinstance(link, BaseException) and id(link) not in seen:
            seen.add(id(link))
            yield link
            queue += [_cause(link), getattr(link, "certificate_error", None), link.__cause__, link.__context__]


def _tls(error: Exception, where: Where) -> StoreUnavailable:
    certificate = [link for link in _chain(error) if isinstance(link, ssl.SSLCertVerificationError)]
    if certificate:
        why = next(
            (said for link in certificate if (said := getattr(link, "verify_message", ""))), "verification failed"
        )
        return StoreUnavailable(
            f"{where}: its certificate cannot be trusted ({why}): if it comes from a CA of your own, put the CA's PEM"
            " into the Secret as ca.crt, or let the operator put it into LANDFALL_CA_BUNDLE"
        )
    return StoreUnavailable(
        f"{where}: no TLS connection can be made: correct the port in spec.endpoint, or set spec.insecure to true"
        " if the server speaks plain http"
    )


def _network(error: Exception, where: Where) -> StateStoreError:
    if isinstance(error, ProxyConnectionError):
        return StoreUnavailable(f"{where}: the function's HTTP proxy cannot be reached: check HTTPS_PROXY and NO_PROXY")
    for link in _chain(error):
        if isinstance(link, socket.gaierror | aiohttp.ClientConnectorDNSError):
            return StoreUnavailable(f"{where}: the host name cannot be resolved: correct spec.endpoint, or the DNS")
        if isinstance(link, ConnectionRefusedError):
            return StoreUnavailable(f"{where}: the connection is refused: start the server, or correct spec.endpoint")
    if isinstance(_cause(error), aiohttp.ClientConnectorError):
        return StoreUnavailable(f"{where} cannot be reached: check the endpoint and the function's network")
    if isinstance(error, _CUT) or isinstance(_cause(error), _CUT):
        return StoreUnavailable(f"{where}: the connection was cut again and again: check the network and the server")
    return no_s3(where)
