"""The mean of updates, none of which changes the adapter by more than a given norm."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor
from typing_extensions import override

from splitcom.aggregation.aggregator import register
from splitcom.aggregation.bounds import norm_of, scaled
from splitcom.aggregation.fedavg import FedAvg
from splitcom.aggregation.update import Update
from splitcom.language import ArgumentError


@register
@dataclass(eq=False)
class NormClip(FedAvg):
    """The mean of updates, none of which changes the adapter by more than a given norm.

    Sun et al. 2019, "Can You Really Backdoor Federated Learning?" (1911.07963, section 4.2), weighted by labels.

        x  <-  x + sum_i  n_i / n * (x_i - x) * min(1, bound / norm(x_i - x))

    The bound is absolute, so it also holds if most updates are hostile, and of one or two, for which
    `federation.max_update_ratio` has no median; the norm of honest updates must be known, which
    `update_norm` in metrics.jsonl tells.

    Args:
        bound: the largest L2 norm of a change, over the whole adapter.
    """

    name = "norm_clip"
    example = "norm_clip(0.5)"
    bound: float

    def __post_init__(self) -> None:
        if not self.bound > 0:
            raise ArgumentError("bound", f"must be above 0; it is {self.bound}")

    @property
    @override
    def takes_sums(self) -> bool:
        return False

    @override
    def admit(self, shared: Mapping[str, Tensor], updates: Sequence[Update]) -> Sequence[Update]:
        return [
            update
            if (norm := norm_of(shared, update)) <= self.bound
            else replace(update, adapter=scaled(shared, update, self.bound / norm))
            for update in updates
        ]
