"""The mean of clipped updates under noise: what one client changes of the adapter can be told of no result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from typing import Literal

import torch
from torch import Tensor
from typing_extensions import override

from splitcom.aggregation.aggregator import mean, register
from splitcom.aggregation.norm_clip import NormClip
from splitcom.aggregation.update import Update
from splitcom.privacy.draws import check_noise, normal
from splitcom.seeds import derive_seed
from splitcom.state import State


@register
@dataclass(eq=False)
class DpFedAvg(NormClip):
    """The mean of clipped updates, all of which count alike, under normal noise.

    McMahan et al. 2018, "Learning Differentially Private Recurrent Language Models" (1710.06963), without sampling.

        x  <-  x + 1/m * (sum_i  (x_i - x) * min(1, bound / norm(x_i - x))  +  noise * bound * N(0, 1))

    With `where=clients` each client clips its own update and adds its part of the noise, so that the sum has all of it:
    what the server sees then is private, too, and more so under `federation.secure_aggregation`.

    Args:
        bound: the largest L2 norm of a change, over the whole adapter.
        noise: standard deviation of the noise on each number of the sum, in multiples of the bound.
        where: who adds it, the server or the clients.
        delta: the probability that is left out of the guarantee.
        seed: noise that can be drawn again; -1: from the system.
    """

    name = "dp_fedavg"
    example = "dp_fedavg(0.5, noise=1)"
    weighs = False

    noise: float
    where: Literal["server", "clients"] = "server"
    delta: float = 1e-5
    seed: int = -1
    _num_merged: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_noise(self.noise, self.delta, self.seed)

    @property
    @override
    def takes_sums(self) -> bool:
        return self.where == "clients"

    def share(self, name: str, like: Tensor, num_clients: int, position: tuple[int | str, ...]) -> Tensor:
        """One client's part of the noise on tensor `name`, fp64, if as many add theirs; `position` names the draw."""
        return self._drawn(like, name, *position) / sqrt(num_clients)

    @override
    def merge(self, shared: Mapping[str, Tensor], updates: Sequence[Update]) -> dict[str, Tensor]:
        merged = super().merge(shared, updates)
        self._num_merged += 1
        return merged

    @override
    def admit(self, shared: Mapping[str, Tensor], updates: Sequence[Update]) -> Sequence[Update]:
        return super().admit(shared, updates) if self.where == "server" else updates

    @override
    def combine(self, name: str, old: Tensor, new: Sequence[Tensor], weights: Sequence[int]) -> Tensor:
        middle = mean(new, weights)
        if self.where == "clients":
            return middle
        return middle + self._drawn(old, name, self._num_merged) / len(new)

    @override
    def state(self) -> State:
        return State(scalars={"merged": self._num_merged})

    @override
    def load_state(self, state: State) -> None:
        self._num_merged = int(state.scalars.get("merged", 0))

    def _drawn(self, like: Tensor, *position: int | str) -> Tensor:
        seed = None if self.seed < 0 else derive_seed(self.seed, *position)
        return torch.as_tensor(self.noise * self.bound * normal((*like.shape,), seed)).to(like.device)
