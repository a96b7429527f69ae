"""Matrices of integers in as few bits as they are worth, for number formats of one step. Knows no step.

How likely a magnitude is follows from how large the nearest rows were that are coded before it: first comes one row,
then that in the middle, then those halfway between, down to every second.
"""

from collections.abc import Iterator

import numpy as np

from splitcom.codecs.lattice.coder import BitModel, Coder, code_magnitudes
from splitcom.codecs.wire import Ints

_UNARY = 14  # magnitudes from here on are escaped
_ESCAPE_BITS = 20
_CLIP = 3  # larger magnitudes count as this one in contexts
_LEVELS = 24
# 14 bits at 12 bits each, for the model never says less than one in 4,002; the escape, the sign
MOST_BYTES = 26
"""Of an integer, at most."""


def code(coder: Coder, given: Ints | None, rows: int, width: int) -> Ints:
    """Code integers `[rows, width]`."""
    coded = np.zeros((rows, width), np.int64)
    sizes = np.zeros(rows + 1, np.int64)  # sums of magnitudes; the last row is nobody's
    model = BitModel.new(_LEVELS * _UNARY)
    for chosen, before, after in _passes(rows):
        level = _level(sizes[before] + sizes[after], width).repeat(width)
        values = None if given is None else given[chosen].reshape(-1)
        coded[chosen] = _code_elements(coder, model, level, values).reshape(-1, width)
        sizes[chosen] = np.minimum(np.abs(coded[chosen]), _CLIP).sum(1)
    return coded


def _passes(rows: int) -> Iterator[tuple[Ints, Ints, Ints]]:
    """Which rows are coded together, and for each the nearest ones that are coded before it; `rows` if there is none.

    >>> [(chosen.tolist(), before.tolist(), after.tolist()) for chosen, before, after in _passes(4)]
    [([0], [4], [4]), ([2], [0], [0]), ([1, 3], [0, 2], [2, 2])]
    """
    yield np.array([0]), np.array([rows]), np.array([rows])
    stride = 1 << (rows - 1).bit_length() >> 1
    while stride:
        chosen = np.arange(stride, rows, 2 * stride)
        before, after = chosen - stride, chosen + stride
        yield chosen, before, np.where(after < rows, after, before)
        stride >>= 1


def _level(sums: Ints, width: int) -> Ints:
    """How large the numbers of two rows are together, in steps that grow with it, from 0 to `_LEVELS` - 1."""
    edges = np.array([-(-width * edge // 64) for edge in _EDGES])
    return np.searchsorted(edges, sums, side="right").astype(np.int64)


_EDGES = [round(2 ** (k / 2)) for k in range(1, _LEVELS)]
"""Of the sum of two magnitudes, in 64ths: half octaves."""


def _code_elements(coder: Coder, model: BitModel, level: Ints, values: Ints | None) -> Ints:
    wanted = None if values is None else np.abs(values)
    magnitude = code_magnitudes(coder, model, level, wanted, _UNARY, _ESCAPE_BITS)
    some = np.flatnonzero(magnitude)
    if len(some):
        negative = None if values is None else values[some] < 0
        signs = coder.bits(np.full(len(some), 0.5), negative)
        magnitude[some[signs]] *= -1
    return magnitude
