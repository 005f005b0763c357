"""How the cluster is watched: kopf's watch-streams, over a session of ours that asks for metadata where that is enough.

kopf lists and watches, goes on after lost connections where it was, and lists again after 410 Gone.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import kopf

from infra.forwarder.changes import GROUP, KINDS, VERSION, Changes, Kind
from infra.forwarder.outbox import Outbox
from infra.forwarder.settings import Settings, WrongSetting

_LOGIN_SECONDS: Final = 5.0  # between two logins: what is refused now is refused a moment later
_CALL: Final = aiohttp.ClientTimeout(total=30, connect=10)
_ASK_AGAIN_SECONDS: Final = 10.0

_log = logging.getLogger("landfall.forwarder")


@dataclass
class Watch:
    """The state of the watch of one kind.

    Attributes:
        opened: how many watches the API server has begun to answer.
        failures: how many lists and watches it refused or did not answer.
        is_open: whether it has answered the last list or watch.
    """

    opened: int = 0
    failures: int = 0
    is_open: bool = False


class Watches:
    """The state of all watches, as the session that they go through sees it.

    Attributes:
        by_plural: for each kind that is watched, by its plural name.
    """

    def __init__(self, kinds: Iterable[Kind]) -> None:
        self._kinds = list(kinds)
        self.by_plural = {kind.plural: Watch() for kind in self._kinds}

    @property
    def all_open(self) -> bool:
        """Whether every kind is watched now."""
        return all(watch.is_open and watch.opened for watch in self.by_plural.values())

    async def follow(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Ask for no more than a kind's metadata where that is enough, and note what became of the request."""
        kind = next((kind for kind in self._kinds if request.url.path.endswith(kind.path)), None)
        if kind is None:
            return await handler(request)
        is_watch = "watch" in request.url.query
        request.headers["Accept"] = kind.accept(watch=is_watch)
        watch = self.by_plural[kind.plural]
        watch.is_open = False
        try:
            response = await handler(request)
        except BaseException:
            watch.failures += 1
            raise
        watch.is_open = response.ok
        watch.opened += response.ok and is_watch
        watch.failures += not response.ok
        return response


class _Backoffs:
    """Seconds between the tries of one request, without an end: a restart would not help, and lists everything anew."""

    def __iter__(self) -> Iterator[float]:
        seconds = 0.5
        while True:
            yield seconds
            seconds = min(seconds * 2, 15.0)


def kopf_settings() -> kopf.OperatorSettings:
    """Return how kopf has to work here: it only watches, writes nothing to the cluster and has no peers."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True  # or it would need rights on CRDs and namespaces
    settings.networking.error_backoffs = _Backoffs()
    settings.networking.request_timeout = 120.0  # a list of very many objects in one piece
    settings.networking.connect_timeout = _CALL.connect
    return settings


def handlers(settings: Settings, outbox: Outbox, watches: Watches) -> kopf.OperatorRegistry:
    """Return kopf's handlers: they put events into the outbox, and show its state."""
    registry = kopf.OperatorRegistry()
    changes = Changes()
    last_login = -_LOGIN_SECONDS

    @kopf.on.login(registry=registry)
    async def log_in(**_: Any) -> kopf.AiohttpSession:
        nonlocal last_login
        await asyncio.sleep(max(0.0, last_login + _LOGIN_SECONDS - time.monotonic()))
        last_login = time.monotonic()
        return connect(watches)

    @kopf.on.probe(registry=registry, id="outbox")
    async def show(**_: Any) -> dict[str, Any]:
        return outbox.state()

    async def forward(*, event: kopf.RawEvent, param: Any = None, **_: Any) -> None:
        found = changes.see(param, event["type"], event["object"])
        if found is not None:
            outbox.put(found)

    for kind in watched(settings):
        kopf.on.event(kind.group, kind.version, kind.plural, id=kind.plural, param=kind, registry=registry)(forward)
    return registry


def watched(settings: Settings) -> list[Kind]:
    """Return the kinds to watch."""
    return [kind for kind in KINDS if settings.secrets or kind.kind != "Secret"]


def connect(watches: Watches) -> kopf.AiohttpSession:
    """Open a session: with the pod's service account, or else with the current context of KUBECONFIG.

    Args:
        watches: that go through it.

    Raises:
        WrongSetting: there is neither.
    """
    settings = kopf_settings()
    found = kopf.login_with_service_account(settings=settings) or kopf.login_with_kubeconfig(settings=settings)
    if found is None:
        raise WrongSetting("there is no service account here and KUBECONFIG is not set: set it, or run in a cluster")
    trust = found.as_ssl_context()
    trust.verify_flags &= ~ssl.VERIFY_X509_STRICT  # the CAs of some clusters lack what Python 3.13 asks for
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=trust),
        headers=found.as_http_headers(),
        proxy=found.proxy_url,
        middlewares=(watches.follow,),
        response_class=_Response,
    )
    return kopf.AiohttpSession(server=found.server, default_namespace=found.default_namespace, aiohttp_session=session)


async def wait_for_kinds() -> None:
    """Wait until the cluster serves our kinds, and log which are missing."""
    while True:
        connection = connect(Watches(()))
        try:
            missing = await _missing(connection)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            _log.error("the Kubernetes API at %s: %s", connection.server, str(error) or type(error).__name__)
        else:
            if not missing:
                return
            _log.error("the cluster does not know %s: kubectl apply -f infra/kubernetes/crds/", ", ".join(missing))
        finally:
            await connection.aiohttp_session.close()
        await asyncio.sleep(_ASK_AGAIN_SECONDS)


async def _missing(connection: kopf.AiohttpSession) -> list[str]:
    path = f"{connection.server.rstrip('/')}/apis/{GROUP}/{VERSION}"
    async with connection.aiohttp_session.get(path, timeout=_CALL) as response:
        found: dict[str, Any] = {} if response.status == 404 else await _json(response)  # noqa: PLR2004 -- not found
    known = {resource["name"] for resource in found.get("resources", ())}
    return [kind.plural for kind in KINDS if kind.group == GROUP and kind.plural not in known]


async def _json(response: aiohttp.ClientResponse) -> Any:
    response.raise_for_status()
    return await response.json()


class _Response(aiohttp.ClientResponse):
    """An empty list of metadata has null for items, which kopf takes for a list."""

    async def json(self, **options: Any) -> Any:
        answer = await super().json(**options)
        if isinstance(answer, dict) and "items" in answer:
            answer["items"] = answer["items"] or []
        return answer
