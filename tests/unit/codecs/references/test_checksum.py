"""The checksum of padded rows is that of the rows with their zeros."""

import random
import zlib

import pytest

from splitcom.codecs.references.checksum import padded_crc32


@pytest.mark.parametrize(
    ("num_rows", "row_bytes", "num_zeros"),
    [(0, 4, 3), (1, 4, 3), (2, 6, 5), (3, 2, 9), (5, 3, 4097), (64, 24, 380), (77, 236, 7956), (7, 4, 0)],
)
def test_it_is_that_of_the_whole_rows(num_rows, row_bytes, num_zeros):
    rows = random.Random(num_rows).randbytes(num_rows * row_bytes)
    whole = b"".join(
        rows[start : start + row_bytes] + bytes(num_zeros) for start in range(0, len(rows), row_bytes)
    )
    assert padded_crc32(rows, row_bytes, num_zeros) == zlib.crc32(whole)
