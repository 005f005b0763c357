"""Stands before a real S3 server, counts what is asked, and makes it fail as real servers cannot be made to."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web
from yarl import URL

from tests.contract.harness import BucketStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from shared.writers.base import Writer
    from tests.servers.s3 import Minio, S3Server

    Forward = Callable[[], Awaitable["Answer"]]
    Fault = Callable[["Asked", Forward], Awaitable["Answer | None"]]


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    operation: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def keys(self) -> list[str]:
        """Return the keys of a DeleteObjects."""
        return re.findall(r"<Key>(.*?)</Key>", self.body.decode())


@dataclass
class Answer:
    """What goes back; `cut` closes the connection instead."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False

    @classmethod
    def error(cls, status: int, code: str, message: str = "no", extra: str = "") -> Answer:
        """Make an error as S3 sends it."""
        body = f"<Error><Code>{code}</Code><Message>{message}</Message>{extra}</Error>"
        return cls(status, body.encode(), {"Content-Type": "application/xml"})


@dataclass
class FaultProxy:
    """A running proxy.

    `fault`, while it is set, is asked about every request: it answers itself, or returns None for the real answer;
    it may call what it is given to let the real server act first.
    """

    endpoint: str
    asked: list[Asked] = field(default_factory=list)
    fault: Fault | None = None

    @property
    def operations(self) -> Counter[str]:
        """How often each operation was asked for."""
        return Counter(each.operation for each in self.asked)

    def fail(self, operation: str, *answers: Answer) -> None:
        """Answer the next calls of an operation like this, one after the other, and the later ones for real."""
        left = list(answers)

        async def fault(asked: Asked, forward: Forward) -> Answer | None:
            del forward
            return left.pop(0) if asked.operation == operation and left else None

        self.fault = fault

    def fail_always(self, answer: Answer) -> None:
        """Answer every call like this."""

        async def fault(asked: Asked, forward: Forward) -> Answer | None:
            del asked, forward
            return answer

        self.fault = fault


@contextlib.asynccontextmanager
async def fault_proxy(server: S3Server) -> AsyncIterator[FaultProxy]:
    """Run a proxy in the test's own loop."""
    proxy = FaultProxy("")
    session = aiohttp.ClientSession(auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar())

    async def handle(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        asked = Asked(_operation(request), request.raw_path, dict(request.headers), body)
        proxy.asked.append(asked)

        async def forward() -> Answer:
            headers = {key: value for key, value in request.headers.items() if key.lower() not in _HOP}
            url = URL(server.url + request.raw_path, encoded=True)
            async with session.request(request.method, url, headers=headers, data=body, allow_redirects=False) as reply:
                kept = {key: value for key, value in reply.headers.items() if key.lower() not in _HOP}
                return Answer(reply.status, await reply.read(), kept)

        answer = None if proxy.fault is None else await proxy.fault(asked, forward)
        answer = answer or await forward()
        if answer.cut:
            assert request.transport is not None
            request.transport.abort()
        headers = dict(answer.headers)
        if request.method != "HEAD":  # the length of what GET would give stays in the others
            headers = {key: value for key, value in headers.items() if key.lower() != "content-length"}
        return web.Response(status=answer.status, body=answer.body or None, headers=headers)

    application = web.Application(client_max_size=64 * 1024 * 1024)
    application.router.add_route("*", "/{tail:.*}", handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        proxy.endpoint = f"{host}:{port}"
        yield proxy
    finally:
        await runner.cleanup()
        await session.close()


_HOP = {"connection", "keep-alive", "transfer-encoding", "server", "date"}


def _operation(request: web.Request) -> str:
    match request.method, set(request.query):
        case "GET", query if "list-type" in query:
            return "List"
        case "POST", query if "delete" in query:
            return "DeleteObjects"
        case "POST", query if "uploads" in query:
            return "CreateMultipartUpload"
        case method, _:
            return {"GET": "Get", "PUT": "Put", "HEAD": "Head", "DELETE": "Delete"}.get(method, method)


class Faulty(BucketStore):
    """A bucket of a real server that is reached through the proxy."""

    def __init__(self, server: Minio, proxy: FaultProxy) -> None:
        super().__init__(server)
        self.proxy = proxy

    def writer(self, **more: Any) -> Writer:
        return super().writer(**{"endpoint": self.proxy.endpoint, **more})
