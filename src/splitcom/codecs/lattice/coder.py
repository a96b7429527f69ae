"""Range coding of bits and small integers with adaptive models; reading and writing are the same code.

    context ─► BitModel ─► probability ─┬─► Writer: bit ─► constriction's range encoder ─► bytes
                  ▲                     └─► Reader: bytes ─► constriction's range decoder ─► bit
                  └────── counts ◄────────────────────────────────────────────────────────┘

Probabilities are quotients of integer counts, so that both ends have the same to the last bit on any machine.
`native` does the same in loops that numba compiles, to the same bytes.
"""

from abc import ABC, abstractmethod
from itertools import pairwise
from typing import NamedTuple

import constriction
import numpy as np
import numpy.typing as npt
from typing_extensions import override

from splitcom.codecs.wire import Bools, Buffer, Floats, Ints
from splitcom.errors import PacketError

_BERNOULLI = constriction.stream.model.Bernoulli(perfect=False)
MAX_COUNT = 2000  # of a context: older bits fade, so that models follow what changes
LEVELS = 48
UNARY = 14  # magnitudes from here on are escaped
MAX_ESCAPE_BITS = 20
_FIXED = 16  # fractional bits of means
_BAND = 8  # a band is this part of the columns before it, and one more
CLIP = 3  # larger magnitudes count as this one in means
_MEAN_SHIFT = 3  # a packet moves the means by an eighth
_NEW_MEAN, _MIN_MEAN = 1 << 12, 1 << 6

MAX_MAGNITUDE = (1 << MAX_ESCAPE_BITS) - 1
"""Largest magnitude that a matrix of codes may have."""


Codes = npt.NDArray[np.int32]


class Band(NamedTuple):
    """What is known of some columns of a matrix before they are coded, all int64."""

    means: Ints
    """`[kinds, columns]`: the magnitude to expect, in units of 2^-16."""
    kinds: Ints
    """`[rows]`"""
    activity: Ints
    """`[rows]`: sums of the magnitudes, clipped to 3, of the bands before; coding brings it up to date."""
    expected: Ints
    """`[rows]`: what these were expected to be; coding brings it up to date."""


class Coder(ABC):
    """A writer, or a reader that ignores the bits it is given."""

    @abstractmethod
    def bits(self, probability: Floats, bits: Bools | None) -> Bools:
        """Code one bit for each probability (that it is set), strictly between 0 and 1; give the bits."""

    def band(self, codes: Codes, band: Band, model: "BitModel", given: Ints | Codes | None) -> None:
        """Code the `given` columns of a matrix, put them into `codes` `[rows, columns]`, and learn from them."""
        near = 2 * band.activity
        near[1:] += band.activity[:-1]
        near[:-1] += band.activity[1:]
        mean = band.means[band.kinds]
        level = levels(mean * ((near + 1) << _FIXED)[:, None], 4 * band.expected[:, None] + (1 << _FIXED))
        codes[:] = _code_elements(self, model, level, given).reshape(codes.shape)
        band.activity[:] += np.minimum(np.abs(codes), CLIP).sum(1)
        band.expected[:] += mean.sum(1)


class Writer(Coder):
    """Writes bits."""

    def __init__(self) -> None:
        self._encoder = constriction.stream.queue.RangeEncoder()

    @override
    def bits(self, probability: Floats, bits: Bools | None) -> Bools:
        assert bits is not None
        self._encoder.encode(bits.astype(np.int32), _BERNOULLI, probability)
        return bits

    def finish(self) -> bytes:
        """All that was written, without the zeros at its end."""
        words: bytes = self._encoder.get_compressed().astype("<u4").tobytes()
        return words.rstrip(b"\0")


class Reader(Coder):
    """Reads bits; raises PacketError if the bytes are none that a writer gives."""

    def __init__(self, data: Buffer) -> None:
        self._decoder = constriction.stream.queue.RangeDecoder(words_of(data))

    @override
    def bits(self, probability: Floats, bits: Bools | None) -> Bools:
        try:
            return np.asarray(self._decoder.decode(_BERNOULLI, probability)).astype(np.bool_)
        except AssertionError as error:
            raise PacketError(f"a range-coded body cannot be read: {error}") from None

    def finish(self) -> None:
        """Refuse what is left over."""
        if not self._decoder.maybe_exhausted():
            raise PacketError("bytes are left over at the end of a range-coded body")


def words_of(data: Buffer) -> npt.NDArray[np.uint32]:
    """The words that a reader reads from a body; PacketError if it ends with a zero byte."""
    if data[-1:] == b"\0":
        raise PacketError("a range-coded body ends with a zero byte, which a writer leaves out")
    return np.frombuffer(bytes(data) + bytes(-len(data) % 4), "<u4").astype(np.uint32)


def code_uints(coder: Coder, values: Ints | Codes | None, count: int, width: int) -> Ints:
    """Code `count` numbers of `width` bits each as they are."""
    if not count or not width:
        return np.zeros(count, np.int64)
    shifts = np.arange(width)
    bits = None if values is None else (values[:, None] >> shifts & 1).astype(np.bool_).reshape(-1)
    coded = coder.bits(np.full(count * width, 0.5), bits).reshape(count, width)
    return np.asarray((coded.astype(np.int64) << shifts).sum(1))


class BitModel:
    """Adaptive probabilities of a bit in each of several contexts; `counts` int64 `[contexts, 2]` is its state."""

    def __init__(self, counts: Ints) -> None:
        self.counts = counts

    @classmethod
    def new(cls, contexts: int) -> "BitModel":
        """A model that has seen nothing."""
        return cls(np.zeros((contexts, 2), np.int64))

    def code(self, coder: Coder, context: Ints, bits: Bools | None) -> Bools:
        """Code one bit in each of the contexts, then learn from them."""
        if not len(context):
            return np.zeros(0, np.bool_)
        zeros, ones = self.counts.T
        # Krichevsky and Trofimov's estimate
        coded = coder.bits(((2 * ones + 1) / (2 * (zeros + ones) + 2))[context], bits)
        self.counts += np.bincount(2 * context + coded, minlength=self.counts.size).reshape(-1, 2)
        self.counts[self.counts[:, 0] + self.counts[:, 1] > MAX_COUNT] >>= 1
        return coded


class MatrixModel:
    """Adaptive model of integer matrices `[rows, width]` whose columns are directions, the strongest first.

    Codes band by band, narrow ones first. The context of an element is what magnitude to expect: the column's mean
    in earlier rows of its kind, times how much larger than expected this row and its two neighbours were in the
    bands before.
    """

    def __init__(self, counts: Ints, means: Ints) -> None:
        self.bits = BitModel(counts)
        self.means = means
        """`[kinds, width]`: magnitudes, clipped to 3, in units of 2^-16; 0 if none has been seen."""

    @classmethod
    def new(cls, width: int, kinds: int = 1) -> "MatrixModel":
        """A model that has seen nothing."""
        return cls(np.zeros((LEVELS * UNARY, 2), np.int64), np.zeros((kinds, width), np.int64))

    def code(
        self, coder: Coder, matrix: Ints | Codes | None, rows: int, width: int, kinds: Ints | None = None
    ) -> Codes:
        """Code a matrix of magnitudes up to `MAX_MAGNITUDE`, whose rows are of `kinds`, by default all of kind 0.

        `width` may be below that of the model.
        """
        coded = np.zeros((rows, width), np.int32)
        if not rows:
            return coded
        kinds = np.zeros(rows, np.int64) if kinds is None else kinds
        means = np.where(self.means == 0, _NEW_MEAN, np.maximum(self.means, _MIN_MEAN))
        activity, expected = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
        for columns in bands_of(width):
            given = None if matrix is None else matrix[:, columns]
            band = Band(means[:, columns], kinds, activity, expected)
            coder.band(coded[:, columns], band, self.bits, given)
        self._learn(np.minimum(np.abs(coded), CLIP), kinds)
        return coded

    def _learn(self, clipped: Codes, kinds: Ints) -> None:
        counts = np.bincount(kinds)
        present = np.flatnonzero(counts)
        # exact: sums of at most 3 for each of fewer than 2^22 tokens
        members = (kinds == present[:, None]).astype(np.float32)
        sums = (members @ clipped.astype(np.float32)).astype(np.int64)
        for kind, count, total in zip(present, counts[present], sums, strict=True):
            new = (total << _FIXED) // count
            old = self.means[kind, : clipped.shape[1]]
            self.means[kind, : clipped.shape[1]] = np.where(
                old == 0, np.maximum(new, 1), old + ((new - old) >> _MEAN_SHIFT)
            )


def code_magnitudes(
    coder: Coder, model: BitModel, level: Ints, wanted: Ints | Codes | None, unary: int, escape_bits: int
) -> Ints:
    """Code numbers from 0 on, each in the context of its level: one by one to `unary`, the others in `escape_bits`."""
    magnitude = np.zeros(len(level), np.int64)
    alive = np.arange(len(level))
    for size in range(unary):
        more = None if wanted is None else wanted[alive] > size
        alive = alive[model.code(coder, level[alive] * unary + size, more)]
        if not len(alive):
            break
        magnitude[alive] += 1
    if len(alive):
        escaped = None if wanted is None else wanted[alive]
        magnitude[alive] = code_uints(coder, escaped, len(alive), escape_bits)
    return magnitude


def _code_elements(coder: Coder, model: BitModel, level: Ints, given: Ints | Codes | None) -> Ints:
    values = None if given is None else given.reshape(-1)
    wanted = None if values is None else np.abs(values)
    magnitude = code_magnitudes(coder, model, level, wanted, UNARY, MAX_ESCAPE_BITS)
    negative = None if values is None else values[magnitude > 0] < 0
    some = np.flatnonzero(magnitude)
    if len(some):
        signs = coder.bits(np.full(len(some), 0.5), negative)
        magnitude[some[signs]] *= -1
    return magnitude


def levels(numbers: Ints, divisors: Ints) -> Ints:
    """How many half octaves there are below each quotient, flat, the first at the root of 2.

    Exact on every machine: below 2^53 IEEE division rounds no quotient of integers up to the next one, and an exponent
    is no rounded logarithm.
    """
    quotients = np.floor(numbers / divisors).clip(1, 1 << LEVELS // 2)
    exponents = (quotients * quotients - 1).view(np.int64) >> 52
    return np.asarray((exponents - 1023).clip(0, LEVELS - 1).reshape(-1))


def bands_of(width: int) -> list[slice]:
    """Columns that are coded together: fewer and longer calls, for contexts that know a little less."""
    edges = [0]
    while edges[-1] < width:
        edges.append(min(edges[-1] + 1 + edges[-1] // _BAND, width))
    return [slice(begin, end) for begin, end in pairwise(edges)]
