"""FedYogi: FedAdam whose steps grow again slowly after a large change."""

from dataclasses import dataclass

import torch
from torch import Tensor
from typing_extensions import override

from splitcom.aggregation.aggregator import register
from splitcom.aggregation.fedadam import FedAdam


@register
@dataclass(eq=False)
class FedYogi(FedAdam):
    """FedAdam whose steps grow again slowly after a large change.

    Reddi et al. 2021, "Adaptive Federated Optimization" (2003.00295, algorithm 2); Yogi is Zaheer et al. 2018.

        v  <-  v - (1 - beta2) * d ** 2 * sign(v - d ** 2)          the rest is FedAdam's

    So `v` changes by what is new, not by the distance to it.

    Args:
        lr: the server's learning rate.
        beta1: how much of the mean change is kept.
        beta2: how fast the mean square change follows what is new.
        tau: the size of change below which it does not adapt.
    """

    name = "fedyogi"

    @override
    def _adapted(self, second: Tensor, square: Tensor) -> Tensor:
        return second - (1 - self.beta2) * square * torch.sign(second - square)
