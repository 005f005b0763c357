"""One connection to a Kubernetes API: calls with time-outs and retries, and where the library's errors become ours."""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Coroutine, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final, Self, TypeVar

import aiohttp

from shared.deadline import Deadline
from shared.errors import KubernetesConflict, KubernetesError, KubernetesForbidden, KubernetesUnavailable
from shared.kube.access import Access
from shared.kube.library import ApiClient, ApiException
from shared.settings import Settings

_ATTEMPTS: Final = 4
_MAX_WAIT_SECONDS: Final = 10.0  # longest Retry-After that is waited out; after that the queue does the waiting
_MERGE_PATCH: Final = "application/merge-patch+json"

Object = dict[str, Any]
_Result = TypeVar("_Result")


class Connection:
    """One identity at one Kubernetes API, kept open while the container is warm."""

    def __init__(self, access: Access, client: ApiClient, settings: Settings) -> None:
        self._access = access
        self._client = client
        self._settings = settings
        self._calls = asyncio.Semaphore(settings.kubernetes_concurrency)
        self._refreshing = asyncio.Lock()
        self._retired: ApiClient | None = None
        self._told_time = datetime.now(UTC)  # by the API server's last answer, and when that came:
        self._told_at = time.monotonic()

    @classmethod
    async def connect(cls, access: Access, settings: Settings) -> Self:
        """Find out where the API is and who we are there; nothing is sent to it yet.

        Raises:
            KubernetesError: that cannot be had.
        """
        return cls(access, await access.open(), settings)

    async def close(self) -> None:
        """Give back connections."""
        await self._client.close()
        if self._retired is not None:
            await self._retired.close()

    def now(self) -> datetime:
        """Return the API server's time, up to a second early: its answers tell whole seconds."""
        return self._told_time + timedelta(seconds=time.monotonic() - self._told_at)

    async def call(
        self,
        method: str,
        path: str,
        deadline: Deadline,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        missing_is_none: bool = False,
        accept: str = "application/json",
    ) -> Object | None:
        """Make one call, again where that may help, and return what the API answers.

        Args:
            method: of HTTP.
            path: below the API server's address, quoted.
            deadline: of all attempts together.
            query: parameters.
            body: an object, or for PATCH a merge patch (RFC 7396).
            missing_is_none: whether 404 is an answer, not an error.
            accept: the media type to ask for.

        Raises:
            Gone: what a continued list began with is no longer kept.
            KubernetesConflict: the object is not as it was read, or there is one of that name already.
            KubernetesError: the API refused or could not be reached.
            OutOfTime: the deadline has passed.
        """
        refreshed = False
        attempt = 1
        while True:
            wait = random.uniform(0.1, 0.4) * 2**attempt  # noqa: S311 -- jitter, not a secret
            client = self._client
            try:
                async with self._calls:
                    client = self._client  # it may have been renewed while we waited
                    return await self._request(client, method, path, deadline, query=query, body=body, accept=accept)
            except ApiException as error:
                if error.status == HTTPStatus.NOT_FOUND and missing_is_none:
                    return None
                if error.status == HTTPStatus.UNAUTHORIZED and not refreshed:
                    refreshed = True
                    await self._refresh(client)
                    continue
                failure = _translated(error, method, path, self._access.advice)
                wait = _retry_after(error, wait)
                worth_it = _is_overload(error)
                unreachable = False
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                failure = KubernetesUnavailable(
                    f"the Kubernetes API at {client.configuration.host} did not answer: {_reason(error)}"
                )
                worth_it = unreachable = True
            # A PATCH with a resourceVersion, a GET, a DELETE and a POST of a named Event may all be sent again: where
            # the first one did arrive after all, the second one is told so (409, 404).
            if not worth_it or attempt == _ATTEMPTS or wait > min(_MAX_WAIT_SECONDS, deadline.remaining):
                raise failure from None
            attempt += 1
            await asyncio.sleep(wait)
            if unreachable and not refreshed:  # it may be somewhere else by now
                refreshed = True
                with contextlib.suppress(KubernetesError):
                    await self._refresh(client)

    async def _request(
        self,
        client: ApiClient,
        method: str,
        path: str,
        deadline: Deadline,
        *,
        query: Mapping[str, str] | None,
        body: Object | None,
        accept: str,
    ) -> Object:
        headers = {"Accept": accept}
        if method == "PATCH":
            headers["Content-Type"] = _MERGE_PATCH
        result: Object
        answered: Mapping[str, str]
        result, _, answered = await client.call_api(
            path,
            method,
            query_params=list((query or {}).items()),
            header_params=headers,
            body=body,
            response_types_map={200: "object", 201: "object", 202: "object"},
            auth_settings=["BearerToken"],
            _return_http_data_only=False,
            _request_timeout=deadline.bound(self._settings.kubernetes_timeout_seconds),
        )
        self._keep_time(answered)
        return result

    def _keep_time(self, headers: Mapping[str, str]) -> None:
        """Remember the time that an answer tells (RFC 9110, section 6.6.1)."""
        with contextlib.suppress(KeyError, ValueError, TypeError):
            self._told_time, self._told_at = parsedate_to_datetime(headers["Date"]).astimezone(UTC), time.monotonic()

    async def _refresh(self, refused: ApiClient) -> None:
        """Read the identity again: once, however many calls were refused with the same one."""
        async with self._refreshing:
            if self._client is not refused:
                return
            fresh = await self._access.open()
            if self._retired is not None:
                await self._retired.close()
            self._retired, self._client = refused, fresh  # other calls may still be under way with the old one


async def together(calls: Iterable[Coroutine[Any, Any, _Result]]) -> list[_Result]:
    """Await calls side by side, and return their results in order.

    Where one fails, the others are cancelled and its own error is raised, not a group of one.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


class Gone(KubernetesUnavailable):
    """410: what a continued list began with is no longer kept."""


def _translated(error: ApiException, method: str, path: str, advice: str) -> KubernetesError:
    words = _words(error)
    what = f"Kubernetes answered {error.status} to {method} {path}: {words}"
    if error.status == HTTPStatus.CONFLICT:
        return KubernetesConflict(what)
    if error.status == HTTPStatus.GONE:
        return Gone(what)
    if _is_overload(error):
        return KubernetesUnavailable(what)
    if error.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return KubernetesForbidden(f"{what} ({advice})")
    return KubernetesError(what)


def _is_overload(error: ApiException) -> bool:
    """Whether the API server asks for patience, so that the very same call is worth sending again soon."""
    return bool(error.status == HTTPStatus.TOO_MANY_REQUESTS or error.status >= HTTPStatus.INTERNAL_SERVER_ERROR)


def _words(error: ApiException) -> str:
    """Return the API server's own sentence; a `Status` object's message never quotes a Secret's data."""
    try:
        return str(json.loads(error.body or "")["message"])[:500]
    except (ValueError, KeyError, TypeError):
        return str(error.reason)


def _retry_after(error: ApiException, otherwise: float) -> float:
    try:
        return float(error.headers["Retry-After"]) if error.headers else otherwise
    except (KeyError, ValueError):
        return otherwise


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return f"{type(error).__name__}: {error}"[:300]
