"""One bucket, one client: calls within the deadline, tried again where that can help, errors translated."""

import asyncio
import contextlib
import functools
import random
import re
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from botocore.exceptions import ClientError

from shared.deadline import Deadline
from shared.errors import AccessDenied, LandfallError, OutOfTime, StoreUnavailable, TooLarge
from shared.settings import Settings
from shared.writers.s3 import errors as s3_errors
from shared.writers.s3.endpoint import S3Endpoint
from shared.writers.s3.errors import Where
from shared.writers.s3.http import AccessKey, connect
from shared.writers.s3.put import DIGEST_METADATA, Puts
from shared.writers.words import Redactor

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

_Result = TypeVar("_Result")
_Item = TypeVar("_Item")

DELETE_AT_ONCE: Final = 1000  # DeleteObjects takes no more
_MD5: Final = re.compile("[0-9a-f]{32}")
_CHUNK_BYTES: Final = 256 * 1024
_BACKOFF_SECONDS: Final = 0.1  # doubled each time, then a random part of it, so that a crowd does not come back at once
_BACKOFF_MAX_SECONDS: Final = 5.0
# Answers of servers that do not do DeleteObjects, or not with these keys: each key then gets a call of its own.
_NO_BULK_DELETE: Final = frozenset(
    {
        "InvalidDigest", "InvalidRequest", "MalformedXML", "MethodNotAllowed", "MissingContentMD5", "NotImplemented",
        "BadDigest", "XAmzContentSHA256Mismatch", "405", "501",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """An object as a listing shows it: its ETag without quotes, and its size in bytes."""

    etag: str
    size: int


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a listing; `next` continues it, None at its end."""

    entries: dict[str, Entry]
    next: str | None


class Bucket:
    """A bucket and the credentials for it; the client is made by the first call, in its loop.

    Every method raises `StateStoreError` where the store cannot do what is asked, and `OutOfTime` where the deadline
    is the reason that it was not done.
    """

    def __init__(
        self,
        name: str,
        endpoint: S3Endpoint,
        credentials: AccessKey | None,
        settings: Settings,
        ca: bytes | None = None,
    ) -> None:
        """Remember the settings; nothing is sent.

        Args:
            name: the bucket's.
            endpoint: where it is.
            credentials: None for the function's own role.
            settings: limits, time-outs and what the network may reach.
            ca: PEM of further CAs, the Secret's.
        """
        self.name = name
        hidden = () if credentials is None else (credentials.access_key_id, credentials.secret_access_key)
        self.where = Where(name, endpoint.host, endpoint.insecure, Redactor(hidden))
        self._settings = settings
        self._puts = Puts(name, checksums=endpoint.aws)
        self._connect = functools.partial(connect, endpoint, credentials, settings, ca, self._puts, self.where)
        self._client: S3Client | None = None
        self._opening = asyncio.Lock()
        self._slots = asyncio.Semaphore(settings.bucket_concurrency)
        self._stack = AsyncExitStack()
        self._deletes_in_bulk = True
        self.in_doubt = False  # whether a call that changes something was cut off, and may still take effect

    async def list(self, prefix: str, deadline: Deadline, *, token: str | None = None, max_keys: int = 1000) -> Page:
        """Return one page of the objects whose keys begin with a prefix, in the order of their keys."""
        more: Any = {"ContinuationToken": token} if token else {}
        reply = await self._call(
            deadline, lambda s3: s3.list_objects_v2(Bucket=self.name, Prefix=prefix, MaxKeys=max_keys, **more)
        )
        entries = {
            item["Key"]: Entry(item.get("ETag", "").strip('"'), item.get("Size", 0))
            for item in reply.get("Contents", ())
        }
        if reply.keys().isdisjoint({"Name", "KeyCount"}):  # an empty page of some web server is no empty bucket
            raise s3_errors.no_s3(self.where)
        following = reply.get("NextContinuationToken") if reply.get("IsTruncated") else None
        if (
            reply.get("IsTruncated") and not following
        ):  # what is not known to be there would be neither kept nor deleted
            raise StoreUnavailable(
                f"{self.where} gave a part of a listing and no way to its rest: use a server that has ListObjectsV2"
            )
        return Page(entries, following)

    async def content_digest(self, key: str, deadline: Deadline) -> str | None:
        """Return the SHA-256 that we put beside an object whose ETag is not its MD5; otherwise None.

        Only then does it count: a server was seen to keep an object's metadata when others overwrite its content.
        """

        async def head(s3: "S3Client") -> str | None:
            try:
                reply = await s3.head_object(Bucket=self.name, Key=key)
            except ClientError as error:
                if s3_errors.code_of(error) in {"404", "NoSuchKey"}:
                    return None
                raise
            encrypted = "kms" in reply.get("ServerSideEncryption", "") or "SSECustomerAlgorithm" in reply
            if _MD5.fullmatch(reply["ETag"].strip('"')) and not encrypted:
                return None
            return reply["Metadata"].get(DIGEST_METADATA)

        return await self._call(deadline, head)

    async def put(self, key: str, content: bytes, deadline: Deadline) -> None:
        """Write an object; repeating it does no harm, so an unknown outcome is settled by repetition."""
        if not await self._call(deadline, lambda s3: self._puts.put(s3, key, content), changes=True):
            raise s3_errors.no_s3(self.where)

    async def get(self, key: str, deadline: Deadline, read: Callable[[int], None]) -> bytes | None:
        """Return an object's content, or None where there is no such object.

        Args:
            key: of the object.
            deadline: for the call.
            read: called with the bytes of each piece; raises where they are too many with those of other objects.

        Raises:
            TooLarge: it is over `settings.max_file_bytes`.
        """
        limit = self._settings.max_file_bytes

        async def fetch(s3: "S3Client") -> bytes | None:
            try:
                reply = await s3.get_object(Bucket=self.name, Key=key)
            except ClientError as error:
                if s3_errors.code_of(error) == "NoSuchKey":
                    return None
                raise
            content = bytearray()
            async with reply["Body"] as body:
                async for chunk in body.iter_chunks(_CHUNK_BYTES):
                    read(len(chunk))
                    content += chunk
                    if len(content) > limit:
                        raise TooLarge(
                            f"{self.where}: {key!r} is over {limit} bytes: remove it, or let the operator raise"
                            " LANDFALL_MAX_FILE_BYTES"
                        )
            return bytes(content)

        try:
            return await self._call(deadline, fetch)
        except AccessDenied:
            # S3 says so of what is not there, too, to those who may not list all of it (API reference, GetObject).
            if key in (await self.list(key, deadline, max_keys=1)).entries:
                raise
            return None

    async def delete(self, keys: Collection[str], deadline: Deadline) -> dict[str, LandfallError]:
        """Delete objects, and return the errors of those that could not be; one that is not there is no error."""
        errors: dict[str, LandfallError] = {}
        ordered = sorted(keys)
        batches = [tuple(ordered[at : at + DELETE_AT_ONCE]) for at in range(0, len(ordered), DELETE_AT_ONCE)]

        async def one(batch: Sequence[str]) -> None:
            errors.update(await self._delete_batch(batch, deadline))

        for batch, error in (await self.each(batches, one)).items():
            errors.update(dict.fromkeys(batch, error))
        return errors

    async def prove_writing(self, key: str, deadline: Deadline) -> None:
        """Start a multipart upload and abort it, which writes nothing and needs the permission to write.

        Writes need no permission to abort. Without it an empty upload stays, which costs nothing and which a lifecycle
        rule of the bucket's can take away.
        """
        upload = await self._call(deadline, lambda s3: s3.create_multipart_upload(Bucket=self.name, Key=key))

        async def abort(s3: "S3Client") -> None:
            try:
                await s3.abort_multipart_upload(Bucket=self.name, Key=key, UploadId=upload["UploadId"])
            except ClientError as error:
                if s3_errors.code_of(error) != "NoSuchUpload":  # a repetition of an abort that was done
                    raise

        with contextlib.suppress(AccessDenied):
            await self._call(deadline, abort)

    async def each(
        self, items: Iterable[_Item], work: Callable[[_Item], Awaitable[None]], *, all_or_nothing: bool = False
    ) -> dict[_Item, LandfallError]:
        """Do work for each item, so many at once as the settings allow, and return the errors by item.

        A store that is unavailable for one item, after all repetitions, is not asked for those that have not begun;
        neither is any store after any error, where `all_or_nothing`.
        """
        errors: dict[_Item, LandfallError] = {}
        left = iter(items)
        down: LandfallError | None = None

        async def worker() -> None:
            nonlocal down
            for item in left:
                if down is not None:
                    errors[item] = down
                    continue
                try:
                    await work(item)
                except LandfallError as error:
                    errors[item] = error
                    if all_or_nothing or isinstance(error, StoreUnavailable):
                        down = error

        async with asyncio.TaskGroup() as group:
            for _ in range(self._settings.bucket_concurrency):
                group.create_task(worker())
        return errors

    async def close(self) -> None:
        """Close the client and its connections."""
        self._client = None
        await self._stack.aclose()

    async def _delete_batch(self, keys: Sequence[str], deadline: Deadline) -> dict[str, LandfallError]:
        errors: dict[str, LandfallError] = {}
        left: Sequence[str] = keys
        attempt = 0
        while True:
            objects: Any = [{"Key": key} for key in left]
            delete = functools.partial(self._delete_objects, objects)
            reply = await self._call(deadline, delete, changes=True) if self._deletes_in_bulk else None
            if reply is None:
                self._deletes_in_bulk = False
                return errors | await self._delete_singly(left, deadline)
            failed = {entry.get("Key", ""): entry.get("Code", "") for entry in reply.get("Errors", ())}
            codes = {key: code for key, code in failed.items() if code not in {"NoSuchKey", "NoSuchVersion"}}
            again = [key for key in left if s3_errors.is_retried_code(codes.get(key, ""))]
            said = {entry.get("Key", ""): entry.get("Message", "") for entry in reply.get("Errors", ())}
            errors |= {key: s3_errors.for_code(code, self.where, message=said[key]) for key, code in codes.items()}
            attempt += 1
            if not again or attempt == s3_errors.SERVER_ATTEMPTS or not await _pause(attempt, deadline):
                return errors
            left = again
            for key in left:
                del errors[key]

    async def _delete_objects(self, objects: Any, s3: "S3Client") -> Mapping[str, Any] | None:
        try:
            return await s3.delete_objects(Bucket=self.name, Delete={"Objects": objects, "Quiet": True})
        except ClientError as error:
            if s3_errors.code_of(error) in _NO_BULK_DELETE:
                return None
            raise

    async def _delete_singly(self, keys: Sequence[str], deadline: Deadline) -> dict[str, LandfallError]:
        async def one(key: str) -> None:
            await self._call(deadline, lambda s3: s3.delete_object(Bucket=self.name, Key=key), changes=True)

        return await self.each(keys, one)

    async def _call(
        self, deadline: Deadline, operation: Callable[["S3Client"], Awaitable[_Result]], *, changes: bool = False
    ) -> _Result:
        """Make a call, again where that can help and the deadline allows it.

        A call that `changes` something and is cut off may take effect later, whatever a repetition answers.
        """
        last: LandfallError | None = None
        attempt = 0
        while True:
            limit = self._settings.store_timeout_seconds
            try:
                async with self._slots:
                    limit = deadline.bound(limit)
                    async with asyncio.timeout(limit):
                        return await operation(self._client or await self._open())
            except OutOfTime as error:
                raise (last or error) from None
            except s3_errors.FAILURES as error:
                self.in_doubt = self.in_doubt or (changes and s3_errors.was_cut_off(error))
                if isinstance(error, TimeoutError) and deadline.passed:
                    raise (last or _out_of_time(self.where)) from None
                last = s3_errors.translate(error, self.where, limit)
                attempts = s3_errors.attempts_for(error)
            attempt += 1
            if attempt >= attempts or not await _pause(attempt, deadline):
                raise last

    async def _open(self) -> "S3Client":
        async with self._opening:
            client = self._client
            if client is None:
                self._client = client = await self._stack.enter_async_context(self._connect())
            return client


def _out_of_time(where: Where) -> OutOfTime:
    return OutOfTime(f"{where}: the function's time was over before it answered; the item goes back to its queue")


async def _pause(attempt: int, deadline: Deadline) -> bool:
    """Wait after that many attempts; False, at once, where the deadline leaves no time for it."""
    longest = min(_BACKOFF_MAX_SECONDS, _BACKOFF_SECONDS * 2 ** (attempt - 1))
    seconds = random.uniform(longest / 2, longest)  # noqa: S311 -- no secret
    if seconds >= deadline.remaining:
        return False
    await asyncio.sleep(seconds)
    return True
