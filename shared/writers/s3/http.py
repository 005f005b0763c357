"""The HTTP side of the bucket writer: who may be talked to, and no redirects."""

import asyncio
import base64
import functools
import hashlib
import socket
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioCredentials
from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.session import AioSession
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import DefaultResolver
from botocore.loaders import Loader, create_loader
from yarl import URL

from shared.errors import StateStoreNotReady
from shared.settings import Settings
from shared.writers.network import check_address
from shared.writers.s3.endpoint import S3Endpoint
from shared.writers.s3.errors import Where, unlike_s3
from shared.writers.s3.put import PutAnswer, Puts
from shared.writers.tls import tls_context

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

# Keep-alive shorter than common servers' and load balancers' (60 s, MinIO 30 s), so that they rarely close first.
_KEEP_ALIVE_SECONDS: Final = 20.0
_MULTIPLE_CHOICES: Final = 300

Networks = Sequence[IPv4Network | IPv6Network]


@dataclass(frozen=True, slots=True)
class AccessKey:
    """The access key that requests are signed with."""

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)


class GuardedResolver(AbstractResolver):
    """Looks names up, and hands on only the addresses that State Stores may use.

    See docs/failure-modes.md#24-forbidden-addresses.
    """

    def __init__(self, allowed: Networks) -> None:
        """Make it in the loop that it is used in.

        Args:
            allowed: networks that the operator allows although they are refused.
        """
        self._allowed = allowed
        self._inner = DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of a host.

        Raises:
            StateStoreNotReady: none of them may be used.
            OSError: it has none.
        """
        good: list[ResolveResult] = []
        refusal: StateStoreNotReady | None = None
        for found in await self._inner.resolve(host, port, family):
            try:
                check_address(found["host"], host, self._allowed)
            except StateStoreNotReady as error:
                refusal = error
            else:
                good.append(found)
        if refusal is not None and not good:
            raise refusal
        return good

    async def close(self) -> None:
        """Close what does the looking up."""
        await self._inner.close()


class GuardedSession(AIOHTTPSession):
    """aiobotocore's HTTP session with our own TLS context, without redirects, and watched by `Puts`.

    aiohttp follows redirects by default, which would take signed headers and documents to hosts that nobody has
    checked; aiobotocore has no option for that, nor for a context.
    """

    def __init__(self, tls: ssl.SSLContext, puts: Puts, where: Where, **kwargs: Any) -> None:
        """Take what is ours before what aiobotocore gives to every session."""
        self._tls = tls
        self._where = where
        self._puts = puts
        self._direct = not kwargs.get("proxies")
        super().__init__(**kwargs)

    async def send(self, request: Any) -> Any:
        """Send a request, and show `Puts` where it went, unless a proxy of the environment's is on the way.

        Raises:
            StateStoreError: what answered is not an S3 server.
        """
        response: Any = await super().send(request)  # its type is botocore's, whose content is no coroutine
        listing = request.method == "GET" and "list-type=2" in request.url
        if listing or (request.method != "HEAD" and response.status_code >= _MULTIPLE_CHOICES):
            body = await response.content
            error = unlike_s3(self._where, response.status_code, response.headers, body, listing=listing)
            if error is not None:
                raise error
        if self._direct:
            self._puts.learn(self, request, response.status_code)
        return response

    async def put(self, url: str, headers: Mapping[str, str], content: bytes) -> PutAnswer:
        """Send a PUT over the same connections as `send`, without what aiobotocore makes and reads around it.

        Raises:
            aiohttp.ClientError, OSError: as aiohttp raises them.
        """
        session = await self._get_session(None)
        response = await session.request("PUT", url=URL(url, encoded=True), headers=headers, data=content)
        async with response:
            return PutAnswer(response.status, response.headers, await response.read())

    def _build_verify_context(self) -> ssl.SSLContext:
        return self._tls

    async def _get_session(self, proxy_url: str | None) -> "_WithoutRedirects":
        return _WithoutRedirects(await super()._get_session(proxy_url))  # type: ignore[misc]  # private


class _WithoutRedirects:
    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def request(self, method: str, **kwargs: Any) -> aiohttp.ClientResponse:
        return await self._session.request(method, allow_redirects=False, **kwargs)


@asynccontextmanager
async def connect(  # noqa: PLR0917 -- what a client is made of
    endpoint: S3Endpoint, credentials: AccessKey | None, settings: Settings, ca: bytes | None, puts: Puts, where: Where
) -> AsyncIterator["S3Client"]:
    """Open a client for an endpoint in the running loop, and close it at the end.

    Args:
        endpoint: where to.
        credentials: None for the function's own role.
        settings: limits, time-outs and what the network may reach.
        ca: PEM of further CAs, the Secret's.
        puts: gets the client's credentials, and where its requests go.
        where: the bucket, for messages.

    Raises:
        StateStoreNotReady: as `tls_context`.
    """
    # Reading the system's CAs takes tens of milliseconds in which other stores' calls can go on.
    tls = await asyncio.to_thread(tls_context, settings.ca_bundle, ca)
    own: dict[str, Any] = {}
    if not endpoint.aws:
        # Newer checksums, on by default, are refused or left out by many servers that are not AWS's.
        own = {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
    session_class: Any = functools.partial(GuardedSession, tls, puts, where)
    config = AioConfig(
        connector_args={
            "keepalive_timeout": _KEEP_ALIVE_SECONDS,
            "resolver": GuardedResolver(settings.allowed_networks),
        },
        http_session_cls=session_class,
        connect_timeout=settings.store_timeout_seconds,
        read_timeout=settings.store_timeout_seconds,
        max_pool_connections=settings.bucket_concurrency,
        retries={"total_max_attempts": 1, "mode": "standard"},  # ours know the deadline
        signature_version="s3v4",
        s3={"addressing_style": "path" if endpoint.url else "auto"},
        ignore_configured_endpoint_urls=True,
        use_dualstack_endpoint=endpoint.dual_stack,
        use_fips_endpoint=endpoint.fips,
        user_agent_extra="landfall",
        **own,
    )
    session = AioSession()
    session.register_component("data_loader", _loader())
    keys: dict[str, Any] = {}
    if credentials is None:
        puts.begin(await session.get_credentials())
    else:
        access, secret = credentials.access_key_id, credentials.secret_access_key
        keys = {"aws_access_key_id": access, "aws_secret_access_key": secret}
        puts.begin(AioCredentials(access, secret))
    opening = session.create_client(
        "s3",
        region_name=endpoint.region,
        endpoint_url=endpoint.url,
        use_ssl=not endpoint.insecure,
        verify=True,
        config=config,
        **keys,
    )
    async with opening as client:
        events = client.meta.events
        events.register_last("before-parameter-build.s3", _ask_once_for_the_region)
        events.register("before-call.s3.DeleteObjects", _add_md5)
        yield client


def _ask_once_for_the_region(model: Any, context: dict[str, Any], **_: Any) -> None:
    """Keep botocore from asking for the region that a redirect leads to again and again.

    It answers a redirect with HeadBucket, and a redirect of that too, without end where a server always redirects.
    """
    if model.name == "HeadBucket":
        context["s3_redirect"]["redirected"] = True


def _add_md5(params: dict[str, Any], **_: Any) -> None:
    """Add what servers ask for that know none of the newer checksums; DeleteObjects has no parameter for it."""
    md5 = hashlib.md5(params["body"], usedforsecurity=False).digest()
    params["headers"].setdefault("Content-MD5", base64.b64encode(md5).decode())


@functools.cache
def _loader() -> Loader:
    """One for all clients: it keeps S3's description, which takes a tenth of a second to read."""
    return create_loader()
