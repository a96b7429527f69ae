"""What a codec does with references: skip what is similar (temporal), code the difference (delta)."""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from splitcom.codecs.stage import ArgumentError, Place, Stage, register
from splitcom.codecs.wire import Bools, Ints

Floats: TypeAlias = npt.NDArray[np.float64]

_THRESHOLDS = {"cosine": (-1.0, 1.0), "relative_l2": (0.0, math.inf)}


@register
@dataclass(frozen=True)
class Temporal(Stage):
    """Send nothing for what is similar enough to its reference; the receiver takes the reference instead.

    Args:
        threshold: skip where the similarity is at least this (`cosine`, -1 to 1), or where the distance is at
            most this (`relative_l2`: norm of the difference over norm of the new values).
        metric: `cosine` as in SplitCom (arXiv 2602.10564); it does not see a change of length.
        per: decide for whole samples or for each token.

    A skipped unit's error is the one the metric bounds: its reference is used as it is. Of two
    zero vectors the cosine counts as 1 and the distance as 0; of one zero vector, as 0 and as infinite. Units
    whose norm is beyond 1e19, the square root of fp32's range, are always sent.

    >>> old, new = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[2.0, 0.1], [0.0, 1.0]])
    >>> Temporal(0.98, per="token").similar(new, old, np.array([1, 1]), 0.98).tolist()
    [True, False]
    """

    name = "temporal"
    place = Place.SKIP

    threshold: float
    metric: Literal["cosine", "relative_l2"] = "cosine"
    per: Literal["sample", "token"] = "sample"

    def __post_init__(self) -> None:
        low, high = _THRESHOLDS[self.metric]
        if not low <= self.threshold <= high:
            raise ArgumentError(
                "threshold", f"must be {low:g} to {high:g} for {self.metric}, not {self.threshold:g}"
            )

    def units(self, known: Bools, lengths: Ints) -> Bools:
        """Which decisions there are, of `[batch]` or `[tokens]`: those on samples with a reference."""
        return np.repeat(known, lengths) if self.per == "token" else known

    def tokens(self, units: Bools, lengths: Ints) -> Bools:
        """Spread what was decided per unit over the tokens, `[tokens]`."""
        return units if self.per == "token" else np.repeat(units, lengths)

    def similar(self, values: Tensor, reference: Tensor, lengths: Ints, threshold: float) -> Bools:
        """Which units may be skipped, `[batch]` or `[tokens]`. Only the sender decides: sums are allowed."""

        def unit_sums(per_token: Floats) -> Floats:
            if self.per == "token":
                return per_token
            return np.add.reduceat(per_token, np.cumsum(lengths) - lengths)

        with np.errstate(all="ignore"):  # what overflows is no longer finite, and so is sent
            new = unit_sums(_square_norms(values))
            if self.metric == "relative_l2":
                change = unit_sums(_square_norms(values - reference))
                return (change <= threshold**2 * new) & np.isfinite(change + new)
            old = unit_sums(_square_norms(reference))
            products, scales = unit_sums(_dots(values, reference)), np.sqrt(new * old)
            cosine = np.where(scales > 0, products / scales, new + old == 0)
            return (cosine >= threshold) & np.isfinite(scales)


def _square_norms(values: Tensor) -> Floats:
    norms: Tensor = torch.linalg.vector_norm(values, dim=1)
    return np.asarray(norms.cpu().double().square_())


def _dots(left: Tensor, right: Tensor) -> Floats:
    if left.device.type == "cpu":  # one pass, where torch makes a temporary
        return np.asarray(np.einsum("nd,nd->n", left.numpy(), right.numpy()), np.float64)
    return np.asarray((left * right).sum(1).cpu().double())


@register
@dataclass(frozen=True)
class Delta(Stage):
    """Code the difference to the reference.

    A sample without a reference, or whose length has changed, is coded against zeros in the same packet.

    >>> str(Delta())
    'delta'
    """

    name = "delta"
    place = Place.PREDICT
