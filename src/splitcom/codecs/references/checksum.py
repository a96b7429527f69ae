"""CRC-32 of rows that end with zeros, without going over the zeros. Knows no store."""

import zlib
from functools import lru_cache

from splitcom.codecs.wire import Buffer


def padded_crc32(rows: Buffer, row_bytes: int, num_zeros: int) -> int:
    """`zlib.crc32` of rows of `row_bytes` each, if each were followed by `num_zeros` zeros.

    >>> padded_crc32(b"abcd", 2, 3) == zlib.crc32(b"ab\\0\\0\\0cd\\0\\0\\0")
    True
    """
    if not num_zeros:
        return zlib.crc32(rows)
    first, second, third, fourth, constant = _after_zeros(num_zeros)
    checksum, view, crc32 = 0, memoryview(rows), zlib.crc32
    for start in range(0, len(rows), row_bytes):
        checksum = crc32(view[start : start + row_bytes], checksum)
        checksum = (
            first[checksum & 0xFF]
            ^ second[checksum >> 8 & 0xFF]
            ^ third[checksum >> 16 & 0xFF]
            ^ fourth[checksum >> 24]
            ^ constant
        )
    return checksum


@lru_cache(maxsize=64)
def _after_zeros(num_zeros: int) -> tuple[list[int], list[int], list[int], list[int], int]:
    """What zeros make of a checksum, which is linear but for a constant: a table for each byte, and the constant."""
    zeros = bytes(num_zeros)
    constant = zlib.crc32(zeros)
    bits = [zlib.crc32(zeros, 1 << bit) ^ constant for bit in range(32)]
    tables = []
    for byte in range(4):
        table = [0]
        for bit in bits[8 * byte : 8 * byte + 8]:
            table += [entry ^ bit for entry in table]
        tables.append(table)
    first, second, third, fourth = tables
    return first, second, third, fourth, constant
