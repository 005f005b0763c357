"""Stands before a server and times each call that passes, byte for byte, without a word of its own."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Final, Self
from urllib.parse import urlsplit

_CHUNK: Final = 256 * 1024
_CONTINUE: Final = b"HTTP/1.1 100"  # not an answer yet: RFC 9110, section 15.2.1


@dataclass
class Call:
    """A request and its answer.

    Attributes:
        began: when its first byte came from the client, `time.time()`.
        ended: when the last byte of the answer came from the server.
        method, target: of HTTP.
    """

    began: float
    method: str
    target: str
    ended: float = 0.0

    @property
    def seconds(self) -> float:
        """How long the client had to wait."""
        return max(self.ended - self.began, 0.0)


@dataclass
class Relay:
    """A running relay.

    Attributes:
        url: its own, http unless it has a certificate.
        upstream: the server's URL; may be set later, before the first call.
        trust: of the server's certificate, where it has one.
        calls: all so far.
    """

    upstream: str
    trust: ssl.SSLContext | None
    url: str = ""
    calls: list[Call] = field(default_factory=list)

    def between(self, begin: float, end: float) -> list[Call]:
        """Return the calls that began in a span of time."""
        return [call for call in self.calls if begin <= call.began < end]

    @classmethod
    @contextlib.asynccontextmanager
    async def before(
        cls, upstream: str = "", *, trust: ssl.SSLContext | None = None, certificate: ssl.SSLContext | None = None
    ) -> AsyncIterator[Self]:
        """Run one, over TLS if it is given a certificate."""
        relay = cls(upstream, trust)
        open_: set[asyncio.Task[None]] = set()

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(relay._connection(reader, writer))
            open_.add(task)
            await asyncio.wait([task])
            open_.discard(task)

        server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=certificate, limit=_CHUNK)
        scheme, host = ("http", "127.0.0.1") if certificate is None else ("https", "localhost")
        relay.url = f"{scheme}://{host}:{server.sockets[0].getsockname()[1]}"
        try:
            yield relay
        finally:
            server.close()
            for task in open_:
                task.cancel()
            await asyncio.gather(*open_, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = urlsplit(self.upstream)
        to, back = await asyncio.open_connection(
            address.hostname, address.port, ssl=self.trust if address.scheme == "https" else None, limit=_CHUNK
        )
        conversation = _Conversation(self.calls)
        try:
            await asyncio.gather(_pump(reader, back, conversation.asked), _pump(to, writer, conversation.answered))
        finally:
            for each in (writer, back):
                each.close()


class _Conversation:
    """One connection: a request, its answer, the next request (HTTP/1.1 without pipelining)."""

    def __init__(self, calls: list[Call]) -> None:
        self._calls = calls
        self._call: Call | None = None

    def asked(self, data: bytes) -> None:
        if self._call is None or self._call.ended:
            method, target, *_ = [*data.split(b"\r\n", 1)[0].decode(errors="replace").split(" "), "", ""]
            self._call = Call(time.time(), method, target)
            self._calls.append(self._call)

    def answered(self, data: bytes) -> None:
        if self._call is not None and not data.startswith(_CONTINUE):
            self._call.ended = time.time()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tell: Callable[[bytes], None]) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_CHUNK):
            tell(data)
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError, RuntimeError):
        writer.close()
