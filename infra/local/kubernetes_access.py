"""The forwarder's way to a Kubernetes API: a kubeconfig's server, trust and identity as one aiohttp session."""

from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import aiohttp

_CONNECT_SECONDS: Final = 10
_CALL_SECONDS: Final = 30


class ClusterUnusable(Exception):
    """The cluster cannot be used as it is; the sentence says what to do."""


class ClusterAccess:
    """Calls a Kubernetes API.

    Attributes:
        server: its URL.
    """

    def __init__(self, server: str, client: Any = None) -> None:
        self.server = server.rstrip("/")
        self._client = client  # a kubernetes_asyncio ApiClient, which knows all ways to be somebody
        self._own_session: aiohttp.ClientSession | None = None

    @classmethod
    async def from_kubeconfig(cls, path: Path | None, context: str | None) -> Self:
        """Read a kubeconfig: the one at `path`, or where kubectl would look.

        Raises:
            ClusterUnusable: there is none, or it cannot be read.
        """
        # Late: it costs half a second, which the demo does not pay.
        from kubernetes_asyncio.client import ApiClient, Configuration  # noqa: PLC0415
        from kubernetes_asyncio.config import ConfigException, load_kube_config  # noqa: PLC0415

        configuration = Configuration()
        configuration.disable_strict_ssl_verification = True  # as shared.kube: some clusters' CAs need it
        try:
            await load_kube_config(
                config_file=None if path is None else str(path),
                context=context,
                client_configuration=configuration,
                persist_config=False,
            )
        except (ConfigException, OSError, ValueError, KeyError, TypeError) as error:
            where = path or "~/.kube/config"
            raise ClusterUnusable(
                f"the kubeconfig {where} cannot be used: {error}. Set KUBECONFIG, or give --kubeconfig and --context"
            ) from None
        return cls(str(configuration.host), ApiClient(configuration))

    async def get(self, path: str, *, accept: str = "application/json", **query: str) -> Any:
        """Return what the API answers to a GET.

        Raises:
            aiohttp.ClientResponseError: it answered no 2xx.
            aiohttp.ClientError, TimeoutError: it did not answer.
        """
        limits = aiohttp.ClientTimeout(total=_CALL_SECONDS, connect=_CONNECT_SECONDS)
        async with await self.open(path, accept=accept, limits=limits, query=query) as response:
            response.raise_for_status()
            return await response.json(content_type=None)

    async def ensure_namespace(self, name: str) -> None:
        """Create a namespace where there is none of that name; who may neither create nor see one has to have it made.

        Raises:
            ClusterUnusable: it is missing, and may not be created.
        """
        headers = {"Content-Type": "application/json"}
        more = await self._authenticated(headers)
        limits = aiohttp.ClientTimeout(total=_CALL_SECONDS, connect=_CONNECT_SECONDS)
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        url = f"{self.server}/api/v1/namespaces"
        async with self._session.post(url, headers=headers, json=body, timeout=limits, **more) as response:
            if response.status in {HTTPStatus.CREATED, HTTPStatus.CONFLICT}:
                return
        try:
            await self.get(f"/api/v1/namespaces/{name}")
        except aiohttp.ClientResponseError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                raise ClusterUnusable(
                    f"namespace {name} is missing, which the Leases of State Stores need, and may not be created:"
                    f" kubectl create namespace {name}"
                ) from None

    async def open(
        self, path: str, *, accept: str, limits: aiohttp.ClientTimeout, query: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        """Begin a GET, and return the response with its body unread."""
        headers = {"Accept": accept}
        more = await self._authenticated(headers)
        return await self._session.get(self.server + path, headers=headers, params=query, timeout=limits, **more)

    async def _authenticated(self, headers: dict[str, str]) -> dict[str, Any]:
        """Add the identity to a request's headers, and return what else its connection needs."""
        if self._client is None:
            return {}
        await self._client.update_params_for_auth(headers, [], ["BearerToken"])
        rest = self._client.rest_client
        return {"proxy": rest.proxy, "server_hostname": rest.server_hostname}

    async def close(self) -> None:
        """Give back connections."""
        if self._client is not None:
            await self._client.close()
        if self._own_session is not None:
            await self._own_session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def _session(self) -> aiohttp.ClientSession:
        if self._client is not None:
            session: aiohttp.ClientSession = self._client.rest_client.pool_manager
            return session
        if self._own_session is None:
            self._own_session = aiohttp.ClientSession(read_bufsize=2**21)
        return self._own_session
