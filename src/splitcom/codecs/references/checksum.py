"""CRC-32 of rows that end with zeros, without going over the zeros. Knows no store.

What a checksum becomes by the bytes that follow is linear in its bits, but for the bytes' own checksum:

    crc(a b) = after(length of b) · crc(a) ^ crc(b)

so the checksums of rows are joined in pairs, all pairs at once.
"""

import zlib
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from splitcom.codecs.wire import Buffer

Checksums = npt.NDArray[np.uint32]
_FEW = 1 << 11  # zeros in each row that are gone over faster
_DIRECT = 1 << 12  # zeros that it is no work to go over


def padded_crc32(rows: Buffer, row_bytes: int, num_zeros: int) -> int:
    """`zlib.crc32` of rows of `row_bytes` each, if each were followed by `num_zeros` zeros.

    >>> padded_crc32(b"abcdef", 2, 3) == zlib.crc32(b"ab\\0\\0\\0cd\\0\\0\\0ef\\0\\0\\0")
    True
    """
    if not num_zeros:
        return zlib.crc32(rows)
    if num_zeros < _FEW:
        whole = np.zeros((len(rows) // row_bytes, row_bytes + num_zeros), np.uint8)
        whole[:, :row_bytes] = np.frombuffer(rows, np.uint8).reshape(-1, row_bytes)
        return zlib.crc32(whole.data)
    view, crc32 = memoryview(rows), zlib.crc32
    found = [crc32(view[start : start + row_bytes]) for start in range(0, len(rows), row_bytes)]
    # nothing before the first row, whose checksum is 0, makes their number a power of 2
    checksums = np.zeros(1 << max(len(found) - 1, 0).bit_length(), np.uint32)
    zeros = np.uint32(zlib.crc32(bytes(num_zeros)))
    checksums[len(checksums) - len(found) :] = _later(np.array(found, np.uint32), num_zeros) ^ zeros
    size = row_bytes + num_zeros
    while len(checksums) > 1:
        checksums = _later(checksums[::2], size) ^ checksums[1::2]
        size *= 2
    return int(checksums[0])


def _later(checksums: Checksums, num_zeros: int) -> Checksums:
    """The linear part of what so many zeros make of each checksum."""
    first, second, third, fourth = _after_zeros(num_zeros)
    return np.asarray(
        first[checksums & 0xFF]
        ^ second[checksums >> 8 & 0xFF]
        ^ third[checksums >> 16 & 0xFF]
        ^ fourth[checksums >> 24]
    )


@lru_cache(maxsize=256)
def _after_zeros(num_zeros: int) -> tuple[Checksums, ...]:
    """`_later` of all values of each byte of a checksum, the lowest first, `[256]` each."""
    bits = np.array([1 << bit for bit in range(32)], np.uint32)
    half, is_odd = divmod(num_zeros, 2)
    if is_odd or num_zeros < _DIRECT:
        zeros = bytes(num_zeros)
        own = zlib.crc32(zeros)
        bits = np.array([zlib.crc32(zeros, int(bit)) ^ own for bit in bits], np.uint32)
    else:
        bits = _later(_later(bits, half), half)
    tables = []
    for byte in range(4):
        table = np.zeros(1, np.uint32)
        for bit in bits[8 * byte : 8 * byte + 8]:
            table = np.concatenate([table, table ^ bit])
        tables.append(table)
    return tuple(tables)
