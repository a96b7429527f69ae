"""A linear map of old coordinates that tells how a flow has moved since the references were taken.

    reference [1 | coordinates] ─► matrix ─► · gain / 2 ─► + reference ─► prediction       exact, in integers

All samples drift by the same change of the sender's weights, so one map serves all of them, where low-rank
residuals per sample (SplitLite, arXiv 2608.23018) send factors of their own for each. The sender fits what to
change in the map by ridge regression on the very tokens it is about to code, and sends the two factors where
that saves more than they cost.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from splitcom.codecs.lattice.basis import UNIT, exact_product
from splitcom.codecs.lattice.coder import MAX_MAGNITUDE, Coder, MatrixModel, code_uints
from splitcom.codecs.lattice.predict import LIMIT, spent
from splitcom.codecs.wire import Floats, Floats32, Ints, Points

Products = Floats32 | Floats

_MAP_BITS = 12
_FACTOR_BITS = 5
_RIDGE = 0.02
_MAX_ENTRY = 1 << 18
_MOVED = 256  # directions that a new map moves, and moves by: the first, which are mostly the strongest
_JUDGED = 1024  # tokens are about enough to tell which map costs least
_WIDER, _ROUNDS = 4, 4  # of the subspace in which a few eigenvectors are looked for: times their number


@dataclass(frozen=True)
class Update:
    """What a packet says of the map: `gain` in halves, and factors `[1 + directions, rank]`, `[directions, rank]`."""

    gain: int
    left: Ints
    right: Ints

    @classmethod
    def none(cls, gain: int, directions: int) -> "Update":
        """A gain and no change of the map."""
        return cls.padded(gain, np.zeros((1, 0), np.int64), np.zeros((0, 0), np.int64), directions)

    @classmethod
    def padded(cls, gain: int, left: Ints, right: Ints, directions: int) -> "Update":
        """With zeros for the directions of which the factors do not speak."""
        below = ((0, directions - len(right)), (0, 0))
        return cls(gain, np.pad(left, below), np.pad(right, below))


def moved(reference: Points, matrix: Ints, gain: int) -> Points:
    """Where `reference` `[tokens, directions]` has moved to by a map `[1 + inputs, outputs]`.

    Inputs and outputs of the map are the first directions, as many as it has.
    """
    return _plus(reference, _product(reference, matrix), gain)


def updated(matrix: Ints, update: Update, reference: Points) -> Ints:
    """The map that is used for this packet's references, which is then kept; with gain 2 where it changes."""
    if not update.left.shape[1]:
        return matrix
    left, right = _used(update.left), _used(update.right)
    result = np.zeros((max(len(matrix), len(left), 1), max(matrix.shape[1], len(right))), np.int64)
    result[: len(matrix), : matrix.shape[1]] = matrix * update.gain >> 1
    spreads = _spreads(reference[:, : max(len(left) - 1, 0)])[: len(left), None]
    result[: len(left), : len(right)] += (left @ right.T << _MAP_BITS - _FACTOR_BITS) // spreads
    return result.clip(-_MAX_ENTRY, _MAX_ENTRY)


def predicted(reference: Points, matrix: Ints, update: Update) -> Points:
    """Where `reference` has moved to by a map to which `update` has been applied."""
    return moved(reference, matrix, 2 if update.left.shape[1] else update.gain)


@dataclass(frozen=True)
class _Regression:
    """Ridge regression of what is missed `[tokens, n]` on inputs `[tokens, m]`, never solved for all of the map."""

    factor: Tensor
    """`[m, m]`: Cholesky's, of the inputs' products with one another and the ridge."""
    crossed: Tensor
    """`[m, n]`: the inputs' products with what is missed."""

    @classmethod
    def of(cls, inputs: Floats32, missed: Floats32) -> "_Regression":
        """Factorize what the inputs have in common."""
        gram = (inputs.T @ inputs).astype(np.float64)
        gram[np.diag_indices_from(gram)] = np.diag(gram) * (1 + _RIDGE) + 1.0
        factor, _ = torch.linalg.cholesky_ex(torch.from_numpy(gram))
        return cls(factor, torch.from_numpy((inputs.T @ missed).astype(np.float64)))

    def times(self, columns: Floats) -> Floats:
        """The map times `columns` `[n, k]`: `[m, k]`."""
        products = self.crossed @ torch.from_numpy(columns)
        return np.asarray(torch.cholesky_solve(products, self.factor).numpy())

    def strongest(self, count: int) -> Floats:
        """The `count` orthonormal columns `[n, count]` along which the map explains most, the best first."""
        crossed = self.crossed.numpy()
        size = crossed.shape[1]
        subspace = np.random.default_rng(0).standard_normal((size, min(_WIDER * count, size)))
        for _ in range(_ROUNDS):
            subspace = np.linalg.qr(crossed.T @ self.times(subspace))[0]
        vectors = np.linalg.eigh((crossed @ subspace).T @ self.times(subspace))[1]
        return np.asarray(subspace @ vectors[:, : -count - 1 : -1])


def fit(
    coordinates: Floats32, reference: Points, matrix: Ints, rank: int, units: Points, weights: Floats32
) -> Update:
    """The update that makes `reference` come closest to `coordinates` for its bits; only the sender knows how.

    `units` `[tokens, 1]` are the steps of the codes that the bits are spared in; `weights` `[tokens]` say how much of
    each token's length counts. Only the first directions get to move, which are mostly the strongest.
    """
    directions = reference.shape[1]
    width = min(directions, _MOVED)
    # what no map moves costs the same with all of them
    near = reference[:, : max(width, matrix.shape[1], len(matrix) - 1)]
    wanted, product = coordinates[:, : near.shape[1]], _product(near, matrix)
    some = slice(None, None, 1 + len(near) // _JUDGED)  # tokens by which is judged

    def cost(moved_by: Points) -> float:
        return float(spent(wanted[some] - moved_by, units[some]).sum()) * len(units) / len(units[some])

    tried = [_plus(near[some], product[some], gain) for gain in range(4)]
    costs = [cost(moved_by) for moved_by in tried]
    gain = int(np.argmin(costs))
    best, best_cost = Update.none(gain, directions), costs[gain]
    if not rank or not width:
        return best
    missed = (wanted - _plus(near, product, gain))[:, :width] * weights[:, None]
    inputs = _augmented(near[:, :width])
    regression = _Regression.of(inputs * weights[:, None], missed)
    columns = regression.strongest(min(rank, width))
    spreads = _spreads(near[:, :width])[:, None]
    scaled = np.rint(regression.times(columns) * spreads)
    if not np.abs(scaled).max() <= MAX_MAGNITUDE:  # also where there is a NaN: no map that would pay
        return best
    left = scaled.astype(np.int64)
    right = np.rint(columns * (1 << _FACTOR_BITS)).astype(np.int64)
    inputs = inputs[some] @ (left / (spreads << _FACTOR_BITS)).astype(np.float32)
    size = 1
    while size <= right.shape[1]:
        moved_by = tried[gain].copy()
        moved_by[:, :width] += np.rint(inputs[:, :size] @ right[:, :size].T.astype(np.float32))
        factors = left[:, :size], right[:, :size]
        side = sum(1.5 * float(np.log2(1.0 + np.abs(factor)).sum()) for factor in factors)
        found = cost(moved_by) + side + 2 * size * width
        if found < best_cost:
            best, best_cost = Update.padded(gain, *factors, directions), found
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
    inputs = _augmented(reference[:, : len(matrix) - 1])
    product: Products = exact_product(inputs, matrix.astype(np.float32)).numpy()
    return product


def _plus(reference: Points, product: Products, gain: int) -> Points:
    whole: Ints = product.astype(np.int32 if product.dtype == np.float32 else np.int64)
    whole *= gain
    whole += 1 << _MAP_BITS
    whole >>= _MAP_BITS + 1
    result = reference.copy()
    near = result[:, : whole.shape[1]]
    near += whole.astype(np.float32)
    near.clip(-LIMIT, LIMIT, out=near)
    return result


def _used(factor: Ints) -> Ints:
    """Its rows without the zeros at the end."""
    return factor[: int(np.flatnonzero(factor.any(1)).max(initial=-1)) + 1]


def _augmented(reference: Points) -> Points:
    augmented = np.empty((len(reference), 1 + reference.shape[1]), np.float32)
    augmented[:, 0], augmented[:, 1:] = UNIT, reference
    return augmented


def _spreads(reference: Points) -> Ints:
    """Root mean square of the map's inputs, at least 1, in integers."""
    inputs = _augmented(reference).astype(np.int64)
    mean_squares = np.einsum("nd,nd->d", inputs, inputs) // max(len(reference), 1)
    return np.asarray(np.maximum(np.sqrt(mean_squares.astype(np.float64)).astype(np.int64), 1))
