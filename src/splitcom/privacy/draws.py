"""Normal numbers from the system's random bytes, or from a seed where the same ones are wanted again."""

import os

import numpy as np
import torch
from torch import Tensor

from splitcom.language import ArgumentError

_SUMMED = 4


def normal(shape: tuple[int, ...], seed: int | None) -> Tensor:
    """Normal numbers of deviation 1, fp64 on the CPU; of no seed they are from the system, and nobody can draw them.

    Each is half the sum of four: which numbers a single one can be has holes from which what it was added to can be
    told (Mironov 2012), and of a sum nobody has found how (Holohan and Braghin 2021, 2107.10138; as Opacus does).
    """
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(shape, dtype=torch.float64, generator=generator)
    count = int(np.prod(shape))
    pairs = -(-count // 2)
    words = np.frombuffer(os.urandom(8 * 2 * pairs * _SUMMED), np.uint64).reshape(_SUMMED, 2, pairs)
    radius, angle = ((words >> np.uint64(11)).astype(np.float64) + 0.5).swapaxes(0, 1) * 2.0**-53
    radius = np.sqrt(-2.0 * np.log(radius))
    found = np.concatenate([radius * np.cos(2 * np.pi * angle), radius * np.sin(2 * np.pi * angle)], axis=1)
    return torch.from_numpy(found.sum(0)[:count] / np.sqrt(_SUMMED)).reshape(shape)


def check_noise(noise: float, delta: float, seed: int) -> None:
    """Raise ArgumentError if a mechanism cannot have one of these."""
    if not noise > 0:
        raise ArgumentError("noise", f"must be above 0; it is {noise:g}")
    if not 0 < delta < 1:
        raise ArgumentError("delta", f"must lie between 0 and 1; it is {delta:g}")
    if seed < -1:
        raise ArgumentError("seed", f"must be 0 or more, or -1; it is {seed}")
