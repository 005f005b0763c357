"""Buckets as S3 has them: strongly consistent, unversioned, each call atomic for itself and nothing beyond that."""

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, Self

from botocore.exceptions import ClientError, HTTPClientError

from tests.interleavings.machine import Access, Machine

_LIST_KEYS: Final = 1000


class Bucket:
    """A bucket.

    Attributes:
        files: content by key.
        denied: how many of the next lists are denied.
    """

    def __init__(self, machine: Machine, name: str, files: Mapping[str, bytes] | None = None) -> None:
        self.machine = machine
        self.name = name
        self.files = dict(files or {})
        self.denied = 0

    def fork(self, machine: Machine) -> "Bucket":
        """Return a bucket that begins with the same objects."""
        return Bucket(machine, self.name, self.files)

    def keys(self, prefix: str) -> list[str]:
        """Return the keys that begin so, sorted."""
        return sorted(key for key in self.files if key.startswith(prefix))


class S3Client:
    """What the bucket writer has instead of aiobotocore's client."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    async def list_objects_v2(
        self,
        *,
        Bucket: str,
        Prefix: str = "",
        MaxKeys: int = _LIST_KEYS,
        ContinuationToken: str = "",
    ) -> Any:
        def apply() -> Any:
            found = [k for k in self._bucket.keys(Prefix) if not ContinuationToken or k > ContinuationToken]
            page = found[:MaxKeys]
            answer: dict[str, Any] = {"Name": Bucket, "KeyCount": len(page), "IsTruncated": len(found) > len(page)}
            answer["Contents"] = [{"Key": k, "ETag": f'"{_etag(files[k])}"', "Size": len(files[k])} for k in page]
            return answer | ({"NextContinuationToken": page[-1]} if answer["IsTruncated"] else {})

        files = self._bucket.files
        return await self._call("list", f"{Prefix}*", apply, writes=False)

    async def head_object(self, *, Bucket: str, Key: str) -> Any:
        def apply() -> Any:
            return {"ETag": f'"{_etag(self._content(Key, "HeadObject"))}"', "Metadata": {}}

        return await self._call("head", Key, apply, writes=False)

    async def get_object(self, *, Bucket: str, Key: str) -> Any:
        def apply() -> Any:
            return {"Body": _Body(self._content(Key, "GetObject"))}

        return await self._call("get", Key, apply, writes=False)

    async def put_object(self, *, Bucket: str, Key: str, Body: bytes, **_: Any) -> Any:
        def apply() -> Any:
            self._bucket.files[Key] = Body
            return {"ETag": f'"{_etag(Body)}"'}

        return await self._call("put", Key, apply)

    async def delete_objects(self, *, Bucket: str, Delete: Mapping[str, Any]) -> Any:
        keys: Sequence[str] = [entry["Key"] for entry in Delete["Objects"]]

        def apply() -> Any:
            for key in keys:
                self._bucket.files.pop(key, None)
            return {}

        return await self._call("delete", keys[0] if len(keys) == 1 else "*", apply)

    async def create_multipart_upload(self, *, Bucket: str, Key: str) -> Any:
        return await self._call("begin upload", Key, lambda: {"UploadId": "1"}, writes=False)

    async def abort_multipart_upload(self, *, Bucket: str, Key: str, UploadId: str) -> Any:
        return await self._call("abort upload", Key, dict, writes=False)

    def _content(self, key: str, operation: str) -> bytes:
        if key not in self._bucket.files:
            code = "404" if operation == "HeadObject" else "NoSuchKey"
            raise _refusal(code, 404, operation)
        return self._bucket.files[key]

    async def _call(self, what: str, key: str, apply: Any, *, writes: bool = True) -> Any:
        def answer() -> Any:
            if self._bucket.denied and what == "list":
                self._bucket.denied -= 1
                raise _refusal("AccessDenied", 403, what)
            return apply()

        access = Access(f"s3:{self._bucket.name}:{key}", writes=writes)
        return await self._bucket.machine.call(f"{what} {key}", access, answer, _ERRORS)


class _Body:
    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def iter_chunks(self, size: int) -> AsyncIterator[bytes]:
        for at in range(0, len(self._content), size):
            yield self._content[at : at + size]


@asynccontextmanager
async def connected(bucket: Bucket) -> AsyncIterator[S3Client]:
    """Yield a client, as `shared.writers.s3.http.connect` does."""
    yield S3Client(bucket)


def _etag(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _refusal(code: str, status: int, operation: str) -> ClientError:
    response: Any = {"Error": {"Code": code, "Message": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, operation)


_ERRORS: Final = (
    lambda: HTTPClientError(error=ConnectionResetError("cut")),
    lambda: _refusal("SlowDown", 503, "any"),
)
