"""How far clients are apart, told by a server from a few numbers of each; knows no message and no client.

    d_i = x_i - x                        what client i has made of the shared adapter x
    v   = mean |d_i|^2 - |mean d_i|^2    their variance, which needs all of it
    v  <= mean |d_i|^2 - e               where e is at most |mean d_i|^2, and comes of numbers that are linear in d_i

FDA, "Communication-Efficient Distributed Deep Learning via Federated Dynamic Averaging" (2405.20988), and FDA-Opt
(2505.04535). All numbers are computed in fp64 and sent as fp32.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from math import sqrt

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from splitcom.config.federation import VarianceConfig
from splitcom.errors import PacketError
from splitcom.seeds import derive_seed

Tensors = Mapping[str, Tensor]
Numbers = npt.NDArray[np.float64]
_BYTES = 4


class Estimate(ABC):
    """What a client sends: |d|^2, and then the numbers that are linear in d."""

    num_linear = 0

    @property
    def num_bytes(self) -> int:
        """Of what a client sends."""
        return (1 + self.num_linear) * _BYTES

    def pack(self, change: Tensor) -> bytes:
        """The numbers of a change, flat and fp64."""
        numbers = [float(change.square().sum()), *self._linear(change).tolist()]
        return np.array(numbers, "<f4").tobytes()

    def unpack(self, data: bytes) -> Numbers:
        """The numbers again; raises PacketError if they are not as many, or cannot be."""
        if len(data) != self.num_bytes:
            raise PacketError(f"{len(data)} bytes that tell of a change; {self.num_bytes} are due")
        numbers: Numbers = np.frombuffer(data, "<f4").astype(np.float64)
        if not np.isfinite(numbers).all() or numbers[0] < 0:
            raise PacketError(
                f"a change whose squared norm is {numbers[0]:g}, or other numbers that are not finite"
            )
        return numbers

    def variance(self, found: Sequence[Numbers]) -> float:
        """How far clients are apart at most, of what each of them has sent."""
        mean: Numbers = np.mean(np.stack(found), axis=0)
        return float(mean[0]) - self._square(mean[1:])

    @abstractmethod
    def _linear(self, change: Tensor) -> Tensor:
        """The numbers `[num_linear]`."""

    @abstractmethod
    def _square(self, mean: Numbers) -> float:
        """What they tell of the squared norm of a change; no more than that."""


class Naive(Estimate):
    """Nothing but the norm: 4 bytes, and clients that move together look as far apart as those that do not."""

    def _linear(self, change: Tensor) -> Tensor:
        return change.new_empty(0)

    def _square(self, mean: Numbers) -> float:
        return 0.0


class Linear(Estimate):
    """How far a change goes along one direction of length 1: 8 bytes, and never less than the true variance."""

    num_linear = 1

    def __init__(self, direction: Tensor) -> None:
        self._direction = direction

    def _linear(self, change: Tensor) -> Tensor:
        return (self._direction @ change)[None]

    def _square(self, mean: Numbers) -> float:
        return float(mean[0] ** 2)


class Ams(Estimate):
    """A sketch after Alon, Matias and Szegedy: in each of `depth` rows every number is added to one of `width`.

    Signs and places are random, and all parties draw alike. Of each row the sum of squares is |d|^2 but for about
    sqrt(2 / width) of it; the median of the rows, over 1 + 1 / sqrt(width), is in most cases no more than that.
    """

    def __init__(self, depth: int, width: int, seed: int) -> None:
        self.num_linear = depth * width
        self._depth, self._width = depth, width
        self._seed = seed

    def _linear(self, change: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(self._seed)
        rows = torch.zeros(self._depth, self._width, dtype=change.dtype)
        for row in rows:
            places = torch.randint(self._width, (len(change),), generator=generator)
            signs = torch.randint(2, (len(change),), generator=generator) * 2 - 1
            row.index_add_(0, places, change * signs)
        return rows.flatten()

    def _square(self, mean: Numbers) -> float:
        squares = np.square(mean.reshape(self._depth, self._width)).sum(1)
        return float(np.median(squares)) / (1 + 1 / sqrt(self._width))


def estimate_of(
    config: VarianceConfig, seed: int, round_index: int, now: Tensors, before: Tensors | None
) -> Estimate:
    """What clients and server use in a round that begins from `now`, before which a round began from `before`.

    Without that one the linear estimate takes a random direction.
    """
    match config.estimate:
        case "ams":
            return Ams(config.depth, config.width, derive_seed(seed, "sketch"))
        case "linear":
            if before is None:
                generator = torch.Generator().manual_seed(derive_seed(seed, "direction", round_index))
                direction = torch.randn(flat_of(now).shape, generator=generator, dtype=torch.float64)
            else:
                direction = flat_of(now) - flat_of(before)
            return Linear(direction / direction.norm().clamp(min=1e-300))
        case _:
            return Naive()


def num_sketch_bytes(config: VarianceConfig) -> int:
    """What a client sends after a chunk at most."""
    return (1 + max(1, config.depth * config.width)) * _BYTES


def flat_of(tensors: Tensors) -> Tensor:
    """All numbers in a row, by name, fp64 on the CPU."""
    return torch.cat([tensors[name].detach().cpu().double().flatten() for name in sorted(tensors)])


def exact_variance(changes: Sequence[Tensor]) -> float:
    """The variance itself, of flat changes.

    >>> exact_variance([torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 0.0])])
    1.0
    """
    mean = torch.stack(list(changes)).mean(0)
    return float(torch.stack([(change - mean).square().sum() for change in changes]).mean())
