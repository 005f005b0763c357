"""One connection to a Kubernetes API: calls with time-outs and retries, and where the library's errors become ours."""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Final, Self, TypeVar

import aiohttp

from shared.deadline import Deadline
from shared.errors import KubernetesError, KubernetesUnavailable, LandfallError
from shared.kube.access import Access
from shared.kube.answers import Answer, Kind, Object, checked, is_overload, retry_after, translated
from shared.kube.library import ApiClient
from shared.observability import log_unexpected
from shared.settings import Settings

# Of one response: twice what a page of a list is meant to have, and ten times the largest object that etcd takes.
MAX_RESPONSE_BYTES: Final = 16 * 1024 * 1024

_ATTEMPTS: Final = 4
_MAX_WAIT_SECONDS: Final = 10.0  # longest Retry-After that is waited out; after that the queue does the waiting
_ROUNDING_SECONDS: Final = 2.0  # by which the time of an answer may be early, with its way to us
_MERGE_PATCH: Final = "application/merge-patch+json"

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
        kinds: Collection[Kind],
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        accept: str = "application/json",
        measure: Callable[[int], None] | None = None,
    ) -> Object:
        """Make one call, again where that may help, and return what the API answers.

        Args:
            method: of HTTP.
            path: below the API server's address, quoted.
            deadline: of all attempts together.
            kinds: what the answer may be; anything else is not the API server's.
            query: parameters.
            body: an object, or for PATCH a merge patch (RFC 7396).
            accept: the media type to ask for.
            measure: gets the bytes of the answer.

        Raises:
            NotFound: the API server says that the object, or its namespace, does not exist.
            Gone: what a continued list began with is no longer kept.
            NotKubernetes: something else than the API server has answered.
            ResponseTooLarge: the answer is over the bound of one response.
            KubernetesConflict: the object is not as it was read, or there is one of that name already.
            KubernetesForbidden: our identity may not make the call.
            KubernetesError: the API refused or could not be reached.
            OutOfTime: the deadline has passed.
        """
        refreshed = False
        attempt = 1
        what = f"{method} {path}"
        while True:
            wait = random.uniform(0.1, 0.4) * 2**attempt  # noqa: S311 -- jitter, not a secret
            client = self._client
            try:
                async with self._calls:
                    client = self._client  # it may have been renewed while we waited
                    answer = await self._request(client, method, path, deadline, query=query, body=body, accept=accept)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                failure: KubernetesError = KubernetesUnavailable(
                    f"the Kubernetes API at {client.configuration.host} did not answer: {_reason(error)}"
                )
                worth_it = unreachable = True
            else:
                host = str(client.configuration.host)
                if answer.status < HTTPStatus.MULTIPLE_CHOICES:
                    if measure is not None:
                        measure(len(answer.body))
                    return checked(answer, kinds, what, host)
                if answer.status == HTTPStatus.UNAUTHORIZED and not refreshed:
                    refreshed = True
                    await self._refresh(client)
                    continue
                failure = translated(answer, what, host, self._access.advice)
                wait = retry_after(answer, wait)
                worth_it = is_overload(answer.status)
                unreachable = False
            # A PATCH with a resourceVersion, a GET, a DELETE and a POST of a named object may all be sent again: where
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
    ) -> Answer:
        headers = {"Accept": accept}
        if method == "PATCH":
            headers["Content-Type"] = _MERGE_PATCH
        # The library would read a response of any size, decode it to text and log it (Secrets, too) at DEBUG.
        response: aiohttp.ClientResponse = await client.call_api(
            path,
            method,
            query_params=list((query or {}).items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _request_timeout=deadline.bound(self._settings.kubernetes_timeout_seconds),
        )
        try:
            content = await _read_within(response, f"{method} {path}")
        finally:
            response.close() if not response.content.at_eof() else response.release()
        self._keep_time(response.headers)
        return Answer(response.status, response.reason or "", response.headers, content)

    def _keep_time(self, headers: Mapping[str, str]) -> None:
        """Remember the time that an answer tells (RFC 9110, section 6.6.1)."""
        with contextlib.suppress(KeyError, ValueError, TypeError):
            told, known = parsedate_to_datetime(headers["Date"]).astimezone(UTC), self.now()
            # Whole seconds are a lower bound, so the later of two is nearer to the truth, unless a clock was set back.
            if told > known or known - told > timedelta(seconds=_ROUNDING_SECONDS):
                self._told_time, self._told_at = told, time.monotonic()

    async def _refresh(self, refused: ApiClient) -> None:
        """Read the identity again: once, however many calls were refused with the same one."""
        async with self._refreshing:
            if self._client is not refused:
                return
            fresh = await self._access.open()
            if self._retired is not None:
                await self._retired.close()
            self._retired, self._client = refused, fresh  # other calls may still be under way with the old one


class ResponseTooLarge(KubernetesError):
    """A response over `MAX_RESPONSE_BYTES`; a list is asked for in smaller pages then."""


async def _read_within(response: aiohttp.ClientResponse, what: str) -> bytes:
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > MAX_RESPONSE_BYTES:
            raise ResponseTooLarge(f"the answer to {what} is over {MAX_RESPONSE_BYTES} bytes")
    return bytes(content)


async def together(calls: Iterable[Coroutine[Any, Any, _Result]]) -> list[_Result]:
    """Await calls side by side that are of no use in part, and return their results in order.

    Where one fails, the others are cancelled and its own error is raised, not a group of one. Calls about different
    objects of a batch belong into `each`.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


async def each(calls: Iterable[Coroutine[Any, Any, _Result]]) -> list[_Result | Exception]:
    """Await calls side by side, each for itself, and return in order what it returned or the error that it raised.

    An error that is not ours is logged here, with its type and place alone, so that callers may treat all alike.
    """

    async def settle(call: Coroutine[Any, Any, _Result]) -> _Result | Exception:
        try:
            return await call
        except LandfallError as error:
            return error
        except Exception as error:  # noqa: BLE001 -- whatever it was, it is this one call's
            log_unexpected("one of several calls", error)
            return error

    return await together(settle(call) for call in calls)


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return f"{type(error).__name__}: {error}"[:300]
