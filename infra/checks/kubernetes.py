"""A Kubernetes API as the checks use it: one call, its status and its body."""

import asyncio
import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import aiohttp

from infra.checks.lines import NotChecked
from shared.errors import KubernetesError
from shared.kube.access import Access
from shared.kube.library import ApiClient, ApiException

_SECONDS: Final = 15.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API server answered: the status of HTTP, and an object or a `Status`."""

    status: int
    body: dict[str, Any]

    @property
    def message(self) -> str:
        """The API server's own sentence; a `Status` never quotes a Secret's data."""
        return str(self.body.get("message", ""))[:300]


class Kubernetes:
    """One identity at one Kubernetes API."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self.server = str(client.configuration.host).rstrip("/")

    @classmethod
    async def connect(cls, access: Access) -> "Kubernetes":
        """Read endpoint and identity; nothing is sent to the API yet.

        Raises:
            NotChecked: they cannot be had.
        """
        try:
            return cls(await access.open())
        except KubernetesError as error:
            raise NotChecked(str(error)) from None

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: dict[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Answer:
        """Make one call and return the answer, whatever its status.

        Args:
            method: of HTTP.
            path: below the API server's address, quoted.
            body: an object; for PATCH as its content type says.
            query: parameters.
            content_type: of the body.

        Raises:
            NotChecked: the API server did not answer.
        """
        headers = {"Accept": "application/json", "Content-Type": content_type}
        try:
            async with asyncio.timeout(_SECONDS):
                found = await self._client.call_api(
                    path,
                    method,
                    query_params=list((query or {}).items()),
                    header_params=headers,
                    body=body,
                    response_types_map={200: "object", 201: "object", 202: "object"},
                    auth_settings=["BearerToken"],
                    _return_http_data_only=False,
                    _request_timeout=_SECONDS,
                )
        except ApiException as error:
            return Answer(error.status, _status(error))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NotChecked(
                f"the Kubernetes API at {self.server} did not answer from here ({type(error).__name__})"
            ) from None
        data, status, _ = found
        return Answer(status, data or {})

    async def read(self, path: str, **query: str) -> dict[str, Any] | None:
        """Return what a GET answers, or None for 404.

        Raises:
            NotChecked: the identity may not read it, or the API server did not answer.
        """
        answer = await self.call("GET", path, query=query)
        if answer.status == HTTPStatus.NOT_FOUND:
            return None
        self.require(answer, f"GET {path}")
        return answer.body

    @staticmethod
    def require(answer: Answer, what: str) -> None:
        """Check that a call was carried out.

        Raises:
            NotChecked: it was refused.
        """
        if answer.status >= HTTPStatus.BAD_REQUEST:
            raise NotChecked(f"Kubernetes answered {answer.status} to {what}: {answer.message}")

    async def close(self) -> None:
        """Give back connections."""
        await self._client.close()


def _status(error: ApiException) -> dict[str, Any]:
    try:
        found = json.loads(error.body or "")
    except ValueError:
        found = None
    return found if isinstance(found, dict) else {"message": str(error.reason)}
