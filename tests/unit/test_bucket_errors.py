"""What breaks under a put says the same, and is repeated as often, as under any other call of the client."""

from __future__ import annotations

import errno
import socket
import ssl
from typing import TYPE_CHECKING, Any, NoReturn

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from botocore.awsrequest import AWSPreparedRequest

from shared.errors import StateStoreNotReady
from shared.writers.s3 import errors as s3_errors
from shared.writers.s3.errors import Where
from shared.writers.s3.http import GuardedSession
from shared.writers.s3.put import Puts

if TYPE_CHECKING:
    from types import TracebackType

KEY = ConnectionKey("minio.example.com", 443, True, True, None, None, None)
URL = "https://minio.example.com/bucket/key"


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def untrusted() -> Exception:
    why = ssl.SSLCertVerificationError(1, "certificate verify failed")
    why.verify_message = "self-signed certificate"
    return aiohttp.ClientConnectorCertificateError(KEY, why)


FAILURES = {
    "untrusted": untrusted(),
    "no-tls": aiohttp.ClientConnectorSSLError(KEY, ssl.SSLError(1, "wrong version number")),
    "no-such-name": aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(socket.EAI_NONAME, "unknown")),
    "refused": caused(
        aiohttp.ClientConnectorError(KEY, ConnectionRefusedError(errno.ECONNREFUSED, "refused")),
        ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
    ),
    "no-route": aiohttp.ClientConnectorError(KEY, OSError(errno.EHOSTUNREACH, "no route")),
    "disconnected": aiohttp.ServerDisconnectedError(),
    "reset": aiohttp.ClientOSError(errno.ECONNRESET, "reset"),
    "half-an-answer": aiohttp.ClientPayloadError("half"),
    "slow-to-connect": aiohttp.ConnectionTimeoutError("Connection timeout to host"),
    "slow-to-answer": aiohttp.SocketTimeoutError("Timeout on reading data from socket"),
    "time-out": TimeoutError(),
    "guarded": caused(aiohttp.ClientConnectorError(KEY, OSError("x")), StateStoreNotReady("leads to 127.0.0.1")),
}


class Broken:
    """An aiohttp session whose every request fails, since no server fails in all of these ways."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def request(self, method: str, **_: Any) -> NoReturn:
        raise self._error


class Session(GuardedSession):
    def __init__(self, error: Exception) -> None:
        super().__init__(
            ssl.create_default_context(), Puts("bucket", checksums=False), Where("bucket", "minio.example.com")
        )
        self._broken: Any = Broken(error)

    async def _get_session(self, proxy_url: str | None) -> Any:
        return self._broken

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing was opened."""


@pytest.mark.parametrize("error", FAILURES.values(), ids=FAILURES)
async def test_a_put_fails_in_the_words_of_every_other_call(error: Exception) -> None:
    session, where = Session(error), Where("bucket", "minio.example.com")
    with pytest.raises(s3_errors.FAILURES) as of_put:
        await session.put(URL, {}, b"")
    with pytest.raises(s3_errors.FAILURES) as of_client:
        await session.send(AWSPreparedRequest("GET", URL, {}, None, stream_output=False))  # type: ignore[arg-type]
    ours, theirs = (s3_errors.translate(caught.value, where, 20) for caught in (of_put, of_client))
    assert (type(ours), str(ours)) == (type(theirs), str(theirs))
    assert s3_errors.attempts_for(of_put.value) == s3_errors.attempts_for(of_client.value)


@pytest.mark.parametrize("name", ["disconnected", "reset", "half-an-answer"])
async def test_a_connection_that_was_cut_is_tried_again(name: str) -> None:
    with pytest.raises(s3_errors.FAILURES) as caught:
        await Session(FAILURES[name]).send(AWSPreparedRequest("GET", URL, {}, None, stream_output=False))  # type: ignore[arg-type]
    assert s3_errors.attempts_for(caught.value) == s3_errors.SERVER_ATTEMPTS
    assert "was cut" in str(s3_errors.translate(caught.value, Where("bucket", "minio.example.com"), 20))
