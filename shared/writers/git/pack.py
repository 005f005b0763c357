"""What a fetched pack holds: its objects, inflated, as long as they are no more than there is room for."""

import io
from collections.abc import Iterator
from typing import Final

from dulwich.object_format import SHA1
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


def objects(pack: io.BytesIO, most: int, remote: str) -> Iterator[UnpackedObject]:
    """Yield the objects of a pack, with what deltas stand for.

    A few hundred bytes of a pack may be a gigabyte of zeros. Each object tells its size before it is inflated, and each
    delta that of what it makes; dulwich inflates and makes no more than that.

    Args:
        pack: as it was fetched; nothing, or a whole one.
        most: bytes that all objects together may have, inflated: deltas, too, keep many of them in memory at once.
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
        _admit(content, len(data), found, most, remote)
        yield from found
    finally:
        data.close()


def _admit(content: bytes, count: int, found: UnpackedObjectIterator, most: int, remote: str) -> None:
    """Record where the objects are, each once it is known that there is room for it."""
    left = most

    def take(size: int) -> None:
        nonlocal left
        left -= size
        if left < 0:
            raise TooLarge(
                f"{remote} sends objects of more than {most} bytes, inflated: take large files out of the branch,"
                " let the server allow partial clones (uploadpack.allowFilter), or let the operator raise"
                " LANDFALL_MAX_PACK_BYTES"
            )

    end = _HEADER_BYTES
    for _ in range(count):
        header, _, _ = take_msb_bytes_at(content[end : end + _SIZE_BYTES], 0)
        take((header[0] & 0x0F) | _number(header[1:]) << 4)  # the type is in between
        unpacked, end = unpack_object_at(content, end, SHA1.hash_func)
        if unpacked.pack_type_num in DELTA_TYPES:
            sizes = b"".join(chunk[: 2 * _SIZE_BYTES] for chunk in unpacked.decomp_chunks)[: 2 * _SIZE_BYTES]
            _, second, _ = take_msb_bytes_at(sizes, 0)  # the first is that of what it is a delta to
            take(_number(take_msb_bytes_at(sizes, second)[0]))
        found.record(unpacked)


def _number(digits: list[int]) -> int:
    """Return the number of a Git varint: seven bits a byte, the lowest first."""
    return sum((digit & 0x7F) << 7 * place for place, digit in enumerate(digits))
