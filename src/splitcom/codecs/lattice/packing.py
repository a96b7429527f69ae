"""Matrices of small integers in few bytes of memory, without loss.

integers ─► zigzag ─► first bytes of all, second bytes of all, ... ─► zstd
"""

import struct

import numpy as np
import zstandard

from splitcom.codecs.wire import Buffer, Ints, Points

_HEAD = struct.Struct("<BH")  # bytes of a number, columns
_LEVEL = 1
_SIGNED = (np.int8, np.int8, np.int16, np.int32, np.int32)  # by bytes of a number


def pack(rows: Points) -> bytes:
    """Bytes of integers `[rows, columns]`, in up to 65,535 columns.

    Columns at the end that are zero take no bytes.
    """
    used = int(np.flatnonzero(rows.any(0)).max(initial=-1)) + 1
    low, high = int(rows.min(initial=0)), int(rows.max(initial=0))
    size = (max(2 * high, -2 * low - 1).bit_length() + 7) // 8
    whole: Ints = rows[:, :used].astype(_SIGNED[size])  # or shorter
    zigzag = (whole << 1 ^ whole >> 8 * whole.itemsize - 1).view(f"u{whole.itemsize}")
    planes = b"".join((zigzag >> 8 * i).astype(np.uint8).tobytes() for i in range(size))
    return _HEAD.pack(size, used) + zstandard.ZstdCompressor(level=_LEVEL).compress(planes)


def unpack(data: Buffer, rows: Points) -> None:
    """Inverse of `pack`: fill `rows`, zero so far, of which there may be more columns than were packed.

    >>> rows = np.array([[3, -1, 0], [-300, 0, 0]], np.float32)
    >>> unpack(pack(rows), again := np.zeros_like(rows))
    >>> np.array_equal(again, rows)
    True
    """
    size, used = _HEAD.unpack_from(data)
    plain = zstandard.ZstdDecompressor().decompress(data[_HEAD.size :])
    planes = np.frombuffer(plain, np.uint8).reshape(size, len(rows), used)
    if size:
        unsigned = f"u{np.dtype(_SIGNED[size]).itemsize}"
        zigzag = planes[0].astype(unsigned)
        for i, plane in enumerate(planes[1:], 1):
            zigzag |= plane.astype(unsigned) << 8 * i
        rows[:, :used] = (zigzag >> 1).view(_SIGNED[size]) ^ -(zigzag & 1).view(_SIGNED[size])
