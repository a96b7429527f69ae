"""Normal numbers from the system's random bytes, or from a key or a seed where the same ones are wanted again."""

import os
from hashlib import blake2b, shake_256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from splitcom.durable import make_folder, write_atomic
from splitcom.language import ArgumentError

_SUMMED = 4
_KEY_BYTES = 32


def normal(shape: tuple[int, ...], source: int | bytes | None) -> Tensor:
    """Normal numbers of deviation 1, fp64 on the CPU.

    They are always the same of a seed, which can be guessed, and of a key, which cannot; of neither they are from the
    system, and nobody can draw them again.

    Each is half the sum of four: which numbers a single one can be has holes from which what it was added to can be
    told (Mironov 2012), and of a sum nobody has found how (Holohan and Braghin 2021, 2107.10138; as Opacus does).
    """
    if isinstance(source, int):
        generator = torch.Generator().manual_seed(source)
        return torch.randn(shape, dtype=torch.float64, generator=generator)
    count = int(np.prod(shape))
    pairs = -(-count // 2)
    num_bytes = 8 * 2 * pairs * _SUMMED
    data = os.urandom(num_bytes) if source is None else shake_256(source).digest(num_bytes)
    words = np.frombuffer(data, "<u8").reshape(_SUMMED, 2, pairs)
    radius, angle = ((words >> np.uint64(11)).astype(np.float64) + 0.5).swapaxes(0, 1) * 2.0**-53
    radius = np.sqrt(-2.0 * np.log(radius))
    found = np.concatenate([radius * np.cos(2 * np.pi * angle), radius * np.sin(2 * np.pi * angle)], axis=1)
    return torch.from_numpy(found.sum(0)[:count] / np.sqrt(_SUMMED)).reshape(shape)


def key_of(client: str, seed: int, path: Path | None = None) -> bytes:
    """A client's key: always the same of a file, where it is left, and of a seed from 0, which has no file; else new.

    Raises RunError or OSError if it cannot be written.
    """
    if seed >= 0:
        return blake2b(f"{seed}:{client}".encode(), digest_size=_KEY_BYTES).digest()
    if path is None:
        return os.urandom(_KEY_BYTES)
    if not path.exists():
        make_folder(path.parent, private=True)
        write_atomic(path, os.urandom(_KEY_BYTES), private=True)
    return path.read_bytes()


def check_noise(noise: float, delta: float, seed: int) -> None:
    """Raise ArgumentError if a mechanism cannot have one of these."""
    if not noise > 0:
        raise ArgumentError("noise", f"must be above 0; it is {noise:g}")
    if not 0 < delta < 1:
        raise ArgumentError("delta", f"must lie between 0 and 1; it is {delta:g}")
    if seed < -1:
        raise ArgumentError("seed", f"must be 0 or more, or -1; it is {seed}")
