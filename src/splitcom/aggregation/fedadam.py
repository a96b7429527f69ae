"""FedAdam: the mean as a gradient, for Adam at the server."""

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
class FedAdam(Aggregator):
    """The clients' mean as a gradient for Adam at the server.

    Reddi et al. 2021, "Adaptive Federated Optimization" (2003.00295, algorithm 2), weighted by tokens.

        d  =   sum_i  n_i / n * (x_i - x)
        m  <-  beta1 * m + (1 - beta1) * d
        v  <-  beta2 * v + (1 - beta2) * d ** 2          v begins at tau ** 2
        x  <-  x + lr * m / (sqrt(v) + tau)

    As there, the moments are not corrected for their beginning.

    Args:
        lr: the server's learning rate.
        beta1: how much of the mean change is kept.
        beta2: how much of the mean square change is kept.
        tau: the size of change below which it does not adapt.
    """

    name = "fedadam"
    lr: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 0.001
    _first: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    _second: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for argument in ("lr", "tau"):
            if not getattr(self, argument) > 0:
                raise ArgumentError(argument, f"must be above 0; it is {getattr(self, argument)}")
        for argument in ("beta1", "beta2"):
            if not 0 <= getattr(self, argument) < 1:
                raise ArgumentError(
                    argument, f"must be at least 0 and below 1; it is {getattr(self, argument)}"
                )

    @property
    @override
    def takes_sums(self) -> bool:
        return True

    @override
    def combine(self, name: str, old: Tensor, new: Sequence[Tensor], weights: Sequence[int]) -> Tensor:
        change = mean(new, weights) - old
        first = self._first.get(name, torch.zeros_like(old)).to(old)
        second = self._second.get(name, torch.full_like(old, self.tau**2)).to(old)
        self._first[name] = first * self.beta1 + change * (1 - self.beta1)
        self._second[name] = self._adapted(second, change**2)
        return old + self.lr * self._first[name] / (self._second[name].sqrt() + self.tau)

    def _adapted(self, second: Tensor, square: Tensor) -> Tensor:
        """The second moment after a change of this square."""
        return second * self.beta2 + square * (1 - self.beta2)

    @override
    def state(self) -> State:
        first = {f"first.{name}": tensor for name, tensor in self._first.items()}
        return State(first | {f"second.{name}": tensor for name, tensor in self._second.items()})

    @override
    def load_state(self, state: State) -> None:
        self._first, self._second = {}, {}
        for key, tensor in state.tensors.items():
            moment, _, name = key.partition(".")
            (self._first if moment == "first" else self._second)[name] = tensor
