"""FedAvgM: the mean as a step, with momentum at the server."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from typing_extensions import override

from splitcom.aggregation.aggregator import Aggregator, mean, register
from splitcom.language import ArgumentError
from splitcom.state import State


@register
@dataclass(eq=False)
class FedAvgM(Aggregator):
    """The clients' mean as a step, with momentum at the server.

    Hsu, Qi and Brown 2019, "Measuring the Effects of Non-Identical Data Distribution" (1909.06335, section 4.3).

        d  =   sum_i  n_i / n * x_i - x          (the paper's -dw)
        v  <-  momentum * v + d
        x  <-  x + lr * v

    With `momentum = 0` and `lr = 1` it is FedAvg.

    Args:
        momentum: how much of the last change is kept.
        lr: the server's learning rate.
    """

    name = "fedavgm"
    momentum: float = 0.9
    lr: float = 1.0
    _velocity: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ArgumentError("momentum", f"must be at least 0 and below 1; it is {self.momentum}")
        if not self.lr > 0:
            raise ArgumentError("lr", f"must be above 0; it is {self.lr}")

    @property
    @override
    def takes_sums(self) -> bool:
        return True

    @override
    def combine(self, name: str, old: Tensor, new: Sequence[Tensor], weights: Sequence[int]) -> Tensor:
        change = mean(new, weights) - old
        velocity = self._velocity.get(name, torch.zeros_like(old)).to(old) * self.momentum + change
        self._velocity[name] = velocity
        return old + velocity * self.lr

    @override
    def state(self) -> State:
        return State(dict(self._velocity))

    @override
    def load_state(self, state: State) -> None:
        self._velocity = dict(state.tensors)
