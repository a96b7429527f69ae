"""The range coder and the loops over codes, compiled by numba; if it is installed. The same bits as `coder`.

The coder is constriction's: words of 32 bits, a state of 64, probabilities in units of 2^-24 (Pasco's range coding).
All loops let go of the interpreter's lock.
"""

# inside of the loops, types are numba's
# mypy: disable-error-code="arg-type, assignment, return-value"

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from typing_extensions import override

from splitcom.codecs.lattice.coder import (
    CLIP,
    LEVELS,
    MAX_COUNT,
    MAX_ESCAPE_BITS,
    UNARY,
    Band,
    BitModel,
    Codes,
    Reader,
    Writer,
    words_of,
)
from splitcom.codecs.wire import Bools, Buffer, Floats, Ints
from splitcom.errors import PacketError

Words = npt.NDArray[np.uint32]
State = npt.NDArray[np.uint64]
"""Of a writer: lower end and size of the interval, number of words. Of a reader: how far the point is above the lower
end, size of the interval, number of words."""

F = TypeVar("F", bound=Callable[..., object])

_FULL = (1 << 64) - 1
_NONE, _HALF, _ONE = np.uint64(0), np.uint64(1 << 23), np.uint64(1 << 24)
_SCALE = float((1 << 24) - 2)
_WORD = np.uint64(32)
_PRECISION = np.uint64(24)
_SMALL = np.uint64(1 << 32)
_LIMITS = (LEVELS, UNARY, MAX_ESCAPE_BITS, MAX_COUNT, CLIP)


def _compiled(function: F) -> F:
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
    try:
        return cast("F", numba.njit(cache=True, **options)(function))
    except RuntimeError:  # no folder to keep the result in
        return cast("F", numba.njit(**options)(function))


class FastWriter(Writer):
    """`coder.Writer`, compiled."""

    def __init__(self) -> None:
        self._words = np.empty(1 << 12, np.uint32)
        self._state = np.array([0, _FULL, 0], np.uint64)

    @override
    def bits(self, probability: Floats, bits: Bools | None) -> Bools:
        assert bits is not None
        self._make_room(len(bits))
        _write_bits(self._words, self._state, probability, bits)
        return bits

    @override
    def band(self, codes: Codes, band: Band, model: BitModel, given: Ints | Codes | None) -> None:
        assert given is not None
        codes[:] = given
        self._make_room(codes.size * (UNARY + MAX_ESCAPE_BITS + 1))
        _write_band(self._words, self._state, codes, *_arguments(band, model))

    @override
    def finish(self) -> bytes:
        """All that was written, without the zeros at its end."""
        lower, size, count = (int(number) for number in self._state)
        if size == _FULL:
            return b""
        self._make_room(0)
        point = lower + (1 << 32) - 1
        if point > _FULL:
            _carry(self._words, count)
        self._words[count] = point >> 32 & 0xFFFFFFFF
        return self._words[: count + 1].astype("<u4").tobytes().rstrip(b"\0")

    def _make_room(self, num_bits: int) -> None:
        needed = int(self._state[2]) + num_bits + 1  # a bit takes less than a word
        if needed > len(self._words):
            words = np.empty(2 * needed, np.uint32)
            written = int(self._state[2])
            words[:written] = self._words[:written]
            self._words = words


class FastReader(Reader):
    """`coder.Reader`, compiled."""

    def __init__(self, data: Buffer) -> None:
        self._words = words_of(data)
        first, second = (int(word) for word in [*self._words[:2], 0, 0][:2])
        self._state = np.array([first << 32 | second, _FULL, 2], np.uint64)

    @override
    def bits(self, probability: Floats, bits: Bools | None) -> Bools:
        read = np.empty(len(probability), np.bool_)
        _read_bits(self._words, self._state, probability, read)
        self._check()
        return read

    @override
    def band(self, codes: Codes, band: Band, model: BitModel, given: Ints | Codes | None) -> None:
        _read_band(self._words, self._state, codes, *_arguments(band, model))
        self._check()

    @override
    def finish(self) -> None:
        """Refuse what is left over."""
        above, size, count = (int(number) for number in self._state)
        if count < len(self._words) or (size != _FULL and above >= (1 << 33) - 1):
            raise PacketError("bytes are left over at the end of a range-coded body")

    def _check(self) -> None:
        if not self._state[1]:
            raise PacketError("a range-coded body cannot be read: it names no interval of its models")


def _arguments(band: Band, model: BitModel) -> tuple[Any, ...]:
    means = band.means.astype(np.float64, order="C")
    counts = model.counts.reshape(LEVELS, UNARY, 2)
    return means, band.kinds, band.activity, band.expected, counts, _LIMITS


@_compiled
def _carry(words: Words, count: int) -> None:
    last = count - 1
    while words[last] == 0xFFFFFFFF:
        words[last] = 0
        last -= 1
    words[last] += 1


@_compiled
def _write(
    words: Words, lower: np.uint64, size: np.uint64, count: int, left: np.uint64, bit: bool
) -> tuple[np.uint64, np.uint64, int]:
    """One bit, which is 0 with a probability of `left` units."""
    scale = size >> _PRECISION
    below = scale * left
    if bit:
        raised = lower + below
        if raised < lower:
            _carry(words, count)
        lower, size = raised, scale * (_ONE - left)
    else:
        size = below
    if size < _SMALL:
        words[count] = np.uint32(lower >> _WORD)
        count += 1
        lower, size = lower << _WORD, size << _WORD
    return lower, size, count


@_compiled
def _read(
    words: Words, above: np.uint64, size: np.uint64, count: int, left: np.uint64
) -> tuple[np.uint64, np.uint64, int, bool]:
    """One bit. What is no writer's leaves a size of 0, from which only zeros are read."""
    scale = size >> _PRECISION
    below = scale * left
    bit = above >= below
    if bit:
        size = scale * (_ONE - left) if above < scale << _PRECISION else _NONE
        above -= below
    else:
        size = below
    if size < _SMALL:
        word = np.uint64(words[count]) if count < len(words) else _NONE
        count += 1
        above, size = above << _WORD | word, size << _WORD
    return above, size, count, bit


@_compiled
def _zero_units(probability: float) -> np.uint64:
    """The probability of a zero in units, where that of a one is given; constriction's rule."""
    return np.uint64(int((1.0 - probability) * _SCALE) + 1)


@_compiled
def _write_bits(words: Words, state: State, probability: Floats, bits: Bools) -> None:
    lower, size, count = state[0], state[1], np.int64(state[2])
    for i in range(len(bits)):
        lower, size, count = _write(words, lower, size, count, _zero_units(probability[i]), bits[i])
    state[0], state[1], state[2] = lower, size, np.uint64(count)


@_compiled
def _read_bits(words: Words, state: State, probability: Floats, bits: Bools) -> None:
    above, size, count = state[0], state[1], np.int64(state[2])
    for i in range(len(bits)):
        above, size, count, bits[i] = _read(words, above, size, count, _zero_units(probability[i]))
    state[0], state[1], state[2] = above, size, np.uint64(count)


@_compiled
def _level(means: Floats, kinds: Ints, activity: Ints, expected: Ints, most: int) -> npt.NDArray[np.uint8]:
    """As `coder.levels`, of a band."""
    rows, width = len(kinds), means.shape[1]
    result = np.empty((rows, width), np.uint8)
    squares = np.empty(width, np.float64)
    exponents = squares.view(np.int64)
    limit = float(1 << most // 2)
    for row in range(rows):
        near = 2 * activity[row] + 1
        if row:
            near += activity[row - 1]
        if row + 1 < rows:
            near += activity[row + 1]
        factor, divisor = float(near << 16), float(4 * expected[row] + (1 << 16))
        kind = kinds[row]
        for column in range(width):
            quotient = min(max(np.floor(means[kind, column] * factor / divisor), 1.0), limit)
            squares[column] = quotient * quotient - 1.0
        for column in range(width):
            result[row, column] = min(max((exponents[column] >> 52) - 1023, 0), most - 1)
    return result


@_compiled
def _adapt(counts: Ints, size: int, seen: Ints, most: int) -> None:
    """As `BitModel.code`: whatever has been counted too often is halved, not only what was seen now."""
    for level in range(len(seen)):
        counts[level, size, 0] += seen[level, 0]
        counts[level, size, 1] += seen[level, 1]
    for level in range(counts.shape[0]):
        for other in range(counts.shape[1]):
            if counts[level, other, 0] + counts[level, other, 1] > most:
                counts[level, other, 0] >>= 1
                counts[level, other, 1] >>= 1


@_compiled
def _units_of(counts: Ints) -> State:
    left = np.empty(len(counts), np.uint64)
    for level in range(len(counts)):
        zeros, ones = counts[level]
        left[level] = _zero_units((2 * ones + 1) / (2 * (zeros + ones) + 2))
    return left


@_compiled
def _write_band(
    words: Words,
    state: State,
    codes: Codes,
    means: Floats,
    kinds: Ints,
    activity: Ints,
    expected: Ints,
    counts: Ints,
    limits: tuple[int, int, int, int, int],
) -> None:
    """Write the codes `[rows, columns]` of a band and learn from them; `limits` are `_LIMITS`."""
    num_levels, unary, escape_bits, max_count, clip = limits
    rows, width = codes.shape
    level = _level(means, kinds, activity, expected, num_levels).reshape(-1)
    lower, size, count = state[0], state[1], np.int64(state[2])
    magnitude, alive = np.empty(rows * width, np.int32), np.arange(rows * width)
    for row in range(rows):
        for column in range(width):
            magnitude[row * width + column] = abs(codes[row, column])
    num_alive = rows * width
    for number in range(unary):
        if not num_alive:
            break
        left, seen, remaining = _units_of(counts[:, number]), np.zeros((num_levels, 2), np.int64), 0
        for i in range(num_alive):
            element = alive[i]
            context, bit = level[element], magnitude[element] > number
            lower, size, count = _write(words, lower, size, count, left[context], bit)
            seen[context, int(bit)] += 1
            alive[remaining] = element
            remaining += int(bit)
        num_alive = remaining
        _adapt(counts, number, seen, max_count)
    for i in range(num_alive):
        value = magnitude[alive[i]]
        for shift in range(escape_bits):
            lower, size, count = _write(words, lower, size, count, _HALF, value >> shift & 1 == 1)
    for row in range(rows):
        for column in range(width):
            value = magnitude[row * width + column]
            if value:
                lower, size, count = _write(words, lower, size, count, _HALF, codes[row, column] < 0)
            activity[row] += min(value, clip)
            expected[row] += np.int64(means[kinds[row], column])
    state[0], state[1], state[2] = lower, size, np.uint64(count)


@_compiled
def _read_band(
    words: Words,
    state: State,
    codes: Codes,
    means: Floats,
    kinds: Ints,
    activity: Ints,
    expected: Ints,
    counts: Ints,
    limits: tuple[int, int, int, int, int],
) -> None:
    """Inverse of `_write_band`."""
    num_levels, unary, escape_bits, max_count, clip = limits
    rows, width = codes.shape
    level = _level(means, kinds, activity, expected, num_levels).reshape(-1)
    above, size, count = state[0], state[1], np.int64(state[2])
    magnitude, alive = np.zeros(rows * width, np.int32), np.arange(rows * width)
    num_alive = rows * width
    for number in range(unary):
        if not num_alive:
            break
        left, seen, remaining = _units_of(counts[:, number]), np.zeros((num_levels, 2), np.int64), 0
        for i in range(num_alive):
            element = alive[i]
            context = level[element]
            above, size, count, bit = _read(words, above, size, count, left[context])
            magnitude[element] += int(bit)
            seen[context, int(bit)] += 1
            alive[remaining] = element
            remaining += int(bit)
        num_alive = remaining
        _adapt(counts, number, seen, max_count)
    for i in range(num_alive):
        value = 0
        for shift in range(escape_bits):
            above, size, count, bit = _read(words, above, size, count, _HALF)
            value |= int(bit) << shift
        magnitude[alive[i]] = value
    for row in range(rows):
        for column in range(width):
            value = magnitude[row * width + column]
            if value:
                above, size, count, bit = _read(words, above, size, count, _HALF)
                codes[row, column] = -value if bit else value
            activity[row] += min(value, clip)
            expected[row] += np.int64(means[kinds[row], column])
    state[0], state[1], state[2] = above, size, np.uint64(count)
