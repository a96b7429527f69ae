"""The mean of each number without the lowest and the highest ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from splitcom.aggregation.aggregator import Robust, mean, register


@register
@dataclass(eq=False)
class TrimmedMean(Robust):
    """The mean of each number without the lowest and the highest ones.

    Yin et al. 2018, "Byzantine-Robust Distributed Learning" (1803.01498, definition 2).

    All updates count alike: how many tokens one is worth is its client's own claim.

    Args:
        part: what is left out at either end, of the updates, rounded down.
    """

    name = "trimmed_mean"
    example = "trimmed_mean(0.2)"

    @override
    def combine(self, name: str, old: Tensor, new: Sequence[Tensor], weights: Sequence[int]) -> Tensor:
        left_out = self.num_left_out(len(new))
        ranked = torch.stack(list(new)).sort(0).values[left_out : len(new) - left_out]
        return mean(list(ranked), [1] * len(ranked))
