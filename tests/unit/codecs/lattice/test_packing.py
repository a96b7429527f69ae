"""Integers packed for memory come back, and small ones take little."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from splitcom.codecs.lattice.packing import pack, unpack


@settings(deadline=None, max_examples=60)
@given(
    arrays(np.int64, st.tuples(st.integers(0, 9), st.integers(0, 9)), elements=st.integers(-(2**24), 2**24)),
    st.integers(0, 5),
)
def test_integers_come_back(rows: np.ndarray, zeros: int) -> None:
    padded = np.pad(rows, ((0, 0), (0, zeros)))
    data = pack(padded)
    unpack(data, again := np.zeros(padded.shape, np.float32))
    assert np.array_equal(again, padded)
    assert zeros == 0 or data == pack(rows)


def test_small_integers_take_less_than_a_byte_each() -> None:
    rows = np.rint(np.random.default_rng(0).laplace(size=(60, 200)) * 4).astype(np.int64)
    assert len(pack(rows)) < 0.8 * rows.size
    rows[0, 0] = 1 << 19
    assert len(pack(rows)) < 0.85 * rows.size
