"""What an aggregator is, and the registry that names them; knows no client, no message and no time.

    shared x ──┬──────────────► client i ─► x_i ─┐
               └─► merge(x, [x_1, x_2, …]) ◄──────┘ ─► the next shared x

A new aggregator is one file with one class under `@register`, imported in `aggregation/__init__.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from splitcom.aggregation.update import Update
from splitcom.errors import AdapterError
from splitcom.language import ArgumentError, Call, Registry
from splitcom.state import State

_ROUNDING = 1e-9  # 0.29 * 100 is a little below 29


@dataclass(eq=False)
class Aggregator(Call, ABC):
    """Makes one adapter of several: a dataclass whose fields are the arguments in the mini-language.

    `__post_init__` raises ArgumentError if one is out of range. Tensors are combined one by one, each from those
    updates that hold it, in fp64 and in the order of the clients' names, so that no bit depends on who came first.
    """

    weighs: ClassVar[bool] = True
    """Whether an update of more labels counts more."""

    @property
    def takes_sums(self) -> bool:
        """Whether the weighted mean of the updates tells it as much as they do."""
        return False

    @property
    def min_updates(self) -> int:
        """Of how many updates at least it makes anything else than their mean."""
        return 1

    def merge(self, shared: Mapping[str, Tensor], updates: Sequence[Update]) -> dict[str, Tensor]:
        """The next shared adapter, in the dtypes of `shared`; a tensor that no update holds stays as it is.

        Raises AdapterError if an update holds a tensor that `shared` lacks or has in another shape.
        """
        updates = sorted(updates, key=lambda update: (update.client, update.version))
        for update in updates:
            _check(shared, update)
        updates = self.admit(shared, updates)
        merged = {}
        for name, old in shared.items():
            holders = [update for update in updates if name in update.adapter]
            merged[name] = old
            if holders:
                theirs = [update.adapter[name].to(old.device, torch.float64) for update in holders]
                weights = [update.num_labels if self.weighs else 1 for update in holders]
                merged[name] = self.combine(name, old.double(), theirs, weights).to(old.dtype)
        return merged

    def admit(self, shared: Mapping[str, Tensor], updates: Sequence[Update]) -> Sequence[Update]:
        """The updates that are combined, as they are to be: for what must look at whole updates. All as they are."""
        return updates

    @abstractmethod
    def combine(self, name: str, old: Tensor, new: Sequence[Tensor], weights: Sequence[int]) -> Tensor:
        """The next value of tensor `name`: of `old` and of one or more `new`, all fp64 and of one shape."""

    def state(self) -> State:
        """What is to be kept, so that another object goes on to the same bits."""
        return State()

    def load_state(self, state: State) -> None:
        """Go on from there; an empty one is that before the first merge."""


@dataclass(eq=False)
class Robust(Aggregator):
    """Leaves out a part of the updates, which may be hostile; all count alike."""

    weighs = False
    part: float

    def __post_init__(self) -> None:
        if not 0 < self.part < 0.5:
            raise ArgumentError("part", f"must lie between 0 and 0.5; it is {self.part}")

    @property
    @override
    def min_updates(self) -> int:
        return ceil(1 / self.part - _ROUNDING)

    def num_left_out(self, count: int) -> int:
        """Of so many updates, rounded down."""
        return floor(self.part * count + _ROUNDING)


def mean(tensors: Sequence[Tensor], weights: Sequence[int]) -> Tensor:
    """FedAvg's mean (McMahan et al. 2017, arXiv 1602.05629, algorithm 1), summed in the order given.

    >>> mean([torch.tensor([0.0]), torch.tensor([4.0])], [3, 1])
    tensor([1.])
    """
    total = sum(weights)
    result = torch.zeros_like(tensors[0])
    for tensor, weight in zip(tensors, weights, strict=True):
        result += tensor * (weight / total)
    return result


AGGREGATORS: Registry[Aggregator] = Registry("aggregator", "an aggregator, such as fedavg")
register = AGGREGATORS.register


def parse(text: str) -> Aggregator:
    """Make an aggregator from its text; `str(aggregator)` is the canonical text.

    Raises:
        SpecError: if the text cannot be read or an argument is out of range; it points at the place.

    >>> str(parse("trimmed_mean( part = 0.2 )"))
    'trimmed_mean(0.2)'
    """
    return AGGREGATORS.parse(text)


def _check(shared: Mapping[str, Tensor], update: Update) -> None:
    for name, tensor in update.adapter.items():
        if name not in shared:
            raise AdapterError(f"the adapter of {update.client} holds a tensor {name!r} that is not shared")
        if tensor.shape != shared[name].shape:
            raise AdapterError(
                f"tensor {name!r} of the adapter of {update.client} has shape {list(tensor.shape)}; "
                f"the shared one's is {list(shared[name].shape)}"
            )
