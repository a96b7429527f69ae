"""Matrices of small integers in few bytes of memory, without loss.

integers ─► zigzag ─► first bytes of all, second bytes of all, ... ─► zstd
"""

import struct

import numpy as np
import zstandard

from splitcom.codecs.wire import Buffer, Ints

_HEAD = struct.Struct("<BH")  # bytes of a number, columns
_LEVEL = 1


def pack(rows: Ints) -> bytes:
    """Bytes of int64 `[rows, columns]`, magnitudes below 2^31 in up to 65,535 columns.

    Columns at the end that are zero take no bytes.
    """
    used = int(np.flatnonzero(rows.any(0)).max(initial=-1)) + 1
    zigzag = rows[:, :used] << 1 ^ rows[:, :used] >> 63
    size = (int(zigzag.max(initial=0)).bit_length() + 7) // 8
    planes = b"".join((zigzag >> 8 * i).astype(np.uint8).tobytes() for i in range(size))
    return _HEAD.pack(size, used) + zstandard.ZstdCompressor(level=_LEVEL).compress(planes)


def unpack(data: Buffer, num_rows: int, columns: int) -> Ints:
    """Inverse of `pack`.

    >>> rows = np.array([[3, -1, 0], [-300, 0, 0]])
    >>> np.array_equal(unpack(pack(rows), 2, 3), rows)
    True
    """
    size, used = _HEAD.unpack_from(data)
    plain = zstandard.ZstdDecompressor().decompress(data[_HEAD.size :])
    planes = np.frombuffer(plain, np.uint8).reshape(size, num_rows, used)
    zigzag = np.zeros((num_rows, used), np.int32 if size < 4 else np.int64)
    for i, plane in enumerate(planes):
        zigzag |= plane.astype(zigzag.dtype) << 8 * i
    rows = np.zeros((num_rows, columns), np.int64)
    rows[:, :used] = zigzag >> 1 ^ -(zigzag & 1)
    return rows
