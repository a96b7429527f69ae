"""From a guess of values to integer coordinates that both ends round alike, although their floats differ a little.

    guess ─► coordinates, fp64 ─► + shift ─► rounded to quarters of a step
                                     ▲
    for each token the first of a few shifts that leaves no coordinate near a border between two: the packet says which

A token whose coordinates are near a border with any of them is not guessed, nor is one with a coordinate far off.
If the ends differ by more than the margin all the same, the packet's checksum does not fit.
"""

import numpy as np
from torch import Tensor

from splitcom.codecs.guess import Guess
from splitcom.codecs.lattice.basis import UNIT, Basis
from splitcom.codecs.lattice.coder import BitModel, Coder, code_magnitudes
from splitcom.codecs.wire import Bools, Floats, Ints, Points

_GRID = UNIT // 4
_MARGIN = (
    1 / 128
)  # of a unit; SmolLM2's front in fp32 and fp64 differs by more in a few of a million coordinates
_SHIFTS = np.array([0.0] + [sign * place / 32 for place in range(1, 8) for sign in (1, -1)])  # in units
_GROUP = 64  # columns that have a shift of their own: of many, one is near a border with any
_LONGEST = 1 << 13  # units: of such a coordinate the margin is a few roundings of fp32


def guessed_of(guess: Guess | None, ids: list[int], lengths: Ints, new: Bools) -> tuple[Bools, Tensor] | None:
    """What a guess, if there is one, tells of the samples of a batch that are `new` `[batch]`: which tokens
    `[tokens]`, and their values.
    """
    some = [sample_id for sample_id, is_new in zip(ids, new, strict=True) if is_new]
    found = None if guess is None else guess.of(some, lengths[new])
    if found is None:
        return None
    tokens = np.zeros(int(lengths.sum()), np.bool_)
    tokens[np.repeat(new, lengths)] = found[0]
    return tokens, found[1]


def code_guessed(
    coder: Coder, model: BitModel, basis: Basis, step: float, values: Tensor, *, sends: bool
) -> tuple[Bools, Points]:
    """Code the shifts of `values` `[n, hidden]`; gives which of them are guesses, and their coordinates `[n, dims]`.

    The sender's says which; `model` is that of `new_model`.
    """
    exact = basis.exact_coordinates(values, step).cpu().numpy()
    # of a packet that says it has another step or basis than any sender's
    exact = np.nan_to_num(exact).clip(-2 * _LONGEST, 2 * _LONGEST)
    groups = [slice(start, start + _GROUP) for start in range(0, exact.shape[1], _GROUP)]
    coordinates = np.zeros(exact.shape, np.float32)
    are_guesses = np.ones(len(exact), np.bool_)
    level, shifts = np.zeros(len(exact), np.int64), np.append(_SHIFTS, 0.0)
    for group in groups:
        wanted = _shifts_of(exact[:, group]) if sends else None
        places = code_magnitudes(coder, model, level, wanted, len(_SHIFTS) + 1, 0)
        are_guesses &= places < len(_SHIFTS)
        coordinates[:, group] = _GRID * np.rint((exact[:, group] + shifts[places][:, None]) / _GRID)
    return are_guesses, coordinates[are_guesses]


def new_model() -> BitModel:
    """One that has seen nothing."""
    return BitModel.new(len(_SHIFTS) + 1)


def _shifts_of(exact: Floats) -> Ints:
    """The first shift of each token that leaves none of its coordinates `[n, dims]` near a border."""
    places = np.full(len(exact), len(_SHIFTS))
    left = np.flatnonzero((np.abs(exact) <= _LONGEST).all(1))
    for place, shift in enumerate(_SHIFTS):
        steps = (exact[left] + shift) / _GRID
        is_good = (np.abs(steps - np.floor(steps) - 0.5) > _MARGIN / _GRID).all(1)
        places[left[is_good]] = place
        left = left[~is_good]
    return places
