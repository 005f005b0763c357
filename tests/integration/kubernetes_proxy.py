"""Stands between the functions and kube-apiserver: counts what is asked, and answers what no server can be made to."""

import asyncio
import contextlib
import json
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web
from yarl import URL

from tests.servers.kubernetes import KubernetesApi

_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding", "server", "date"}


@dataclass(frozen=True)
class Asked:
    """A request as it came.

    Attributes:
        verb: as RBAC names it: get, list, create, patch, delete.
        resource: plural name, with `/status` for the subresource.
        name: empty for a list.
        subject: the name, or of an object that is to be created its own.
    """

    verb: str
    resource: str
    name: str
    method: str
    query: dict[str, str]
    authorization: str = field(default="", repr=False)
    subject: str = ""

    def is_(self, verb: str, resource: str, name: str = "") -> bool:
        """Whether it is that call, on that object if one is named."""
        return (self.verb, self.resource) == (verb, resource) and name in {"", self.name}


@dataclass
class Answer:
    """What goes back; `cut` resets the connection instead."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False

    @classmethod
    def error(cls, status: int, reason: str, message: str, **headers: str) -> "Answer":
        """Make an error as the API server sends it."""
        body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status}
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return cls(
            status,
            json.dumps({**body, "reason": reason, "message": message}).encode(),
            {"Content-Type": "application/json", **headers},
        )


CUT = Answer(cut=True)
Forward = Callable[[], Awaitable[Answer]]
Fault = Callable[[Asked, Forward], Awaitable[Answer | None]]


@dataclass
class KubernetesProxy:
    """A running proxy.

    `bytes_read` is the size of all answers' bodies. `fault`, while it is set, is asked about every request: it answers
    itself, or returns None for the real answer; it may call what it is given to let the real server act first.
    """

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    bytes_read: int = 0
    fault: Fault | None = None

    @property
    def calls(self) -> Counter[str]:
        """How often each verb was asked for on each resource."""
        return Counter(f"{asked.verb} {asked.resource}" for asked in self.asked)

    def reset(self) -> None:
        """Forget what was asked, and be transparent."""
        self.asked.clear()
        self.bytes_read = 0
        self.fault = None

    def fail(self, verb: str, resource: str, name: str = "", *answers: Answer) -> list[Answer]:
        """Answer the next such calls like this, one after the other; return what is left of the answers."""
        left = list(answers)

        async def fault(asked: Asked, forward: Forward) -> Answer | None:
            return left.pop(0) if left and asked.is_(verb, resource, name) else None

        self.fault = fault
        return left

    def down(self) -> None:
        """Cut every connection, as an API that is not there."""

        async def fault(asked: Asked, forward: Forward) -> Answer | None:
            return CUT

        self.fault = fault


@contextlib.asynccontextmanager
async def kubernetes_proxy(api: KubernetesApi) -> AsyncIterator[KubernetesProxy]:
    """Run a proxy in the test's own loop; without watches, which the forwarder has with the real server."""
    proxy = KubernetesProxy()
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(api.ca)), limit=0)
    session = aiohttp.ClientSession(connector=connector, auto_decompress=False)

    async def handle(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        asked = _read(request, body)
        proxy.asked.append(asked)

        async def forward() -> Answer:
            headers = {key: value for key, value in request.headers.items() if key.lower() not in {*_HOP, "host"}}
            headers["Accept-Encoding"] = "identity"
            url = URL(api.url + request.raw_path, encoded=True)
            async with session.request(request.method, url, headers=headers, data=body) as reply:
                kept = {key: value for key, value in reply.headers.items() if key.lower() not in _HOP}
                return Answer(reply.status, await reply.read(), kept)

        answer = None if proxy.fault is None else await proxy.fault(asked, forward)
        answer = answer or await forward()
        proxy.bytes_read += len(answer.body)
        if answer.cut:
            assert request.transport is not None
            request.transport.abort()
        return web.Response(status=answer.status, body=answer.body, headers=answer.headers)

    application = web.Application(client_max_size=64 * 1024 * 1024)
    application.router.add_route("*", "/{tail:.*}", handle)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        proxy.url = f"http://{host}:{port}"
        yield proxy
    finally:
        await runner.cleanup()
        await session.close()
        await asyncio.sleep(0)  # for the connector's transports to be closed


def _read(request: web.Request, body: bytes) -> Asked:
    parts = urlsplit(request.raw_path).path.strip("/").split("/")
    rest = parts[2:] if parts[0] == "api" else parts[3:]
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        rest = rest[2:]
    resource, name, *sub = [*rest, "", ""][:3]
    verb = {"GET": "get" if name else "list", "POST": "create"}.get(request.method, request.method.lower())
    subresource = "/".join(part for part in [resource, *sub] if part)
    authorization = request.headers.get("Authorization", "")
    subject = name
    if verb == "create":
        with contextlib.suppress(ValueError, KeyError, TypeError):
            subject = str(json.loads(body)["metadata"]["name"])
    return Asked(verb, subresource, name, request.method, dict(request.query), authorization, subject)
