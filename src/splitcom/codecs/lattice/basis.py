"""A basis of few directions in which a flow's tokens are coded; the sender finds it, both ends hold the same.

    token x ─► coordinates (x - mean) · pinv(directions) / step ─► rounded, coded
    token x̂ = step · (mean + coordinates · directions)          exact: integers times integers

All directions share one step: reverse water-filling gives each Gaussian direction the same distortion, and
nothing to those that vary less (Cover and Thomas, Elements of Information Theory, 10.3).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from splitcom.codecs.lattice.coder import MAX_MAGNITUDE, Codes
from splitcom.codecs.lattice.missing import BLOCK, Outside
from splitcom.codecs.wire import Floats, Ints, Points

_DIRECTION_BITS = 12  # a direction's unit length in fixed point
_ROW_STEPS = (
    32  # rows as sent have 1/32 of the step as their unit: their error is a tenth of the coordinates'
)
_FP32_RANGE = 1e12
_LONG = 4  # times the upper quartile of norms: a token longer than this is an exception
COORDINATE_BITS = 3
UNIT = 1 << COORDINATE_BITS
"""Coordinates are integers in units of 1/8 of the step of the flow's first packet: predictions fall between the
steps. A packet's own step is a whole number of units."""
PRODUCT_BITS = _DIRECTION_BITS + COORDINATE_BITS
"""Products of coordinates and directions have 2 to the power of minus this as their unit, in steps."""


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

    def exact_coordinates(self, values: Tensor, step: float) -> Tensor:
        """The same in fp64, of fp32 `values`: both ends do this, and differ by no more than these do."""
        centred = values.double() / step - torch.from_numpy(self.mean / _ROW_STEPS).to(values.device)
        units = self._units.to(values.device)
        factor = _factor(units)
        return torch.cholesky_solve(units @ centred.mT, factor).mT.mul_(UNIT)

    def extended_with(
        self, rows: Ints | Codes, values: Tensor, coordinates: Tensor, step: float
    ) -> tuple["Basis", Tensor]:
        """With more directions, and what `coordinates` of `values` are then; the sender does this.

        Of the new directions what is outside of the others counts. The products do not begin anew. The inverse does,
        in the next packet: put together from parts it is rounded otherwise than that of the same basis when loaded.
        """
        basis = self.extended(rows)
        others, added = basis._units[: len(self.rows)], basis._units[len(self.rows) :]
        within = added @ self._inverse.double()
        new = self._coordinates(values, step, _pseudoinverse(added - within @ others))
        return basis, torch.cat([coordinates - new @ within.to(new), new], 1)

    def inverse(
        self,
        coordinates: Points,
        step: float,
        device: torch.device | str,
        shift: Ints | None = None,
        units: int = UNIT,
        beside: "Beside | None" = None,
    ) -> Tensor:
        """fp32 `[tokens, hidden]` of integer coordinates, all moved by a `shift` in steps of `units`.

        What is `beside` them has for its unit that of products of coordinates and directions.
        """
        centre = self.mean * (1 << PRODUCT_BITS) // _ROW_STEPS
        if shift is not None:
            shift_bits = PRODUCT_BITS - _shift_bits(len(coordinates))
            centre = centre + (shift * units << shift_bits >> COORDINATE_BITS)
        scale = step / (1 << PRODUCT_BITS)
        return exact_product(coordinates, self.directions, device, centre.reshape(-1), scale, beside)

    def mean_value(self, coordinates: Points, step: float) -> Floats:
        """The mean over the tokens `[hidden]` of what `inverse` gives, but for its rounding."""
        inside = self.inside(coordinates.mean(0, dtype=np.float64), step)
        return np.asarray(inside + self.mean / _ROW_STEPS * step)

    def inside(self, coordinates: Floats, step: float) -> Floats:
        """What coordinates `[..., directions]` stand for without the mean, in fp64: `[..., hidden]`."""
        return np.asarray(coordinates @ self.directions * (step / (1 << PRODUCT_BITS)))

    def extended(self, rows: Ints | Codes) -> "Basis":
        """With more directions."""
        if not len(rows):
            return self
        basis = Basis(self.mean, np.concatenate([self.rows, rows]))
        basis.__dict__["directions"] = np.concatenate([self.directions, Basis(self.mean, rows).directions])
        return basis

    def missing(
        self,
        values: Tensor,
        coordinates: Tensor,
        step: float,
        most: int,
        threshold: float,
        scales: Floats,
        seen: bool = False,
    ) -> Ints:
        """Rows `[at most `most`, hidden]` for what varies outside of the basis by more than `threshold`.

        `coordinates` are those of `values`; `step` is theirs. `scales` `[tokens]` are what each token's steps are to
        be multiplied by. `seen`: whether the batch has come before.
        """
        mean = torch.from_numpy(self.mean / _ROW_STEPS).to(values)
        directions = torch.from_numpy(self.directions).to(values) / (1 << PRODUCT_BITS)
        weights = torch.from_numpy(scales[:, None]).to(values)
        outside = Outside(values, weights, step, mean, coordinates, directions)
        spread, found = outside.principal(threshold, seen)
        num = min(most, int((spread > threshold).sum()))
        rows = rounded(found[:num] * spread[:num, None] * _ROW_STEPS)
        return rows[np.flatnonzero((rows != 0).any(1))].astype(np.int32)


def _pseudoinverse(directions: Tensor) -> Tensor:
    """`[hidden, n]` of fp64 `[n, hidden]`, which are about as long as one another."""
    return directions.mT @ torch.cholesky_inverse(_factor(directions))


def _factor(directions: Tensor) -> Tensor:
    gram = directions @ directions.mT
    # those that rounding has made dependent must not stop it
    gram.diagonal().add_(1e-9 * gram.trace() / max(len(gram), 1))
    factor: Tensor = torch.linalg.cholesky_ex(gram)[0]
    return factor


@dataclass(frozen=True)
class Beside:
    """Another product that is added to one: `left` `[n, k]`, whole numbers on its device, times `right` `[k, h]`."""

    left: Tensor
    right: Points
    longest: float
    """No row of `left` is longer."""


def exact_product(
    left: Points,
    right: Points,
    device: torch.device | str = "cpu",
    offset: Ints | None = None,
    scale: float = 1.0,
    beside: Beside | None = None,
) -> Tensor:
    """`(left @ right + offset) * scale` of integers, rounded once, to fp32, if `scale` is of few bits, as steps are.

    Without an offset it is not rounded at all, in fp32 or fp64.

    A sum of some of the terms of an element is no larger than the lengths of row and column multiplied
    (Cauchy and Schwarz), and the offset. If that is below 2^24, or 2^53 in fp64, no sum is ever rounded, in whatever
    order a library adds: so all machines, threads, batches and devices have the same bits.
    """
    lengths = np.sqrt(np.einsum("nd,nd->n", left, left, dtype=np.float32).astype(np.float64))
    longest = lengths * _longest_column(right)
    longest += 0 if offset is None else int(np.abs(offset).max(initial=0))
    factors, rows = torch.from_numpy(right).to(device), torch.from_numpy(left).to(device)
    if beside is not None:
        longest += beside.longest * _longest_column(beside.right)
        factors = torch.cat([factors, torch.from_numpy(beside.right).to(device)])
        rows = torch.cat([rows, beside.left.to(device)], 1)
    # a few tokens are far longer than the others
    far = torch.from_numpy(np.flatnonzero(~(longest < 0.99 * 2**24))).to(device)
    added = None if offset is None else torch.from_numpy(offset.astype(np.float64)).to(device)
    result = _empty(len(left), right.shape[1], factors.device)
    added32 = None if added is None else added.float()
    size = BLOCK // 2 if result.device.type == "cpu" else len(left)
    for start in range(0, len(left), size):
        block = slice(start, start + size)
        if added32 is None:
            torch.mm(rows[block], factors, out=result[block])
        else:
            torch.addmm(added32, rows[block], factors, out=result[block]).mul_(scale)
    if not len(far):
        return result
    exact = rows[far].double() @ factors.double()
    if added is None:
        return result.double().index_copy_(0, far, exact)
    return result.index_copy_(0, far, (exact + added).mul_(scale).float())


def _longest_column(matrix: Points) -> float:
    return float(np.sqrt(np.einsum("dh,dh->h", matrix, matrix, dtype=np.float64).max(initial=0)))


def _empty(rows: int, width: int, device: torch.device) -> Tensor:
    # numpy asks the system for large pages, which are there sooner than the many small ones that torch gets
    if device.type == "cpu":
        return torch.from_numpy(np.empty((rows, width), np.float32))
    return torch.empty(rows, width, device=device)


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
    return min(3 + num_tokens.bit_length() // 2, PRODUCT_BITS)


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
