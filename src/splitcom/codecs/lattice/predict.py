"""Prediction of tokens: from their own reference moved by a shared map, a guess, or a recent similar token.

Everything is in integer coordinates (see `basis`), so that both ends predict the same to the last bit. A step is
a whole number of their units, and may be another one in every packet: references stay as they are.

    own reference ─► + drift map ─┐
    of new samples: a guess ──────┤
    recent tokens ─► pointer ─────┼─► the cheapest ─► prediction ─► + step · code ─► coordinates
    zero (the mean) ──────────────┘

A pointer names a recent token, and moves on by one with every token: text repeats itself in runs (as in LZ77,
but the tokens need only be similar).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from splitcom.codecs.lattice.coder import MAX_MAGNITUDE, BitModel, Coder, Codes, code_uints
from splitcom.codecs.wire import Bools, Floats, Floats32, Ints, Points

_FLAG_BITS = 4  # about what it costs to depart from the usual prediction
_SEARCHED = 32  # directions; the later ones hold little
_BLOCK = 128  # tokens that are searched for at once: their distances fit a core's cache
_CANDIDATES = 4  # similar tokens in these, of which a jump goes to the cheapest
_FITTED, _TOO_FEW = 512, 32  # how many tokens gains are fitted to, and how few not
_MANY, _TRIED = 128, 8  # of so many tokens of a sample with a reference, each eighth is searched for first
_RUN = 64  # tokens that are looked at before the next jump is known
_NEXT_RUN = 8  # the same right after a jump, where the next may be near
_USUAL, _JUMP, _ZERO = range(3)  # what a token may choose, or the pointer in spite of its own reference
LIMIT = MAX_MAGNITUDE
"""Coordinates are clipped to this magnitude."""


@dataclass
class Modes:
    """How each token of a batch is predicted: bool `[tokens]` and, of tokens that jump, the new pointer."""

    usual: Bools
    """From its own reference if there is one, else from where the pointer is."""
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
    """Codes modes; `bits` has 2 contexts for samples, 3 · 2 for tokens of new and of known ones, 3 for guessed ones."""

    def __init__(self, bits: BitModel) -> None:
        self.bits = bits

    @classmethod
    def new(cls) -> "ModeModel":
        """A model that has seen nothing."""
        return cls(BitModel.new(11))

    def code(
        self, coder: Coder, modes: Modes | None, known: Bools, lengths: Ints, guessed: Bools, width: int
    ) -> Modes:
        """`known` `[batch]` tells which samples have a reference, `guessed` `[tokens]` which tokens of the others have
        a guess; distances have `width` bits.
        """
        of_known = np.repeat(known, lengths)
        starts = np.cumsum(lengths) - lengths
        plain = None if modes is None else np.logical_and.reduceat(modes.usual, starts)
        plain = self.bits.code(coder, known.astype(np.int64), plain)
        usual = np.repeat(plain, lengths)

        def code(place: int, flags: Bools, rest: Bools, given: Bools | None) -> None:
            context = np.where(guessed, 8 + place, 2 + 2 * place + of_known)[rest]
            flags[rest] = self.bits.code(coder, context, None if given is None else given[rest])

        jump, zero = np.zeros_like(usual), np.zeros_like(usual)
        code(0, usual, ~usual, None if modes is None else modes.usual)
        code(1, jump, ~usual, None if modes is None else modes.jump)
        code(2, zero, ~usual & ~jump, None if modes is None else modes.zero)
        distances = code_uints(coder, None if modes is None else modes.distances, int(jump.sum()), width)
        return Modes(usual, jump, zero, distances)


class Kept(Protocol):
    """Tokens that are read only if they are asked for: later visits mostly name none."""

    @property
    def size(self) -> int:
        """How many these are."""

    def read(self, rows: Points) -> None:
        """Fill `rows` `[size, directions]`, zeros so far, the newest token last."""


class Window:
    """Recent tokens `[size, directions]`, the newest last, which grows as samples of the batch become known."""

    def __init__(self, recent: Kept, room: int, directions: int) -> None:
        self._recent, self._shape = recent, (recent.size + room, directions)
        self._appended: list[tuple[int, Points]] = []
        self.size = recent.size
        self._last_start = max(0, self.size - 1)
        self.gains: Points | None = None
        """`[directions]`: the whole eighths of a token that are its prediction; None takes all of it."""

    @cached_property
    def _tokens(self) -> Points:
        tokens = np.zeros(self._shape, np.float32)
        self._recent.read(tokens[: self._recent.size])
        for start, sample in self._appended:
            tokens[start : start + len(sample)] = sample
        return tokens

    @cached_property
    def _searched(self) -> Points:
        """What a search multiplies: half the square of each token's first coordinates, and these."""
        searched = np.zeros((self._shape[0], 1 + min(_SEARCHED, self._shape[1])), np.float32)
        _fill(searched[: self.size], self._tokens[: self.size])
        return searched

    def append(self, sample: Points) -> None:
        """Add a sample's tokens, where there is room."""
        if self.size + len(sample) <= self._shape[0]:
            self._put(sample)

    @contextmanager
    def beside(self, tokens: Floats32) -> Iterator[None]:
        """Add tokens for the time being, as far as there is room."""
        size, last_start = self.size, self._last_start
        self._put(tokens[: self._shape[0] - size])
        yield
        self.size, self._last_start = size, last_start

    def _put(self, tokens: Points) -> None:
        rows = slice(self.size, self.size + len(tokens))
        if "_tokens" in self.__dict__:
            self._tokens[rows] = tokens
        else:
            self._appended.append((self.size, tokens))
        if "_searched" in self.__dict__:
            _fill(self._searched[rows], tokens)
        self._last_start, self.size = self.size, rows.stop

    def nearest(self, coordinates: Floats32, count: int = 1) -> Ints:
        """The `count` most similar tokens to each of some in the first directions, `[n, count]`, the nearest first; no
        more than there are. Only the sender searches.
        """
        searched = self._searched
        wanted = np.ones((len(coordinates), searched.shape[1]), np.float32)
        count = min(count, self.size)
        best = np.zeros((len(coordinates), count), np.int64)
        with np.errstate(over="ignore", invalid="ignore"):  # far beyond fp32 any token is as good as another
            wanted[:, 1:] = -coordinates[:, : wanted.shape[1] - 1]
            for start in range(0, len(wanted), _BLOCK):
                rows = slice(start, start + _BLOCK)
                distances = wanted[rows] @ searched[: self.size].T
                for place in range(count):
                    best[rows, place] = nearest = distances.argmin(1)
                    distances[np.arange(len(nearest)), nearest] = np.inf
        return best

    def at(self, pointers: Ints) -> Points:
        """What the tokens at pointers `[n]` predict; zeros in an empty window."""
        if not self.size:
            return np.zeros((len(pointers), self._shape[1]), np.float32)
        named = self._tokens[: self.size].take(pointers, 0, mode="clip")
        # exact: integers below 2^24, and a power of two
        return named if self.gains is None else np.rint(named * self.gains * np.float32(1 / 8))

    def pointers(self, jump: Bools, distances: Ints) -> Ints:
        """Where the pointer is at each token of a sample, which begins at the sample before."""
        steps = np.arange(len(jump))
        base = np.full(len(jump), self._last_start)
        base[jump] = np.maximum(self.size - 1 - distances, 0) - steps[jump]
        last = np.maximum.accumulate(np.where(jump, steps, -1))
        return np.where(last >= 0, base[last], self._last_start) + steps


def _fill(searched: Points, tokens: Floats32) -> None:
    searched[:, 1:] = tokens[:, : searched.shape[1] - 1]
    searched[:, 0] = (searched[:, 1:] ** 2).sum(1) / 2


def fitted_gains(coordinates: Floats32, window: Window, units: Points, bands: list[slice]) -> Ints:
    """How many eighths of a similar token predict a new one best in each band of directions; only the sender does.

    Some of the later ones of new tokens `coordinates` are predicted from the others and from those in the `window`,
    which is then as it was.
    """
    half = len(coordinates) // 2
    some = slice(half, None, max(1, (len(coordinates) - half) // _FITTED))
    wanted, found = coordinates[some], np.full(len(bands), 8)
    if len(wanted) < _TOO_FEW:
        return found
    with window.beside(coordinates[:half]):
        if not window.size:
            return found
        named = window.at(window.nearest(wanted)[:, 0])
    alike = spent(wanted - named, units[some]) < spent(wanted, units[some])
    wanted, named = wanted[alike].astype(np.float64), named[alike].astype(np.float64)
    if len(wanted) < _TOO_FEW:
        return found
    for index, band in enumerate(bands):
        energy = (named[:, band] ** 2).sum()
        if energy > 0:
            found[index] = np.rint(8 * (wanted[:, band] * named[:, band]).sum() / energy).clip(0, 8)
    return found


def spent(residual: Floats32, units: Points) -> Floats32:
    """About the bits that a residual `[..., directions]` costs, its error included as what it would cost."""
    steps = residual * (np.float32(2) / units)
    steps *= steps
    steps += np.float32(1)
    return np.asarray(np.log2(steps, out=steps).sum(-1))


def plan(
    coordinates: Floats32,
    own: Points,
    has_own: Bools,
    known: Bools,
    lengths: Ints,
    window: Window,
    dead_zones: Floats,
    units: Points,
) -> tuple[Modes, Codes, Points]:
    """Modes, codes and what `replay` makes of them: the cheapest prediction of each token, chosen greedily from left
    to right; only the sender does.

    `own` `[tokens, directions]` is what each token's own reference or guess predicts, if it `has_own`, as all tokens of
    samples have that are `known`. `dead_zones` `[batch]` are as in `quantized`; `units` `[tokens, 1]` are the steps of
    the codes.
    """
    modes = Modes.all_usual(len(coordinates))
    codes, restored = np.zeros(own.shape, np.int32), np.zeros_like(own)
    distances = []
    end = 0
    for length, is_known, dead_zone in zip(
        lengths.tolist(), known.tolist(), dead_zones.tolist(), strict=True
    ):
        end, start = end + length, end
        rows = slice(start, end)
        predicted = own[rows]
        if not is_known or (np.abs(coordinates[rows] - predicted) >= (0.5 + dead_zone) * units[rows]).any():
            chosen = _choose(coordinates[rows], own[rows], has_own[rows], window, units[rows])
            modes.usual[rows], modes.jump[rows], modes.zero[rows] = chosen.usual, chosen.jump, chosen.zero
            distances.append(chosen.distances)
            predicted = predict_sample(chosen, own[rows], has_own[rows], window)
            codes[rows] = quantized(coordinates[rows] - predicted, dead_zone, units[rows])
        restored[rows] = restore(predicted, codes[rows], units[rows])
        window.append(restored[rows])
    modes.distances = np.concatenate([*distances, modes.distances])
    return modes, codes, restored


def replay(
    modes: Modes, codes: Codes, own: Points, has_own: Bools, lengths: Ints, window: Window, units: Points
) -> Points:
    """The coordinates that the sender had planned."""
    restored = np.zeros_like(own)
    end = first = 0
    for length in lengths.tolist():
        end, start = end + length, end
        rows = slice(start, end)
        num_jumps = int(modes.jump[rows].sum())
        distances = modes.distances[first : first + num_jumps]
        first += num_jumps
        sample = Modes(modes.usual[rows], modes.jump[rows], modes.zero[rows], distances)
        predicted = predict_sample(sample, own[rows], has_own[rows], window)
        restored[rows] = restore(predicted, codes[rows], units[rows])
        window.append(restored[rows])
    return restored


def predict_sample(modes: Modes, own: Points, has_own: Bools, window: Window) -> Points:
    """The prediction `[tokens, directions]` of a sample of which some tokens have one of their own."""
    from_own = modes.usual & has_own
    if from_own.all():
        return own
    predicted, rest = own.copy(), ~from_own
    predicted[rest] = window.at(window.pointers(modes.jump, modes.distances)[rest])
    predicted[modes.zero] = 0
    return predicted


def quantized(residual: Floats32, dead_zone: float, units: Points) -> Codes:
    """Steps of `units` `[tokens, 1]` nearest to a residual; `dead_zone` of a step more is taken for zero."""
    steps = (residual / units).clip(-LIMIT, LIMIT)
    codes: Codes = np.rint(steps).astype(np.int32)
    if dead_zone:  # below 0.5 a step is 0 only by rounding, above it where the dead zone says so
        size = np.abs(steps)
        codes[size < 0.5 + dead_zone] = 0
        if dead_zone < 0:
            near = (size >= 0.5 + dead_zone) & (codes == 0)
            codes[near] = np.sign(steps[near])
    return codes


def restore(predicted: Points, codes: Codes, units: Points) -> Points:
    """Coordinates from a prediction and what it missed, in steps of `units` `[tokens, 1]`.

    Where fp32 would round, the result is clipped anyway.
    """
    return np.asarray((predicted + units * codes.astype(np.float32)).clip(-LIMIT, LIMIT))


def _choose(coordinates: Floats32, own: Points, has_own: Bools, window: Window, units: Points) -> Modes:
    num_tokens = len(coordinates)
    zero_cost = spent(coordinates, units) + _FLAG_BITS
    own_cost = np.full(num_tokens, np.inf, np.float32)
    own_cost[has_own] = spent(coordinates[has_own] - own[has_own], units[has_own])
    jump_cost, best = _jumps(coordinates, own, has_own, window, units, own_cost)

    def choices(tokens: slice | Ints, pointers: Ints) -> list[int]:
        pointed = spent(coordinates[tokens] - window.at(pointers), units[tokens])
        usual = np.where(has_own[tokens], own_cost[tokens], pointed)
        costs = [usual, jump_cost[tokens], zero_cost[tokens], pointed + _FLAG_BITS]
        found: list[int] = np.argmin(costs, axis=0).tolist()
        return found

    # where text does not repeat itself jumps follow one another: all that may follow one are looked at at once
    may_jump = jump_cost <= np.minimum(zero_cost, own_cost)
    after = np.flatnonzero(may_jump[:-1]) + 1
    followed = dict(zip(after.tolist(), choices(after, best[after - 1] + 1), strict=True))
    chosen: list[int] = []
    pointer, ahead = int(window.pointers(np.zeros(1, np.bool_), best[:0])[0]), _RUN
    while (start := len(chosen)) < num_tokens:
        if chosen and chosen[-1] == _JUMP:
            run, pointer, ahead = [followed[start]], int(best[start - 1]) + 1, _NEXT_RUN
        else:
            tokens = slice(start, min(start + ahead, num_tokens))
            run = choices(tokens, pointer + np.arange(tokens.stop - start))
            ahead = min(2 * ahead, _RUN)
            if _JUMP in run:
                run = run[: run.index(_JUMP) + 1]
        chosen += run
        pointer += len(run)
    choice = np.array(chosen)
    jump = choice == _JUMP
    return Modes(choice == _USUAL, jump, choice == _ZERO, window.size - 1 - best[jump])


def _jumps(
    coordinates: Floats32, own: Points, has_own: Bools, window: Window, units: Points, own_cost: Floats32
) -> tuple[Floats32, Ints]:
    """What a jump of each token costs, and where it goes; infinite if it cannot pay."""
    cost = np.full(len(coordinates), np.inf, np.float32)
    best = np.zeros(len(coordinates), np.int64)
    if not window.size:
        return cost, best
    pointer_bits = float(np.log2(window.size)) + _FLAG_BITS
    # those whose codes cost more than a pointer
    saved = np.full(len(cost), np.inf, np.float32)
    missed = coordinates[has_own] - own[has_own]
    rest = missed - units[has_own] * np.rint(missed / units[has_own])
    saved[has_own] = own_cost[has_own] - spent(rest, units[has_own])
    some = np.flatnonzero(saved > pointer_bits)
    if has_own.all() and len(some) >= _MANY:
        # samples seldom jump that have references: a part of a long one tells whether to go on
        tried = some[::_TRIED]
        _search(coordinates, tried, window, units, pointer_bits, cost, best)
        if not (cost[tried] < own_cost[tried]).any():
            return cost, best
        some = np.setdiff1d(some, tried, assume_unique=True)
    _search(coordinates, some, window, units, pointer_bits, cost, best)
    return cost, best


def _search(
    coordinates: Floats32,
    some: Ints,
    window: Window,
    units: Points,
    pointer_bits: float,
    cost: Floats32,
    best: Ints,
) -> None:
    """Find where some tokens jump to, and what that costs."""
    for place, near in enumerate(window.nearest(coordinates[some], _CANDIDATES).T):
        spends = spent(coordinates[some] - window.at(near), units[some]) + pointer_bits
        better = spends + _FLAG_BITS * (place > 0) < cost[some]  # of the nearest a run is likelier
        cost[some[better]], best[some[better]] = spends[better], near[better]
