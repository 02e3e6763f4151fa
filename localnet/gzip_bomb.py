"""A small body that unpacks to a large one."""

from __future__ import annotations

import zlib
from functools import cache

_PART_BYTES = 1 << 24
_GZIP_WINDOW_BITS = 31


@cache
def gzip_bomb(unpacked_bytes: int) -> bytes:
    """A gzip body of about a thousandth of `unpacked_bytes` zeros, rounded up to 16 MiB; it lacks its last checksum.

    One part is compressed and then repeated, which a full flush allows: nothing of that size is ever held here.
    """
    packing = zlib.compressobj(wbits=_GZIP_WINDOW_BITS)
    first, other = [packing.compress(bytes(_PART_BYTES)) + packing.flush(zlib.Z_FULL_FLUSH) for _ in range(2)]
    return first + other * ((unpacked_bytes - 1) // _PART_BYTES)
