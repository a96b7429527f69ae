"""Krum: of all updates the one that lies closest to its neighbours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from splitcom.aggregation.aggregator import Robust, mean, register
from splitcom.aggregation.update import Update

_FEWEST = 5  # 2 f + 3 with f = 1


@register
@dataclass(eq=False)
class Krum(Robust):
    """The one update that lies closest to its neighbours.

    Blanchard et al. 2017, "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent" (1703.02757).

        score(i)  =  sum of |x_i - x_j| ** 2 over the n - f - 2 updates j that are closest to i
        x        <-  the x_i of the lowest score

    The distance is over the whole adapter; a tensor that an update does not hold counts as one that it leaves as it
    was. All updates count alike. Of fewer than five, or if f is 0, it is their mean.

    Args:
        part: of the n updates may be hostile: f is that part, rounded down, and no more than n >= 2 f + 3 allows.
    """

    name = "krum"
    example = "krum(0.2)"

    @property
    @override
    def min_updates(self) -> int:
        return max(super().min_updates, _FEWEST)

    @override
    def admit(self, shared: Mapping[str, Tensor], updates: Sequence[Update]) -> Sequence[Update]:
        num_hostile = min(self.num_left_out(len(updates)), (len(updates) - 3) // 2)
        if num_hostile < 1:
            return updates
        squares = _distances(shared, updates)
        num_near = len(updates) - num_hostile - 2
        scores = squares.sort(1).values[:, 1 : num_near + 1].sum(1)  # the first is the update itself
        chosen = scores.argsort(stable=True)[: self._num_chosen(len(updates), num_hostile)]
        return [updates[index] for index in sorted(chosen.tolist())]

    def _num_chosen(self, count: int, num_hostile: int) -> int:
        return 1

    @override
    def combine(self, name: str, old: Tensor, new: Sequence[Tensor], weights: Sequence[int]) -> Tensor:
        return mean(new, weights)


def _distances(shared: Mapping[str, Tensor], updates: Sequence[Update]) -> Tensor:
    """Squared L2 distances between updates, fp64 [updates, updates]."""
    squares = torch.zeros(len(updates), len(updates), dtype=torch.float64)
    for name, old in shared.items():
        rows = torch.stack(
            [update.adapter.get(name, old).to(old.device).flatten().double() for update in updates]
        )
        squares += torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").square().cpu()
    return squares
