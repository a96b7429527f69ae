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
    zigzag = (rows[:, :used] << 1 ^ rows[:, :used] >> 63).astype("<u4")
    size = (int(zigzag.max(initial=0)).bit_length() + 7) // 8
    planes = zigzag.view(np.uint8).reshape(len(rows), used, 4).transpose(2, 0, 1)[:size]
    return _HEAD.pack(size, used) + zstandard.ZstdCompressor(level=_LEVEL).compress(planes.tobytes())


def unpack(data: Buffer, num_rows: int, columns: int) -> Ints:
    """Inverse of `pack`.

    >>> rows = np.array([[3, -1, 0], [-300, 0, 0]])
    >>> np.array_equal(unpack(pack(rows), 2, 3), rows)
    True
    """
    size, used = _HEAD.unpack_from(data)
    plain = zstandard.ZstdDecompressor().decompress(data[_HEAD.size :])
    planes = np.frombuffer(plain, np.uint8).reshape(size, num_rows, used)
    zigzag = np.zeros((num_rows, used, 4), np.uint8)
    zigzag[..., :size] = planes.transpose(1, 2, 0)
    numbers = zigzag.view("<u4")[..., 0].astype(np.int64)
    rows = np.zeros((num_rows, columns), np.int64)
    rows[:, :used] = numbers >> 1 ^ -(numbers & 1)
    return rows
