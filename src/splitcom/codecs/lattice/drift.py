"""A linear map of old coordinates that tells how a flow has moved since the references were taken.

    reference [1 | coordinates] ─► matrix ─► · gain / 2 ─► + reference ─► prediction       exact, in integers

All samples drift by the same change of the sender's weights, so one map serves all of them, where low-rank
residuals per sample (SplitLite, arXiv 2608.23018) send factors of their own for each. The sender fits what to
change in the map by ridge regression on the very tokens it is about to code, and sends the two factors where
that saves more than they cost.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from splitcom.codecs.lattice.basis import UNIT, exact_product
from splitcom.codecs.lattice.coder import MAX_MAGNITUDE, Coder, MatrixModel, code_uints
from splitcom.codecs.lattice.predict import LIMIT, spent
from splitcom.codecs.wire import Ints, Points

Floats = npt.NDArray[np.float32]
Products = npt.NDArray[np.float32] | npt.NDArray[np.float64]

_MAP_BITS = 12
_FACTOR_BITS = 5
_RIDGE = 0.02
_MAX_ENTRY = 1 << 18
_JUDGED = 1024  # tokens are about enough to tell which map costs least


@dataclass(frozen=True)
class Update:
    """What a packet says of the map: `gain` in halves, and factors `[1 + directions, rank]`, `[directions, rank]`."""

    gain: int
    left: Ints
    right: Ints

    @classmethod
    def none(cls, gain: int, directions: int) -> "Update":
        """A gain and no change of the map."""
        return cls(gain, np.zeros((1 + directions, 0), np.int64), np.zeros((directions, 0), np.int64))


def moved(reference: Points, matrix: Ints, gain: int) -> Points:
    """Where `reference` `[tokens, directions]` has moved to by a map `[1 + directions, directions]`."""
    return _plus(reference, _product(reference, matrix), gain)


def updated(matrix: Ints, update: Update, reference: Points) -> Ints:
    """The map that is used for this packet's references, which is then kept; with gain 2 where it changes."""
    return _updated(matrix, update, _spreads(reference)) if update.left.shape[1] else matrix


def _updated(matrix: Ints, update: Update, spreads: Ints) -> Ints:
    change = (update.left @ update.right.T << _MAP_BITS - _FACTOR_BITS) // spreads[:, None]
    return ((matrix * update.gain >> 1) + change).clip(-_MAX_ENTRY, _MAX_ENTRY)


def predicted(reference: Points, matrix: Ints, update: Update) -> Points:
    """Where `reference` has moved to by a map to which `update` has been applied."""
    return moved(reference, matrix, 2 if update.left.shape[1] else update.gain)


def fit(
    coordinates: Floats, reference: Points, matrix: Ints, rank: int, units: Points, weights: Floats
) -> Update:
    """The update that makes `reference` come closest to `coordinates` for its bits; only the sender knows how.

    `units` `[tokens, 1]` are the steps of the codes that the bits are spared in; `weights` `[tokens]` say how much of
    each token's length counts.
    """
    directions = reference.shape[1]
    product = _product(reference, matrix)
    some = slice(None, None, 1 + len(reference) // _JUDGED)  # tokens by which is judged, of `share` of all
    share = len(units[some]) / len(units)
    judged, spared = coordinates[some], units[some]
    gains = [
        float(spent(judged - _plus(reference[some], product[some], gain), spared).sum()) / share
        for gain in range(4)
    ]
    gain = int(np.argmin(gains))
    best, best_cost = Update.none(gain, directions), gains[gain]
    if not rank:
        return best
    inputs = _augmented(reference) * weights[:, None]
    missed = (coordinates - _plus(reference, product, gain)) * weights[:, None]
    gram = (inputs.T @ inputs).astype(np.float64)
    solution = np.linalg.solve(gram + np.diag(_RIDGE * np.diag(gram) + 1.0), inputs.T @ missed)
    effect = solution.T @ gram @ solution
    _, right = np.linalg.eigh(effect)
    right = right[:, ::-1]
    spreads = _spreads(reference)
    scaled = np.rint(solution @ right * spreads[:, None])
    if not np.abs(scaled).max() <= MAX_MAGNITUDE:  # also where there is a NaN: no map that would pay
        return best
    left = scaled.astype(np.int64)
    right = np.rint(right * (1 << _FACTOR_BITS)).astype(np.int64)
    size = 1
    while size <= min(rank, directions):
        update = Update(gain, left[:, :size], right[:, :size])
        side = (
            1.5 * np.log2(1.0 + np.abs(left[:, :size])).sum()
            + 1.5 * np.log2(1.0 + np.abs(right[:, :size])).sum()
        )
        moved_by = predicted(reference[some], _updated(matrix, update, spreads), update)
        cost = float(spent(judged - moved_by, spared).sum()) / share + side + size * (2 * directions)
        if cost < best_cost:
            best, best_cost = update, cost
        size *= 2
    return best


def code_update(coder: Coder, update: Update | None, directions: int) -> Update:
    """Code an update."""
    head = None if update is None else np.array([update.gain, update.left.shape[1]])
    gain = int(code_uints(coder, None if head is None else head[:1], 1, 2)[0])
    rank = int(code_uints(coder, None if head is None else head[1:], 1, 8)[0])
    left = _code_factor(coder, None if update is None else update.left, 1 + directions, rank)
    right = _code_factor(coder, None if update is None else update.right, directions, rank)
    return Update(gain, left, right)


def _code_factor(coder: Coder, factor: Ints | None, rows: int, rank: int) -> Ints:
    return MatrixModel.new(rank).code(coder, factor, rows, rank).astype(np.int64)


def _product(reference: Points, matrix: Ints) -> Products:
    product: Products = exact_product(_augmented(reference), matrix.astype(np.float32)).numpy()
    return product


def _plus(reference: Points, product: Products, gain: int) -> Points:
    whole: Ints = product.astype(np.int32 if product.dtype == np.float32 else np.int64)
    change = (gain * whole + (1 << _MAP_BITS)) >> _MAP_BITS + 1
    return np.asarray((reference + change.astype(np.float32)).clip(-LIMIT, LIMIT))


def _augmented(reference: Points) -> Points:
    augmented = np.empty((len(reference), 1 + reference.shape[1]), np.float32)
    augmented[:, 0], augmented[:, 1:] = UNIT, reference
    return augmented


def _spreads(reference: Points) -> Ints:
    """Root mean square of the map's inputs, at least 1, in integers."""
    inputs = _augmented(reference).astype(np.int64)
    mean_squares = np.einsum("nd,nd->d", inputs, inputs) // max(len(reference), 1)
    return np.asarray(np.maximum(np.sqrt(mean_squares.astype(np.float64)).astype(np.int64), 1))
