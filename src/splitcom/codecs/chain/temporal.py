"""What a codec does with references: skip what is similar (temporal), code the difference (delta)."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from splitcom.codecs.chain.stage import Prediction, Stage
from splitcom.codecs.element import Place, register
from splitcom.codecs.wire import Bools, Floats, Ints
from splitcom.language import ArgumentError

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
    >>> Temporal(0.98, per="token").measure(new, old, np.array([1, 1])).round(3).tolist()
    [0.999, 0.0]
    """

    name = "temporal"
    example = "temporal(0.98) > int8"
    place = Place.SKIP

    threshold: float
    metric: Literal["cosine", "relative_l2"] = "cosine"
    per: Literal["sample", "token"] = "sample"

    def __post_init__(self) -> None:
        low, high = self.limits
        if not low <= self.threshold <= high:
            raise ArgumentError(
                "threshold", f"must be {low:g} to {high:g} for {self.metric}, not {self.threshold:g}"
            )

    @property
    def limits(self) -> tuple[float, float]:
        """Of the threshold."""
        return _THRESHOLDS[self.metric]

    def units(self, known: Bools, lengths: Ints) -> Bools:
        """Which decisions there are, of `[batch]` or `[tokens]`: those on samples with a reference."""
        return np.repeat(known, lengths) if self.per == "token" else known

    def tokens(self, units: Bools, lengths: Ints) -> Bools:
        """Spread what was decided per unit over the tokens, `[tokens]`."""
        return units if self.per == "token" else np.repeat(units, lengths)

    def similar(self, similarity: Floats, threshold: float) -> Bools:
        """Which units may be skipped, given what `measure` says of them."""
        return similarity >= threshold if self.metric == "cosine" else similarity <= threshold

    def measure(
        self, values: Tensor, reference: Tensor, lengths: Ints, whole: Tensor | None = None
    ) -> Floats:
        """The metric of each unit, `[batch]` or `[tokens]`; NaN where norms overflow.

        Only the sender measures: sums are allowed. Where `values` and `reference` are projections that keep norms on
        average, `whole` gives the values themselves: the change that the projections show is then related to the norm
        of the values, which the sender knows, and not to an estimate of it.
        """

        def square_norms(rows: Tensor) -> Floats:
            return self._unit_sums(_square_norms(rows), lengths)

        with np.errstate(all="ignore"):
            seen = square_norms(values)
            new = seen if whole is None else square_norms(whole)
            if self.metric == "relative_l2":
                change = square_norms(values - reference)
                distance = np.where(new > 0, np.sqrt(change / new), np.where(change > 0, np.inf, 0.0))
                return np.where(np.isfinite(change + new), distance, np.nan)
            old = square_norms(reference)
            products, scales = self._unit_sums(_dots(values, reference), lengths), np.sqrt(seen * old)
            cosine = np.where(scales > 0, products / scales, seen + old == 0)
            if whole is not None:
                cosine = np.where(scales > 0, 1 - (1 - cosine) * (seen / new), cosine)
            return np.where(np.isfinite(scales + new), cosine, np.nan)

    def _unit_sums(self, per_token: Floats, lengths: Ints) -> Floats:
        if self.per == "token":
            return per_token
        return np.add.reduceat(per_token, np.cumsum(lengths) - lengths)


def _square_norms(values: Tensor) -> Floats:
    norms: Tensor = torch.linalg.vector_norm(values, dim=1)
    return np.asarray(norms.cpu().double().square_())


def _dots(left: Tensor, right: Tensor) -> Floats:
    if left.device.type == "cpu":  # one pass, where torch makes a temporary
        return np.asarray(np.einsum("nd,nd->n", left.numpy(), right.numpy()), np.float64)
    return np.asarray((left * right).sum(1).cpu().double())


@register
@dataclass(frozen=True)
class Delta(Prediction):
    """Code the difference to the reference.

    A sample without a reference, or whose length has changed, is coded in the same packet.

    Args:
        first: how such a sample is coded: `same`, by the stages that follow, as a difference to zeros; `fp16`, whole.

    >>> str(Delta())
    'delta'
    """

    name = "delta"
    example = "delta > int8 > zstd"

    first: Literal["same", "fp16"] = "same"

    @property
    @override
    def first_is_whole(self) -> bool:
        return self.first == "fp16"

    @override
    def residual(self, values: Tensor, reference: Tensor) -> Tensor:
        return values - reference

    @override
    def restore(self, residual: Tensor, reference: Tensor) -> Tensor:
        return residual.add_(reference)
