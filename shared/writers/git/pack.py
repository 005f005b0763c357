"""What a fetched pack holds: its objects, inflated, as long as they are no more than there is room for."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from dulwich.object_format import SHA1
from dulwich.objects import Blob
from dulwich.pack import (
    DELTA_TYPES,
    PackData,
    UnpackedObject,
    UnpackedObjectIterator,
    take_msb_bytes_at,
    unpack_object_at,
)

from shared.errors import TooLarge

_HEADER_BYTES: Final = 12  # before the first object
_SIZE_BYTES: Final = 10  # of a size at most: 64 bits, seven of them a byte


@dataclass(frozen=True, slots=True)
class PackLimits:
    """What a pack may take.

    Attributes:
        most: bytes that all objects together may have, inflated.
        blobs: whether files' contents are wanted, too; else one at a time is in memory.
        more: called with the bytes that reading takes as far as they are known, before they are taken.
        need: gets all the bytes that reading takes, before the first object is yielded.
    """

    most: int
    blobs: bool
    more: Callable[[int], None]
    need: Callable[[int], None]


def objects(pack: io.BytesIO, limits: PackLimits, remote: str) -> Iterator[UnpackedObject]:
    """Yield the objects of a pack, with what deltas stand for.

    A few hundred bytes of a pack may be a gigabyte of zeros. Each object tells its size before it is inflated, and each
    delta that of what it makes; dulwich inflates and makes no more than that.

    Args:
        pack: as it was fetched; nothing, or a whole one.
        limits: of what it holds.
        remote: who sent it, for the message.

    Raises:
        TooLarge: they have more.
    """
    if not pack.tell():
        return
    content = pack.getvalue()
    data = PackData.from_file(io.BytesIO(content), SHA1)
    try:
        data.check()
        found = UnpackedObjectIterator(None, SHA1.hash_func, object_format=SHA1)
        found.set_pack_data(data)
        _admit(content, len(data), found, limits, remote)
        yield from found
    finally:
        data.close()


def _admit(content: bytes, count: int, found: UnpackedObjectIterator, limits: PackLimits, remote: str) -> None:
    """Record where the objects are, each once it is known that there is room for it."""
    left = limits.most
    kept = 2 * len(content)  # as it came, and as it is read
    largest = 0

    def take(size: int, kind: int) -> None:
        nonlocal left, kept, largest
        left -= size
        if kind != Blob.type_num or limits.blobs:  # deltas keep what they are made from
            kept += size
        else:
            largest = max(largest, size)
        if left < 0:
            raise TooLarge(
                f"{remote} sends objects of more than {limits.most} bytes, inflated: take large files out of the"
                " branch, let the server allow partial clones (uploadpack.allowFilter), or let the operator raise"
                " LANDFALL_MAX_PACK_BYTES"
            )
        limits.more(kept + largest)

    end = _HEADER_BYTES
    for _ in range(count):
        header, _, _ = take_msb_bytes_at(content[end : end + _SIZE_BYTES], 0)
        kind = header[0] >> 4 & 0x07
        take((header[0] & 0x0F) | _number(header[1:]) << 4, kind)
        unpacked, end = unpack_object_at(content, end, SHA1.hash_func)
        if unpacked.pack_type_num in DELTA_TYPES:
            sizes = b"".join(chunk[: 2 * _SIZE_BYTES] for chunk in unpacked.decomp_chunks)[: 2 * _SIZE_BYTES]
            _, second, _ = take_msb_bytes_at(sizes, 0)  # the first is that of what it is a delta to
            take(_number(take_msb_bytes_at(sizes, second)[0]), kind)
        found.record(unpacked)
    limits.need(kept + largest)


def _number(digits: list[int]) -> int:
    """Return the number of a Git varint: seven bits a byte, the lowest first."""
    return sum((digit & 0x7F) << 7 * place for place, digit in enumerate(digits))
