"""What S3 servers and the network answer, as our own errors: each a sentence with what to change, and no secret.

Servers echo access keys, signatures and the string to sign in their messages, so nothing of an answer is repeated but
its code and status.
"""

import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

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

from shared.errors import AccessDenied, LandfallError, StateStoreError, StoreNotFound, StoreUnavailable, WriteRejected

# What a client's call can raise; TimeoutError is an OSError.
FAILURES: Final = (BotoCoreError, ClientError, ResponseParserError, aiohttp.ClientError, OSError)

SERVER_ATTEMPTS: Final = 6  # 5xx, SlowDown, a cut connection
CONNECT_ATTEMPTS: Final = 3  # no such name, connection refused
SLOW_ATTEMPTS: Final = 2  # each has cost a whole time-out
_ONE: Final = 1
_TLS_FAILURES: Final = (SSLError, aiohttp.ClientSSLError)
_CUT: Final = (HTTPClientError, aiohttp.ClientError, OSError)

_RETRIED_CODES: Final = frozenset(
    {
        "BandwidthLimitExceeded", "ConditionalRequestConflict", "InternalError", "OperationAborted",
        "RequestLimitExceeded", "RequestThrottled", "RequestTimeout", "RequestTimeoutException", "ServiceUnavailable",
        "SlowDown", "SlowDownRead", "SlowDownWrite", "Throttling", "ThrottlingException", "TooManyRequests",
    }
)  # fmt: skip
_RETRIED_STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504, 509})

_DENIED: Final = {
    "InvalidAccessKeyId": "the server does not know the access key: correct accessKeyID in the Secret",
    "SignatureDoesNotMatch": "the signature is wrong: correct secretAccessKey in the Secret",
    "ExpiredToken": "the credentials have expired: renew them",
    "ExpiredTokenException": "the credentials have expired: renew them",
    "InvalidToken": "the session token is not valid: renew the credentials",
    "RequestTimeTooSkewed": "its clock and ours differ too much: set the server's clock",
    "RequestExpired": "its clock and ours differ too much: set the server's clock",
    "AccountProblem": "the account has a problem: ask its provider",
    "NotSignedUp": "the account is not signed up for S3: ask its provider",
    "InvalidSecurity": "the credentials are not valid: correct the Secret",
}
_ACCESS_DENIED: Final = (
    "access is denied: allow these credentials s3:ListBucket on the bucket, and s3:GetObject, s3:PutObject,"
    " s3:DeleteObject and s3:AbortMultipartUpload in it"
)
_MISSING_BUCKET: Final = frozenset({"NoSuchBucket", "InvalidBucketName"})
_CODE: Final = re.compile(r"[A-Za-z0-9.]{1,60}", re.ASCII)
_FORBIDDEN, _UNAUTHORIZED = 403, 401
_MULTIPLE_CHOICES, _BAD_REQUEST = 300, 400


@dataclass(frozen=True, slots=True)
class Where:
    """The bucket that messages are about."""

    bucket: str
    host: str

    def __str__(self) -> str:
        return f"bucket {self.bucket} at {self.host}"


def attempts_for(error: Exception) -> int:
    """Return how often a call may be made in all when it fails like this; 1 means that a repetition cannot help."""
    if isinstance(error, ClientError):
        retried = code_of(error) in _RETRIED_CODES or _status(error) in _RETRIED_STATUSES
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
    return code in _RETRIED_CODES


def translate(error: Exception, where: Where, timeout: float) -> LandfallError:
    """Return our error for what a call to the bucket raised.

    Args:
        error: one of `FAILURES`.
        where: the bucket, for the sentence.
        timeout: of one call, in seconds.
    """
    if isinstance(error, ClientError):
        return for_code(code_of(error), where, _status(error))
    if (ours := ours_in(error)) is not None:
        return ours
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return AccessDenied(f"{where}: the function has no role whose credentials it could use: give it one")
    if isinstance(error, TimeoutError | ConnectTimeoutError | ReadTimeoutError):
        return StoreUnavailable(
            f"{where} did not answer within {timeout:g} s: check that the endpoint can be reached from the function"
        )
    return _tls(error, where) if isinstance(error, _TLS_FAILURES) else _network(error, where)


def for_code(code: str, where: Where, status: int = 0) -> StateStoreError:
    """Return our error for an S3 error code, with the answer's HTTP status where there is one."""
    if code in _MISSING_BUCKET:
        return StoreNotFound(f"{where} does not exist: create it, or correct spec.bucketName or spec.endpoint")
    if code in _DENIED:
        return AccessDenied(f"{where}: {_DENIED[code]} ({code})")
    if code == "AccessDenied" or status in {_FORBIDDEN, _UNAUTHORIZED}:
        return AccessDenied(f"{where}: {_ACCESS_DENIED} ({shown(code, status)})")
    if code in _RETRIED_CODES or status in _RETRIED_STATUSES:
        return StoreUnavailable(
            f"{where} is overloaded or in trouble ({shown(code, status)}): it is tried again, see the server's state"
        )
    if _MULTIPLE_CHOICES <= status < _BAD_REQUEST:
        return StoreUnavailable(
            f"{where} answers with a redirect, which is not followed with credentials: write the final host in"
            " spec.endpoint"
        )
    return WriteRejected(f"{where} refused the call ({shown(code, status)}): see the server's own log for why")


def no_s3(where: Where) -> StoreUnavailable:
    """Return the error for a success that no S3 server would answer."""
    return StoreUnavailable(f"{where} gave an answer that is not S3's: check spec.endpoint and spec.insecure")


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


def _network(error: Exception, where: Where) -> StoreUnavailable:
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
