"""The mean of each number without the lowest and the highest ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor

import torch
from torch import Tensor
from typing_extensions import override

from splitcom.aggregation.aggregator import Aggregator, mean, register
from splitcom.language import ArgumentError

_ROUNDING = 1e-9  # 0.29 * 100 is a little below 29


@register
@dataclass(eq=False)
class TrimmedMean(Aggregator):
    """The mean of each number without the lowest and the highest ones.

    Yin et al. 2018, "Byzantine-Robust Distributed Learning" (1803.01498, definition 2).

    All updates count alike: how many tokens one is worth is its client's own claim.

    Args:
        part: what is left out at either end, of the updates, rounded down.
    """

    name = "trimmed_mean"
    example = "trimmed_mean(0.2)"
    weighs = False
    part: float

    def __post_init__(self) -> None:
        if not 0 < self.part < 0.5:
            raise ArgumentError("part", f"must lie between 0 and 0.5; it is {self.part}")

    @property
    @override
    def min_updates(self) -> int:
        return ceil(1 / self.part - _ROUNDING)

    @override
    def combine(self, name: str, old: Tensor, new: Sequence[Tensor], weights: Sequence[int]) -> Tensor:
        left_out = floor(self.part * len(new) + _ROUNDING)
        ranked = torch.stack(list(new)).sort(0).values[left_out : len(new) - left_out]
        return mean(list(ranked), [1] * len(ranked))
