"""The median of each number: less than half of the updates cannot move it beyond the others'."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from splitcom.aggregation.aggregator import Aggregator, register


@register
@dataclass(eq=False)
class Median(Aggregator):
    """The median of each number: less than half of the clients cannot move it beyond the others'.

    Yin et al. 2018, "Byzantine-Robust Distributed Learning" (1803.01498, definition 1).

    Of an even number it is the mean of the two in the middle. All updates count alike: how many tokens one is worth
    is its client's own claim.
    """

    name = "median"
    weighs = False

    @property
    @override
    def min_updates(self) -> int:
        return 3

    @override
    def combine(self, name: str, old: Tensor, new: Sequence[Tensor], weights: Sequence[int]) -> Tensor:
        ranked = torch.stack(list(new)).sort(0).values
        low, high = ranked[(len(ranked) - 1) // 2], ranked[len(ranked) // 2]
        return low + (high - low) / 2
