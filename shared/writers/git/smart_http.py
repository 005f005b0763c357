"""Git over HTTPS: TLS always verified, one origin only, credentials never in a URL."""

import base64
import html
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast
from urllib.parse import urljoin, urlsplit

import urllib3
import urllib3.connection
from dulwich.client import HttpGitClient
from dulwich.config import ConfigDict
from urllib3.exceptions import HTTPError, SSLError
from urllib3.exceptions import TimeoutError as HTTPTimeout
from urllib3.response import BaseHTTPResponse

from shared.errors import (
    AccessDenied,
    LandfallError,
    QuotaExceeded,
    StateStoreNotReady,
    StoreNotFound,
    StoreUnavailable,
    WriteRejected,
)
from shared.writers.git.remote import Remote
from shared.writers.git.session import ConnectionLost, Session
from shared.writers.git.words import HTTPS, SIGN_IN
from shared.writers.words import Redactor, find

if TYPE_CHECKING:
    from dulwich.client import HTTPResponse

USER_AGENT: Final = "git/landfall"  # some forges serve Git only to those who call themselves so
MAX_REDIRECTS: Final = 3
MAX_ERROR_BYTES: Final = 2048  # of an error page that is read for its words
_OK, _NON_AUTHORITATIVE, _UNAUTHORIZED = 200, 203, 401
_TROUBLE: Final = (ConnectionLost, "is in trouble ({status})")
_NOT_SERVED: Final = (StoreNotFound, "serves no Git there ({status}): check spec.url")
_ROOM: Final = (QuotaExceeded, "takes no more ({status}): raise the quota or the plan")
# What a status means where the words beside it say no more.
_STATUSES: Final[Mapping[int, tuple[type[LandfallError], str]]] = {
    401: (AccessDenied, "does not accept the credentials (401): check the Secret"),
    402: _ROOM,
    403: (AccessDenied, "does not allow this (403): give the credentials write access"),
    404: (StoreNotFound, "knows no such repository (404): check spec.url and its access"),
    405: _NOT_SERVED,
    406: _NOT_SERVED,
    410: _NOT_SERVED,
    413: (WriteRejected, "finds the commit too large (413): raise the server's limit"),
    451: _NOT_SERVED,
    500: _TROUBLE,
    502: _TROUBLE,
    503: _TROUBLE,
    504: _TROUBLE,
    507: _ROOM,
}
_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class BasicAuth:
    """A user name and a password or token, for basic authentication (RFC 7617)."""

    user: str
    password: str = field(repr=False)

    @property
    def header(self) -> str:
        """The `Authorization` header; in UTF-8, as Git and its servers expect."""
        return f"Basic {base64.b64encode(f'{self.user}:{self.password}'.encode()).decode()}"


def pool_of(session: Session, context: ssl.SSLContext) -> urllib3.PoolManager:
    """Return a pool of connections that lives as long as the session and connects only to checked addresses.

    It knows no proxy, whatever the environment says, follows no redirect and tries nothing twice.
    """

    class _Plain(urllib3.connection.HTTPConnection):
        def _new_conn(self) -> socket.socket:
            return session.connect(self._dns_host, self.port)

    class _Tls(urllib3.connection.HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            return session.connect(self._dns_host, self.port)

    class _PlainPool(urllib3.HTTPConnectionPool):
        ConnectionCls = _Plain

    class _TlsPool(urllib3.HTTPSConnectionPool):
        ConnectionCls = _Tls

    pool = urllib3.PoolManager(num_pools=2, retries=False, ssl_context=context)
    pool.pool_classes_by_scheme = {"http": _PlainPool, "https": _TlsPool}
    session.at_end(pool.clear)
    return pool


def request(
    session: Session,
    pool: urllib3.PoolManager,
    method: str,
    url: str,
    *,
    headers: dict[str, str],
    body: bytes | Iterator[bytes] | None = None,
) -> BaseHTTPResponse:
    """Send one request and return its response, whatever its status.

    Raises:
        StoreUnavailable: no connection, no trust in the certificate, no answer.
        OutOfTime: the deadline has passed.
    """
    timeout = urllib3.Timeout(connect=session.timeout(), read=session.timeout())
    try:
        return pool.request(
            method, url, headers=headers, body=body, timeout=timeout, preload_content=False, redirect=False
        )
    except HTTPError as error:
        raise explain(error, url, session) from None


def explain(error: HTTPError, url: str, session: Session) -> LandfallError:
    """Return what a failed exchange means, in words that hold nothing of the request."""
    host = _origin(url)
    if isinstance(error, SSLError):
        cause = error.args[0] if error.args else None
        if isinstance(cause, ssl.SSLCertVerificationError):
            return StoreUnavailable(
                f"the certificate of {host} is not trusted ({cause.verify_message}): add the CA that signed it to"
                " LANDFALL_CA_BUNDLE or to the key ca.crt of the Secret, or mend the certificate"
            )
        return StoreUnavailable(f"TLS with {host} failed ({getattr(cause, 'reason', None) or 'broken off'})")
    if isinstance(error, HTTPTimeout):
        return StoreUnavailable(f"{host} did not answer within {session.settings.store_timeout_seconds:g} s")
    return ConnectionLost(f"the connection to {host} broke ({type(error).__name__})")


class HttpClient(HttpGitClient):
    """dulwich's HTTP client with our pool, our redirects and our errors."""

    def __init__(
        self,
        remote: Remote,
        session: Session,
        pool: urllib3.PoolManager,
        credentials: BasicAuth,
        redactor: Redactor,
    ) -> None:
        # The new objects are in memory anyway, and some servers refuse a chunked upload: always send its length.
        config = ConfigDict()
        config.set((b"http",), b"postBuffer", str(1 << 40).encode())
        super().__init__(
            remote.url,
            pool_manager=pool,
            config=config,
            thin_packs=False,
        )
        self._credentials = credentials  # not given to dulwich, which would encode them as Latin-1
        self._home = self._origin(remote.url)
        self._session = session
        self._pool = pool
        self._redactor = redactor

    @staticmethod
    def _warn_filter_objects() -> None:
        """Say nothing: a server without filters is a slower one, not a problem."""

    def _http_request(
        self,
        url: str,
        headers: dict[str, str] | None = None,
        data: bytes | Iterator[bytes] | None = None,
        raise_for_status: bool = True,  # noqa: FBT001, FBT002 -- dulwich's signature
    ) -> "tuple[HTTPResponse, Callable[[int], bytes]]":
        del raise_for_status
        asked = url
        sent = {
            **(headers or {}),
            "Pragma": "no-cache",
            "User-Agent": USER_AGENT,
            "Authorization": self._credentials.header,
        }
        for _ in range(MAX_REDIRECTS + 1):
            method = "GET" if data is None else "POST"
            response = request(self._session, self._pool, method, url, headers=sent, body=data)
            self._session.at_end(response.close)  # dulwich forgets some of them when an answer is malformed
            if response.status not in _REDIRECTS:
                break
            response.drain_conn()
            url = self._redirected(url, response.headers.get("Location", ""), posting=data is not None)
        else:
            raise StateStoreNotReady(
                f"{_origin(asked)} redirects without end: write the repository's own URL to spec.url"
            )
        if response.status == _NON_AUTHORITATIVE:  # Azure DevOps' status for its sign-in page
            raise self._page(response, url)
        if response.status != _OK:
            raise self._refusal(response, url)
        response.content_type = response.headers.get("Content-Type") or ""  # type: ignore[attr-defined]
        response.redirect_location = "" if url == asked else url  # type: ignore[attr-defined]
        if data is None and not response.content_type.startswith("application/x-git-"):  # type: ignore[attr-defined]
            raise self._page(response, url)

        def read(size: int) -> bytes:
            try:
                return response.read(size)
            except HTTPError as error:
                raise explain(error, url, self._session) from None

        return cast("HTTPResponse", response), self._session.meter(read, _origin(url))

    def _redirected(self, url: str, location: str, *, posting: bool) -> str:
        target = urljoin(url, location)
        if posting or not location or self._origin(target) != self._home or "@" in urlsplit(target).netloc:
            where = _origin(target) or "nowhere"
            if re.search(SIGN_IN, target, re.IGNORECASE):
                raise AccessDenied(
                    f"{_origin(url)} redirects to a sign-in page at {where}, so it refuses the credentials:"
                    " correct the Secret, or the path of spec.url"
                )
            raise StateStoreNotReady(
                f"{_origin(url)} redirects to {where}, where credentials are not sent:"
                " write the repository's final URL to spec.url"
            )
        return target

    def _page(self, response: BaseHTTPResponse, url: str) -> LandfallError:
        """Return the error for a success that is not Git's."""
        words, text = self._said(response)
        said = f": {words}" if words else ""
        if response.status == _NON_AUTHORITATIVE or re.search(SIGN_IN, text, re.IGNORECASE):
            return AccessDenied(
                f"{_origin(url)} answers with a sign-in page, so it refuses the credentials: correct the Secret,"
                f" or the path of spec.url{said}"
            )
        return StoreNotFound(
            f"{_origin(url)} answers, but with no Git repository: check the path of spec.url, and the credentials{said}"
        )

    def _said(self, response: BaseHTTPResponse) -> tuple[str, str]:
        """Return the words of an answer, as a message may show them, and its beginning; the answer is closed then.

        Of a web page the title is shown.
        """
        try:
            text = response.read(MAX_ERROR_BYTES).decode("utf-8", "replace")
        except HTTPError:
            text = ""
        finally:
            response.close()
        kind = response.headers.get("Content-Type", "")
        words = text if "text/plain" in kind or not kind else ""
        if "html" in kind:
            title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
            words = html.unescape(title[1]) if title else ""
        elif "json" in kind:
            message = re.search(r'"(?:message|error|error_description)"\s*:\s*"((?:[^"\\]|\\.)*)"', text)
            words = message[1] if message else ""
        return self._redactor.words(words), text

    def _refusal(self, response: BaseHTTPResponse, url: str) -> LandfallError:
        host = _origin(url)
        words, _ = self._said(response)
        said = f": {words}" if words else ""
        if words and (row := find(HTTPS, words)) is not None:
            return row.meaning.error(f"{host} {row.advice} ({response.status}){said}")
        status = response.status
        kind, why = _STATUSES.get(status, (StoreUnavailable, "answered {status}"))
        if status == _UNAUTHORIZED and not self._credentials.user:
            why = "does not accept the password (401): check the Secret, or add the username that the forge wants"
        return kind(f"{host} {why.format(status=status)}{said}")


def _origin(url: str) -> str:
    """Return scheme, host and port of a URL, for messages: nothing of it that could be a secret."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.hostname}{port}" if parts.hostname else ""
