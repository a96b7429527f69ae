"""A basis of few directions in which a flow's tokens are coded; the sender finds it, both ends hold the same.

    token x ─► coordinates (x - mean) · pinv(directions) / step ─► rounded, coded
    token x̂ = step · (mean + coordinates · directions)          exact: integers times integers

All directions share one step: reverse water-filling gives each Gaussian direction the same distortion, and
nothing to those that vary less (Cover and Thomas, Elements of Information Theory, 10.3).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from splitcom.codecs.lattice.coder import MAX_MAGNITUDE, Codes
from splitcom.codecs.wire import Ints, Points

Floats = npt.NDArray[np.float64]

_DIRECTION_BITS = 12  # a direction's unit length in fixed point
_ROW_STEPS = (
    32  # rows as sent have 1/32 of the step as their unit: their error is a tenth of the coordinates'
)
_EXACT = 256  # directions of larger matrices are looked for by subspace iteration, so many first
_FEW = 32  # that are looked for first when there is a basis: mostly few are missing
_MANY = 4  # more than one in so many of all directions are found faster at once
_ROUNDS = 2
_FP32_RANGE = 1e12
_BLOCK = 512  # tokens whose numbers a core's cache holds while they are computed
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
    rows: Ints | Codes

    @cached_property
    def directions(self) -> Points:
        """The rows with unit length, in whole units of 2^-12; IEEE arithmetic without sums, the same everywhere."""
        lengths = np.sqrt(
            np.maximum(np.einsum("dh,dh->d", self.rows, self.rows, dtype=np.int64), 1).astype(np.float64)
        )
        return rounded(self.rows * float(1 << _DIRECTION_BITS) / lengths[:, None]).astype(np.float32)

    @cached_property
    def _inverse(self) -> Tensor:
        """fp32 `[hidden, directions]`: makes coordinates, in steps, of values around the mean; only the sender does."""
        return _pseudoinverse(self._units).float()

    @property
    def _units(self) -> Tensor:
        return torch.from_numpy(self.directions).double() / (1 << _DIRECTION_BITS)

    def coordinates(self, values: Tensor, step: float) -> Tensor:
        """Coordinates `[tokens, directions]` of `values` `[tokens, hidden]`, not yet rounded; the sender does this."""
        return self._coordinates(values, step, self._inverse)

    def _coordinates(self, values: Tensor, step: float, inverse: Tensor) -> Tensor:
        inverse = inverse.to(values)
        centre = torch.from_numpy(self.mean / _ROW_STEPS).to(values) @ inverse
        return (values @ inverse).mul_(1 / step).sub_(centre).mul_(UNIT)

    def extended_with(
        self, rows: Ints | Codes, values: Tensor, coordinates: Tensor, step: float
    ) -> tuple["Basis", Tensor]:
        """With more directions, and what `coordinates` of `values` are then; the sender does this.

        Of the new directions what is outside of the others counts. Neither inverse nor products begin anew.
        """
        basis, known = self.extended(rows), self._inverse.double()
        units = basis._units
        others, added = units[: len(self.rows)], units[len(self.rows) :]
        within = added @ known
        outside = _pseudoinverse(added - within @ others)
        new = self._coordinates(values, step, outside)
        basis.__dict__["_inverse"] = torch.cat([known - outside @ within, outside], 1).float()
        return basis, torch.cat([coordinates - new @ within.to(new), new], 1)

    def inverse(
        self,
        coordinates: Points,
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
        return exact_product(
            coordinates, self.directions, device, centre.reshape(-1), step / (1 << unit_bits)
        )

    def mean_value(self, coordinates: Points, step: float) -> Floats:
        """The mean over the tokens `[hidden]` of what `inverse` gives, but for its rounding."""
        inside = self.inside(coordinates.mean(0, dtype=np.float64), step)
        return np.asarray(inside + self.mean / _ROW_STEPS * step)

    def inside(self, coordinates: Floats, step: float) -> Floats:
        """What coordinates `[..., directions]` stand for without the mean, in fp64: `[..., hidden]`."""
        return np.asarray(coordinates @ self.directions * (step / (1 << _DIRECTION_BITS + COORDINATE_BITS)))

    def extended(self, rows: Ints | Codes) -> "Basis":
        """With more directions."""
        if not len(rows):
            return self
        basis = Basis(self.mean, np.concatenate([self.rows, rows]))
        basis.__dict__["directions"] = np.concatenate([self.directions, Basis(self.mean, rows).directions])
        return basis

    def missing(
        self, values: Tensor, coordinates: Tensor, step: float, most: int, threshold: float, scales: Floats
    ) -> Ints:
        """Rows `[at most `most`, hidden]` for what varies outside of the basis by more than `threshold`.

        `coordinates` are those of `values`; `step` is theirs. `scales` `[tokens]` are what each token's steps are to
        be multiplied by.
        """
        outside = _Outside.of(self, values, coordinates, step, scales)
        spread, directions = outside.principal(threshold)
        num = min(most, int((spread > threshold).sum()))
        rows = rounded(directions[:num] * spread[:num, None] * _ROW_STEPS)
        return rows[np.flatnonzero((rows != 0).any(1))].astype(np.int32)


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
    def of(cls, basis: Basis, values: Tensor, coordinates: Tensor, step: float, scales: Floats) -> "_Outside":
        mean = torch.from_numpy(basis.mean / _ROW_STEPS).to(values)
        directions = torch.from_numpy(basis.directions).to(values) / (1 << _DIRECTION_BITS + COORDINATE_BITS)
        return cls(values, torch.from_numpy(scales[:, None]).to(values), step, mean, coordinates, directions)

    def whole(self) -> Tensor:
        """The matrix itself."""
        return (self.values / self.step - self.coordinates @ self.directions - self.mean) * self.scales

    def squared_times(self, columns: Tensor) -> Tensor:
        """The transposed matrix times the matrix times `columns` `[hidden, n]`."""
        values, coordinates, scales = self.values, self.coordinates, self.scales
        scaled, inside, centre = columns / self.step, self.directions @ columns, self.mean @ columns
        # both products of a block of tokens while a core's cache holds it
        size = _BLOCK if values.device.type == "cpu" else len(values)
        result = torch.zeros_like(columns.mT)
        weighted = torch.empty(len(values), columns.shape[1], dtype=values.dtype, device=values.device)
        for start in range(0, len(values), size):
            rows = slice(start, start + size)
            product = values[rows] @ scaled - coordinates[rows] @ inside - centre
            weighted[rows] = product * scales[rows].square()
            result += weighted[rows].mT @ values[rows]
        inside = (weighted.mT @ coordinates) @ self.directions
        return (result / self.step - inside - weighted.sum(0)[:, None] * self.mean).mT

    def principal(self, threshold: float) -> tuple[Floats, Floats]:
        """As `principal` below; of large matrices perhaps only those of more than `threshold`.

        All of those: a direction that a packet leaves out is an error of all its tokens, which costs more later.
        """
        shape = self.values.shape
        subspace, size = self.values.new_empty(shape[1], 0), _FEW if len(self.directions) else _EXACT
        generator = torch.Generator().manual_seed(0)
        while min(shape) > _EXACT and size * _MANY <= min(shape):
            new = torch.randn(shape[1], size - subspace.shape[1], generator=generator).to(self.values)
            subspace = torch.linalg.qr(torch.cat([subspace, new], 1)).Q
            for _ in range(_ROUNDS - 1):
                subspace = torch.linalg.qr(self.squared_times(subspace)).Q
            subspace, energies = _left_vectors(self.squared_times(subspace))
            spread = np.sqrt(energies.double().cpu().numpy() / shape[0])
            if (spread > threshold).sum() <= size // 2:
                return spread, subspace.mT.double().cpu().numpy()
            size *= 2
        return principal(self.whole().double().cpu().numpy())


def _pseudoinverse(directions: Tensor) -> Tensor:
    """`[hidden, n]` of fp64 `[n, hidden]`, which are about as long as one another."""
    gram = directions @ directions.mT
    # those that rounding has made dependent must not stop it
    gram.diagonal().add_(1e-9 * gram.trace() / max(len(gram), 1))
    factor, _ = torch.linalg.cholesky_ex(gram)
    return directions.mT @ torch.cholesky_inverse(factor)


def _left_vectors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Left singular vectors `[rows, columns]` of a tall matrix, and its singular values, descending."""
    basis, triangle = torch.linalg.qr(matrix)
    vectors, lengths, _ = torch.linalg.svd(triangle)
    return basis @ vectors, lengths


def exact_product(
    left: Points,
    right: Points,
    device: torch.device | str = "cpu",
    offset: Ints | None = None,
    scale: float = 1.0,
) -> Tensor:
    """`(left @ right + offset) * scale` of integers, rounded once, to fp32, if `scale` is of few bits, as steps are.

    Without an offset it is not rounded at all, in fp32 or fp64.

    A sum of some of the terms of an element is no larger than the lengths of row and column multiplied
    (Cauchy and Schwarz), and the offset. If that is below 2^24, or 2^53 in fp64, no sum is ever rounded, in whatever
    order a library adds: so all machines, threads, batches and devices have the same bits.
    """
    longest = float(np.sqrt(np.einsum("dh,dh->h", right, right, dtype=np.float64).max(initial=0)))
    lengths = np.sqrt(np.einsum("nd,nd->n", left, left, dtype=np.float32).astype(np.float64))
    beyond = 0 if offset is None else int(np.abs(offset).max(initial=0))
    # a few tokens are far longer than the others
    far = torch.from_numpy(np.flatnonzero(~(lengths * longest + beyond < 0.99 * 2**24))).to(device)
    factors, rows = torch.from_numpy(right).to(device), torch.from_numpy(left).to(device)
    added = None if offset is None else torch.from_numpy(offset.astype(np.float64)).to(device)
    result = torch.empty(len(left), right.shape[1], device=device)
    added32 = None if added is None else added.float()
    size = _BLOCK if result.device.type == "cpu" else len(left)
    for start in range(0, len(left), size):
        block = slice(start, start + size)
        torch.mm(rows[block], factors, out=result[block])
        if added32 is not None:
            result[block].add_(added32).mul_(scale)
    if not len(far):
        return result
    exact = rows[far].double() @ factors.double()
    if added is None:
        return result.double().index_copy_(0, far, exact)
    return result.index_copy_(0, far, (exact + added).mul_(scale).float())


def lengths_of(values: Tensor) -> Floats:
    """The norm of each token of `values` `[tokens, hidden]`: the one look at all of them before they are projected."""
    norms = torch.linalg.vector_norm(values.float(), dim=1)
    if not 1 / _FP32_RANGE < norms.max() < _FP32_RANGE:
        norms = torch.linalg.vector_norm(values.double(), dim=1)
    return np.asarray(norms.double().cpu().numpy())


def computable(values: Tensor, lengths: Floats, step: float | None) -> Tensor:
    """`values` in fp32, or in fp64 if squares of them or of steps might leave the range of fp32."""
    sizes = [float(lengths.max())] + ([] if step is None else [step])
    return values.float() if all(1 / _FP32_RANGE < size < _FP32_RANGE for size in sizes) else values.double()


def weights_of(lengths: Floats) -> Floats:
    """What makes tokens that are far longer than the others as long as a long one, by their `lengths`.

    1 for all others. Language models have a few tokens, mostly the first of a text, of up to 1,000 times the norm of
    the others (Sun et al., Massive Activations in Large Language Models, arXiv 2402.17762). Squares of such are all
    that a mean, a variance or a least-squares fit would see.
    """
    limit = _LONG * np.quantile(lengths, 0.75)
    return limit / np.maximum(lengths, limit) if limit else np.ones(len(lengths))


def mean_of(values: Tensor, step: float, weights: Floats) -> Ints:
    """The mean of a basis that begins with `values`: of those with weight 1."""
    mean = _usual(values, weights).mean(0).double().cpu().numpy()
    return rounded(mean / step * _ROW_STEPS)


def shift_of(missed: Floats, step: float, num_tokens: int) -> Ints:
    """The shift that makes up for what `num_tokens` tokens miss on average, `[hidden]`."""
    return rounded(missed / step * (1 << _shift_bits(num_tokens)))


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


def rounded(values: Floats) -> Ints:
    """The nearest integers, of at most the magnitude that a code may have."""
    known = np.nan_to_num(values)  # of values beyond all bounds there may be no direction to know
    return np.asarray(np.rint(known.clip(-MAX_MAGNITUDE, MAX_MAGNITUDE)).astype(np.int64))


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
