"""A basis of few directions in which a flow's tokens are coded; the sender finds it, both ends hold the same.

    token x ─► coordinates (x - mean) · pinv(directions) / step ─► rounded, coded
    token x̂ = step · (mean + coordinates · directions)          exact: integers times integers

All directions share one step: reverse water-filling gives each Gaussian direction the same distortion, and
nothing to those that vary less (Cover and Thomas, Elements of Information Theory, 10.3).
"""

from dataclasses import dataclass

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
_EXACT = 1024  # directions of larger matrices are found by subspace iteration, the first 256 of them
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

    @property
    def directions(self) -> Ints:
        """The rows with unit length, in units of 2^-12; IEEE arithmetic without sums, the same everywhere."""
        lengths = np.sqrt(np.maximum((self.rows**2).sum(1), 1).astype(np.float64))
        return _rounded(self.rows * float(1 << _DIRECTION_BITS) / lengths[:, None])

    def forward(self, values: Tensor, step: float) -> Floats:
        """Coordinates `[tokens, directions]` of fp32 `values`, not yet rounded; only the sender needs them."""
        inverse = _pseudo_inverse(self.directions / float(1 << _DIRECTION_BITS + COORDINATE_BITS))
        coordinates: Floats = (_steps(values, step) - self.mean / _ROW_STEPS) @ inverse
        return coordinates

    def inverse(
        self,
        coordinates: Ints,
        step: float,
        device: torch.device | str,
        shift: Ints | None = None,
        units: int = UNIT,
    ) -> Tensor:
        """fp32 `[tokens, hidden]` of integer coordinates, all moved by a `shift` in steps of `units`."""
        # every partial sum is an integer below 2^53, so that fp64 gives the same in whatever order it adds
        products = torch.from_numpy(coordinates.astype(np.float64)) @ torch.from_numpy(
            self.directions.astype(np.float64)
        )
        unit_bits = _DIRECTION_BITS + COORDINATE_BITS
        centre = self.mean * (1 << unit_bits) // _ROW_STEPS
        if shift is not None:
            shift_bits = unit_bits - _shift_bits(len(coordinates))
            centre = centre + (shift * units << shift_bits >> COORDINATE_BITS)
        total = products + torch.from_numpy(centre)
        return (total * (step / (1 << unit_bits))).float().to(device)

    def extended(self, rows: Ints) -> "Basis":
        """With more directions."""
        return Basis(self.mean, np.concatenate([self.rows, rows]))

    def missing(
        self, values: Tensor, step: float, most: int, threshold: float, units: Ints, weights: Floats
    ) -> Ints:
        """Rows `[at most `most`, hidden]` for what varies outside of the basis by more than `threshold` steps.

        These are the packet's own, of `units` `[tokens, 1]`; `step` is that of the coordinates. `weights` `[tokens]`
        are those of `weights_of`.
        """
        outside = _steps(values, step) - self.mean / _ROW_STEPS
        if len(self.rows):
            directions = self.directions / float(1 << _DIRECTION_BITS)
            outside -= (outside @ _pseudo_inverse(directions)) @ directions
        spread, directions = principal(outside * (UNIT / units) * weights[:, None])
        num = min(most, int((spread > threshold).sum()))
        rows = _rounded(directions[:num] * spread[:num, None] * _ROW_STEPS)
        return rows[np.flatnonzero((rows != 0).any(1))]


def weights_of(values: Tensor) -> Floats:
    """What makes tokens of `values` `[tokens, hidden]` that are far longer than the others as long as a long one.

    1 for all others. Language models have a few tokens, mostly the first of a text, of up to 1,000 times the norm of
    the others (Sun et al., Massive Activations in Large Language Models, arXiv 2402.17762). Squares of such are all
    that a mean, a variance or a least-squares fit would see.
    """
    norms = values.double().norm(dim=1).cpu().numpy()
    limit = _LONG * np.quantile(norms, 0.75)
    return limit / np.maximum(norms, limit) if limit else np.ones(len(norms))


def mean_of(values: Tensor, step: float, weights: Floats) -> Ints:
    """The mean of a basis that begins with `values`: of those with weight 1."""
    return _rounded(_steps(values, step)[weights == 1].mean(0) * _ROW_STEPS)


def shift_of(missed: Tensor, step: float, num_tokens: int) -> Ints:
    """The shift that makes up for what `num_tokens` tokens miss on average, fp64 `[hidden]`."""
    return _rounded(_steps(missed, step) * (1 << _shift_bits(num_tokens)))


def _shift_bits(num_tokens: int) -> int:
    # errors of half a step would leave a mean of about half a step over the root of their number
    return min(3 + num_tokens.bit_length() // 2, _DIRECTION_BITS + COORDINATE_BITS)


def spread_of(values: Tensor, around_mean: bool, weights: Floats) -> float:
    """Root mean square of fp32 `values` with weight 1, around their mean over the tokens or around zero."""
    exact = values.double()[torch.from_numpy(weights == 1).to(values.device)]
    return float((exact - exact.mean(0) if around_mean else exact).square().mean().sqrt())


def _rounded(values: Floats) -> Ints:
    known = np.nan_to_num(values)  # of values beyond all bounds there may be no direction to know
    return np.asarray(np.rint(known.clip(-MAX_MAGNITUDE, MAX_MAGNITUDE)).astype(np.int64))


def _steps(values: Tensor, step: float) -> Floats:
    return np.asarray(values.double().cpu()) / step


def _pseudo_inverse(directions: Floats) -> Floats:
    """Of independent rows; the ridge is for those that rounding has made dependent."""
    gram = directions @ directions.T
    ridge = 1e-9 * np.trace(gram) / max(len(gram), 1)
    return np.asarray(np.linalg.solve(gram + ridge * np.eye(len(gram)), directions).T)


def principal(centred: Floats) -> tuple[Floats, Floats]:
    """Spread (root mean square) along each principal direction, descending, and the directions as rows."""
    rows, width = centred.shape
    if min(rows, width) > _EXACT:
        return _leading(centred)
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


def _leading(centred: Floats) -> tuple[Floats, Floats]:
    """About the first of `principal`, by subspace iteration (Halko, Martinsson and Tropp, arXiv 0909.4061)."""
    largest = float(np.abs(centred).max()) or 1.0
    values = torch.from_numpy(centred / largest).float()
    subspace = torch.randn(values.shape[1], _EXACT // 4, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        subspace = torch.linalg.qr(values.mT @ (values @ subspace)).Q
    _, lengths, directions = torch.linalg.svd(values @ subspace, full_matrices=False)
    spread = lengths.double().numpy() * largest / np.sqrt(len(values))
    return spread, (subspace @ directions.mT).mT.double().numpy()
