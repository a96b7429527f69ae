"""FedAvg: the mean, weighted by the labels they were trained on."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from splitcom.aggregation.aggregator import Aggregator, mean, register


@register
@dataclass(eq=False)
class FedAvg(Aggregator):
    """The clients' mean, weighted by the labels they were trained on.

    McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from Decentralized Data" (1602.05629).

        x  <-  sum_i  n_i / n * x_i
    """

    name = "fedavg"

    @property
    @override
    def takes_sums(self) -> bool:
        return True

    @override
    def combine(self, name: str, old: Tensor, new: Sequence[Tensor], weights: Sequence[int]) -> Tensor:
        return mean(new, weights)
