"""FedAdagrad: FedAdam whose steps only become smaller."""

from dataclasses import dataclass

from torch import Tensor
from typing_extensions import override

from splitcom.aggregation.aggregator import register
from splitcom.aggregation.fedadam import FedAdam


@register
@dataclass(eq=False)
class FedAdagrad(FedAdam):
    """FedAdam whose steps only become smaller.

    Reddi et al. 2021, "Adaptive Federated Optimization" (2003.00295, algorithm 2); Adagrad is Duchi et al. 2011.

        v  <-  v + d ** 2          the rest is FedAdam's, without momentum if nothing else is said

    Args:
        lr: the server's learning rate.
        beta1: how much of the mean change is kept.
        beta2: not used; all squares count alike.
        tau: the size of change below which it does not adapt.
    """

    name = "fedadagrad"

    beta1: float = 0.0

    @override
    def _adapted(self, second: Tensor, square: Tensor) -> Tensor:
        return second + square
