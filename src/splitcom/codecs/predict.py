"""Prediction of tokens: from their own reference moved by a shared linear map, or from a recent similar token.

Everything is in integer coordinates (see `basis`), so that both ends predict the same to the last bit.

    own reference ─► + drift map ─┐
    recent tokens ─► pointer ─────┼─► the cheapest ─► prediction ─► + step · code ─► coordinates
    zero (the mean) ──────────────┘

A pointer names a recent token, and moves on by one with every token: text repeats itself in runs (as in LZ77,
but the tokens need only be similar).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from splitcom.codecs.basis import COORDINATE_BITS
from splitcom.codecs.coder import BitModel, Coder, code_uints
from splitcom.codecs.stage import ArgumentError, Place, Stage, register
from splitcom.codecs.wire import Bools, Ints

Floats = npt.NDArray[np.float64]

UNIT = 1 << COORDINATE_BITS
"""Coordinate units in a step."""
LIMIT = 1 << 15
"""Coordinates are clipped to this magnitude."""


@register
@dataclass(frozen=True)
class Predict(Stage):
    """Code what a prediction from references misses; see the module.

    Args:
        window: how many recent tokens a pointer can name; 0 for none.
        rank: of an update of the drift map in one packet; 0 for no map.
    """

    name = "predict"
    place = Place.PREDICT

    window: int = 8192
    rank: int = 4

    def __post_init__(self) -> None:
        if not 0 <= self.window <= 1 << 20:
            raise ArgumentError("window", f"must be 0 to {1 << 20}, not {self.window}")
        if not 0 <= self.rank <= 255:
            raise ArgumentError("rank", f"must be 0 to 255, not {self.rank}")


@dataclass
class Modes:
    """How each token of a batch is predicted: bool `[tokens]` and, of tokens that jump, the new pointer."""

    usual: Bools
    """From its own reference where there is one, else from where the pointer is."""
    jump: Bools
    """From where the pointer jumps to."""
    zero: Bools
    """From nothing. What is none of the three is predicted from the pointer in spite of a reference."""
    distances: Ints
    """Of each jump: how many tokens before the end of what is known of the window."""

    @classmethod
    def all_usual(cls, tokens: int) -> "Modes":
        """No token departs from the default."""
        flags = np.zeros((3, tokens), np.bool_)
        return cls(~flags[0], flags[1], flags[2], np.zeros(0, np.int64))


class ModeModel:
    """Codes modes; `bits` has 2 contexts for samples and 2 · 4 for tokens."""

    def __init__(self, bits: BitModel) -> None:
        self.bits = bits

    @classmethod
    def new(cls) -> "ModeModel":
        """A model that has seen nothing."""
        return cls(BitModel.new(10))

    def code(self, coder: Coder, modes: Modes | None, known: Bools, lengths: Ints, width: int) -> Modes:
        """`known` `[batch]` tells which samples have a reference; distances have `width` bits."""
        tokens = np.repeat(known, lengths).astype(np.int64)
        starts = np.cumsum(lengths) - lengths
        plain = None if modes is None else np.logical_and.reduceat(modes.usual, starts)
        plain = self.bits.code(coder, known.astype(np.int64), plain)
        usual = np.repeat(plain, lengths)
        rest = np.flatnonzero(~usual)
        usual[rest] = self.bits.code(coder, 2 + tokens[rest], None if modes is None else modes.usual[rest])
        jump, zero = np.zeros_like(usual), np.zeros_like(usual)
        rest = np.flatnonzero(~usual)
        jump[rest] = self.bits.code(coder, 4 + tokens[rest], None if modes is None else modes.jump[rest])
        rest = np.flatnonzero(~usual & ~jump)
        zero[rest] = self.bits.code(coder, 6 + tokens[rest], None if modes is None else modes.zero[rest])
        distances = code_uints(coder, None if modes is None else modes.distances, int(jump.sum()), width)
        return Modes(usual, jump, zero, distances)


class Window:
    """Recent tokens, the newest last, which grows as samples of the batch become known."""

    def __init__(self, recent: Ints, batch_tokens: int) -> None:
        self._tokens = np.zeros((len(recent) + batch_tokens, recent.shape[1]), np.int64)
        self._tokens[: len(recent)] = recent
        self.size = len(recent)
        self._last_start = max(0, len(recent) - 1)

    @property
    def tokens(self) -> Ints:
        """`[size, directions]`."""
        return self._tokens[: self.size]

    def append(self, sample: Ints) -> None:
        """Add a sample's tokens."""
        self._last_start = self.size
        self._tokens[self.size : self.size + len(sample)] = sample
        self.size += len(sample)

    def pointers(self, jump: Bools, distances: Ints) -> Ints:
        """Where the pointer is at each token of a sample, which begins at the sample before."""
        steps = np.arange(len(jump))
        base = np.full(len(jump), self._last_start)
        base[jump] = np.maximum(self.size - 1 - distances, 0) - steps[jump]
        last = np.maximum.accumulate(np.where(jump, steps, -1))
        return np.minimum(np.where(last >= 0, base[last], self._last_start) + steps, max(self.size - 1, 0))

    def predict(self, jump: Bools, zero: Bools, distances: Ints) -> Ints:
        """What the pointer predicts for each token of a sample."""
        if not self.size:
            return np.zeros((len(jump), self._tokens.shape[1]), np.int64)
        predicted = self._tokens[self.pointers(jump, distances)]
        predicted[zero] = 0
        return predicted


def spent(residual: Floats | Ints) -> Floats:
    """About the bits that a residual `[..., directions]` costs, its error included as what it would cost."""
    return np.asarray(np.log2(1.0 + (residual * (2.0 / UNIT)) ** 2).sum(-1))


def plan(
    coordinates: Floats, own: Ints, known: Bools, lengths: Ints, window: Window, dead_zone: float
) -> tuple[Modes, Ints]:
    """Modes and codes: the cheapest prediction of each token, chosen greedily from left to right; only the sender does.

    `own` `[tokens, directions]` is what each token's own reference predicts, of samples that are `known`.
    """
    modes = Modes.all_usual(len(coordinates))
    codes = np.zeros_like(own)
    distances = []
    end = 0
    for length, is_known in zip(lengths.tolist(), known.tolist(), strict=True):
        end, start = end + length, end
        rows = slice(start, end)
        predicted = own[rows]
        if not is_known or quantized(coordinates[rows] - predicted, dead_zone).any():
            chosen = _choose(coordinates[rows], own[rows] if is_known else None, window)
            modes.usual[rows], modes.jump[rows], modes.zero[rows] = chosen.usual, chosen.jump, chosen.zero
            distances.append(chosen.distances)
            predicted = predict_sample(chosen, own[rows] if is_known else None, window)
        codes[rows] = quantized(coordinates[rows] - predicted, dead_zone)
        window.append(restore(predicted, codes[rows]))
    modes.distances = np.concatenate([*distances, modes.distances])
    return modes, codes


def replay(modes: Modes, codes: Ints, own: Ints, known: Bools, lengths: Ints, window: Window) -> Ints:
    """The coordinates that the sender had planned."""
    restored = np.zeros_like(own)
    end = first = 0
    for length, is_known in zip(lengths.tolist(), known.tolist(), strict=True):
        end, start = end + length, end
        rows = slice(start, end)
        num_jumps = int(modes.jump[rows].sum())
        distances = modes.distances[first : first + num_jumps]
        first += num_jumps
        sample = Modes(modes.usual[rows], modes.jump[rows], modes.zero[rows], distances)
        predicted = predict_sample(sample, own[rows] if is_known else None, window)
        restored[rows] = restore(predicted, codes[rows])
        window.append(restored[rows])
    return restored


def predict_sample(modes: Modes, own: Ints | None, window: Window) -> Ints:
    """The prediction `[tokens, directions]` of a sample whose reference predicts `own`, if it has one."""
    pointed = window.predict(modes.jump, modes.zero, modes.distances)
    return pointed if own is None else np.where(modes.usual[:, None], own, pointed)


def quantized(residual: Floats, dead_zone: float) -> Ints:
    """Steps nearest to a residual; `dead_zone` of a step more is taken for zero on both sides of it."""
    steps = np.abs(residual) / UNIT
    codes = np.where(steps < 0.5 + dead_zone, 0.0, np.rint(steps).clip(1)) * np.sign(residual)
    return np.asarray(codes.clip(-LIMIT, LIMIT).astype(np.int64))


def restore(predicted: Ints, codes: Ints) -> Ints:
    """Coordinates from a prediction and what it missed."""
    return (predicted + UNIT * codes).clip(-LIMIT, LIMIT)


def _nearest(points: npt.NDArray[np.float32], known: npt.NDArray[np.float32]) -> Ints:
    return np.asarray(((known**2).sum(1) - 2 * points @ known.T).argmin(1))


def _choose(coordinates: Floats, own: Ints | None, window: Window) -> Modes:
    modes = Modes.all_usual(len(coordinates))
    if not window.size:
        return modes
    known = window.tokens
    best = _nearest(coordinates.astype(np.float32), known.astype(np.float32))
    jump_cost = spent(coordinates - known[best]) + np.log2(window.size) + 4
    zero_cost = spent(coordinates) + 4
    usual_cost = None if own is None else spent(coordinates - own)
    distances = []
    pointer = window.pointers(modes.jump[:1], modes.distances)[0]
    for token in range(len(coordinates)):
        pointed_cost = spent(coordinates[token] - known[pointer])
        costs = [pointed_cost, jump_cost[token], zero_cost[token]]
        if usual_cost is not None:
            costs = [usual_cost[token], costs[1], costs[2], pointed_cost + 4]
        choice = int(np.argmin(costs))
        modes.usual[token], modes.jump[token], modes.zero[token] = choice == 0, choice == 1, choice == 2
        if choice == 1:
            pointer = int(best[token])
            distances.append(window.size - 1 - pointer)
        pointer = min(pointer + 1, window.size - 1)
    modes.distances = np.array(distances, np.int64)
    return modes
