"""A basis of few directions in which a flow's tokens are coded; the sender finds it, both ends hold the same.

    token x ─► coordinates (x - mean) · pinv(directions) / step ─► rounded, coded
    token x̂ = step · (mean + coordinates · directions)          exact: integers times integers

All directions share one step: reverse water-filling gives each Gaussian direction the same distortion, and
nothing to those that vary less (Cover and Thomas, Elements of Information Theory, 10.3).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from splitcom.codecs.lattice.coder import MAX_MAGNITUDE
from splitcom.codecs.wire import Ints

Floats = npt.NDArray[np.float64]

_DIRECTION_BITS = 12  # a direction's unit length in fixed point
_ROW_STEPS = (
    32  # rows as sent have 1/32 of the step as their unit: their error is a tenth of the coordinates'
)
_EXACT = 256  # directions of larger matrices are found by subspace iteration, at most as many
_FEW = 16  # that are looked for first: mostly none is missing
_ROUNDS = 4
_FP32_RANGE = 1e12
_BLOCK = 128  # tokens whose numbers a core's cache holds while they are computed
_LONG = 4  # times the upper quartile of norms: a token longer than this is an exception
COORDINATE_BITS = 3
UNIT = 1 << COORDINATE_BITS
"""Coordinates are integers in units of 1/8 of the step of the flow's first packet: predictions fall between the
steps. A packet's own step is a whole number of units."""


@dataclass(frozen=True)
class Basis:
    """Mean and directions as they are sent: integers.

    `mean` `[hidden]` has 1/32 step as its unit. `rows` `[directions, hidden]` are not normalised: a row's
    length is the spread of the tokens along it, in 1/32 of a step of the packet that brought it, so that what
    varies more is sent more precisely.
    """

    mean: Ints
    rows: Ints

    @cached_property
    def directions(self) -> Ints:
        """The rows with unit length, in units of 2^-12; IEEE arithmetic without sums, the same everywhere."""
        lengths = np.sqrt(np.maximum((self.rows**2).sum(1), 1).astype(np.float64))
        return _rounded(self.rows * float(1 << _DIRECTION_BITS) / lengths[:, None])

    def forward(self, values: Tensor, step: float) -> Floats:
        """Coordinates `[tokens, directions]` of `values`, not yet rounded; only the sender needs them.

        They are computed in the precision of the values: what is built on them is rounded first, and sent.
        """
        inverse = _pseudo_inverse(self.directions / float(1 << _DIRECTION_BITS + COORDINATE_BITS))
        projection = torch.from_numpy(inverse / step).to(values)
        centre = torch.from_numpy(self.mean / _ROW_STEPS @ inverse)
        return np.asarray(((values @ projection).cpu() - centre.to(values.dtype)).numpy())

    def inverse(
        self,
        coordinates: Ints,
        step: float,
        device: torch.device | str,
        shift: Ints | None = None,
        units: int = UNIT,
    ) -> Tensor:
        """fp32 `[tokens, hidden]` of integer coordinates, all moved by a `shift` in steps of `units`."""
        unit_bits = _DIRECTION_BITS + COORDINATE_BITS
        centre = self.mean * (1 << unit_bits) // _ROW_STEPS
        if shift is not None:
            shift_bits = unit_bits - _shift_bits(len(coordinates))
            centre = centre + (shift * units << shift_bits >> COORDINATE_BITS)
        offset, scale = torch.from_numpy(centre.astype(np.float64)), step / (1 << unit_bits)
        result = torch.empty(len(coordinates), len(self.mean))
        for rows, product in exact_products(coordinates, self.directions):
            result[rows] = (product.double() + offset).mul_(scale).float()
        return result.to(device)

    def mean_value(self, coordinates: Ints, step: float) -> Floats:
        """The mean over the tokens `[hidden]` of what `inverse` gives, but for its rounding."""
        inside = coordinates.mean(0) @ self.directions / (1 << _DIRECTION_BITS + COORDINATE_BITS)
        return np.asarray((inside + self.mean / _ROW_STEPS) * step)

    def extended(self, rows: Ints) -> "Basis":
        """With more directions."""
        return Basis(self.mean, np.concatenate([self.rows, rows]))

    def missing(
        self, values: Tensor, coordinates: Floats, step: float, most: int, threshold: float, scales: Floats
    ) -> Ints:
        """Rows `[at most `most`, hidden]` for what varies outside of the basis by more than `threshold`.

        `coordinates` are those that `forward` gives; `step` is theirs. `scales` `[tokens]` are what each token's
        steps are to be multiplied by.
        """
        outside = _Outside.of(self, values, coordinates, step, scales)
        spread, directions = outside.principal(threshold)
        num = min(most, int((spread > threshold).sum()))
        rows = _rounded(directions[:num] * spread[:num, None] * _ROW_STEPS)
        return rows[np.flatnonzero((rows != 0).any(1))]


@dataclass(frozen=True)
class _Outside:
    """What tokens have outside of a basis, in steps: a matrix `[tokens, hidden]`, never formed if it is large."""

    values: Tensor
    scales: Tensor
    """`[tokens, 1]`"""
    step: float
    mean: Tensor
    coordinates: Tensor
    directions: Tensor

    @classmethod
    def of(cls, basis: Basis, values: Tensor, coordinates: Floats, step: float, scales: Floats) -> "_Outside":
        def like_values(array: Floats) -> Tensor:
            return torch.from_numpy(array).to(values)

        mean, directions = basis.mean / _ROW_STEPS, basis.directions / float(1 << _DIRECTION_BITS)
        inside = like_values(coordinates) / UNIT
        return cls(
            values, like_values(scales[:, None]), step, like_values(mean), inside, like_values(directions)
        )

    def whole(self) -> Tensor:
        """The matrix itself."""
        return (self.values / self.step - self.coordinates @ self.directions - self.mean) * self.scales

    def times(self, columns: Tensor) -> Tensor:
        """The matrix times `columns` `[hidden, n]`."""
        product = self.values @ (columns / self.step)
        return (product - self.coordinates @ (self.directions @ columns) - self.mean @ columns) * self.scales

    def transposed_times(self, columns: Tensor) -> Tensor:
        """The transposed matrix times `columns` `[tokens, n]`."""
        scaled = columns * self.scales
        product = ((scaled.mT / self.step) @ self.values).mT
        inside = self.directions.mT @ (self.coordinates.mT @ scaled)
        return product - inside - self.mean[:, None] * scaled.sum(0)

    def principal(self, threshold: float) -> tuple[Floats, Floats]:
        """As `principal` below; of large matrices only those of more than `threshold`, if not all, are precise."""
        shape = self.values.shape
        if min(shape) <= _EXACT:
            return principal(self.whole().double().cpu().numpy())
        subspace, size = self.values.new_empty(shape[1], 0), _FEW
        generator = torch.Generator().manual_seed(0)
        while True:
            new = torch.randn(shape[1], size - subspace.shape[1], generator=generator).to(self.values)
            subspace = torch.cat([subspace, new], 1)
            for _ in range(_ROUNDS):
                subspace = torch.linalg.qr(self.transposed_times(self.times(subspace))).Q
            images = self.times(subspace).double()
            energies, vectors = torch.linalg.eigh(images.mT @ images)
            spread = np.sqrt(energies.flip(0).clamp(min=0).cpu().numpy() / shape[0])
            if size == _EXACT or (spread > threshold).sum() <= size // 2:
                return spread, (subspace.double() @ vectors.flip(1)).mT.cpu().numpy()
            size *= 4


def exact_products(left: Ints, right: Ints) -> Iterator[tuple[slice, Tensor]]:
    """The product of integer matrices, rows by rows: fp32 where that is exact, else fp64.

    A sum of some of the terms of an element is no larger than the lengths of row and column multiplied
    (Cauchy and Schwarz). If that is below 2^24 in fp32, or 2^53 in fp64, no sum is ever rounded, in whatever order a
    library adds: so all machines, threads and batches have the same bits.
    """
    columns = right.astype(np.float64)
    longest = float(np.sqrt((columns**2).sum(0).max(initial=0)))
    factors = torch.from_numpy(columns)
    short_factors = factors.float()
    for start in range(0, len(left), _BLOCK):
        rows = slice(start, start + _BLOCK)
        block = torch.from_numpy(left[rows].astype(np.float64))
        is_short = float(block.square().sum(1).amax().sqrt()) * longest < 0.99 * 2**24
        yield rows, block.float() @ short_factors if is_short else block @ factors


def computable(values: Tensor, step: float | None) -> Tensor:
    """`values` in fp32, or in fp64 if squares of them or of steps might leave the range of fp32."""
    low, high = torch.aminmax(values)
    sizes = [max(-float(low), float(high))] + ([] if step is None else [step])
    return values.float() if all(1 / _FP32_RANGE < size < _FP32_RANGE for size in sizes) else values.double()


def weights_of(values: Tensor) -> Floats:
    """What makes tokens of `values` `[tokens, hidden]` that are far longer than the others as long as a long one.

    1 for all others. Language models have a few tokens, mostly the first of a text, of up to 1,000 times the norm of
    the others (Sun et al., Massive Activations in Large Language Models, arXiv 2402.17762). Squares of such are all
    that a mean, a variance or a least-squares fit would see.
    """
    norms = torch.linalg.vector_norm(values, dim=1).double().cpu().numpy()
    limit = _LONG * np.quantile(norms, 0.75)
    return limit / np.maximum(norms, limit) if limit else np.ones(len(norms))


def mean_of(values: Tensor, step: float, weights: Floats) -> Ints:
    """The mean of a basis that begins with `values`: of those with weight 1."""
    mean = _usual(values, weights).mean(0).double().cpu().numpy()
    return _rounded(mean / step * _ROW_STEPS)


def shift_of(missed: Floats, step: float, num_tokens: int) -> Ints:
    """The shift that makes up for what `num_tokens` tokens miss on average, `[hidden]`."""
    return _rounded(missed / step * (1 << _shift_bits(num_tokens)))


def _shift_bits(num_tokens: int) -> int:
    # errors of half a step would leave a mean of about half a step over the root of their number
    return min(3 + num_tokens.bit_length() // 2, _DIRECTION_BITS + COORDINATE_BITS)


def spread_of(values: Tensor, around_mean: bool, weights: Floats) -> float:
    """Root mean square of `values` with weight 1, around their mean over the tokens or around zero."""
    usual = _usual(values, weights)
    return float((usual - usual.mean(0) if around_mean else usual).square().mean().sqrt())


def _usual(values: Tensor, weights: Floats) -> Tensor:
    is_usual = weights == 1
    return values if is_usual.all() else values[torch.from_numpy(is_usual).to(values.device)]


def _rounded(values: Floats) -> Ints:
    known = np.nan_to_num(values)  # of values beyond all bounds there may be no direction to know
    return np.asarray(np.rint(known.clip(-MAX_MAGNITUDE, MAX_MAGNITUDE)).astype(np.int64))


def _pseudo_inverse(directions: Floats) -> Floats:
    """Of independent rows; the ridge is for those that rounding has made dependent."""
    gram = directions @ directions.T
    ridge = 1e-9 * np.trace(gram) / max(len(gram), 1)
    return np.asarray(directions.T @ np.linalg.inv(gram + ridge * np.eye(len(gram))))


def principal(centred: Floats) -> tuple[Floats, Floats]:
    """Spread (root mean square) along each principal direction, descending, and the directions as rows."""
    rows, width = centred.shape
    gram = centred.T @ centred if width <= rows else centred @ centred.T
    # fp32 is half the time, and exact enough for directions that are rounded anyway
    total = float(np.trace(gram)) or 1.0
    scaled = torch.from_numpy(gram / total)
    try:
        energies, vectors = torch.linalg.eigh(scaled.float())
    except RuntimeError:  # fp32 does not converge on many equal rows beside one far larger
        energies, vectors = torch.linalg.eigh(scaled)
    energies, vectors = energies.double().flip(0).clamp(min=0) * total, vectors.double().flip(1)
    directions = vectors.T.numpy() if width <= rows else vectors.T.numpy() @ centred
    lengths = np.sqrt((directions**2).sum(1, keepdims=True))
    return np.sqrt(energies.numpy() / rows), directions / np.where(lengths > 0, lengths, 1.0)
