"""Which part of a reference the sender keeps where it only has to judge similarity: a projection of every token.

values [tokens, hidden] ─► signs of the position ─► @ matrix [hidden, dim] ─► [tokens, dim], kept by the sender

The receiver keeps whole references: it rebuilds from them. The sender keeps their lengths, versions and checksums too,
so packets are those of the chain without this stage, and both ends still prove to hold the same.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from splitcom.codecs.chain.stage import Stage
from splitcom.codecs.element import Place, register
from splitcom.codecs.wire import Buffer, Ints
from splitcom.errors import CodecError
from splitcom.language import ArgumentError

Signs: TypeAlias = npt.NDArray[np.int8]
_PERIOD = 256  # positions with signs of their own; bounds the table, and leaves enough independent errors to average


@register
@dataclass(frozen=True)
class Projection(Stage):
    """Keep `dim` numbers of each token of a reference at the sender, and judge similarity by them.

    They take 8 bits each and 16 per token; rounding adds about 0.00002 to 1 - cosine.

    Args:
        dim: numbers per token, at most the width of the values.
        kind: `random`, independent signs (Achlioptas, 2003); `hadamard`, random rows of a Hadamard matrix behind random
            signs (Ailon and Chazelle, 2006); `pca`, the leading directions of the first batch.

    The first two are drawn from the seed of the run and never sent. They keep a sample's squared distance to its
    reference on average, with a relative standard deviation of about `sqrt(2 / (dim * tokens))`: signs that differ from
    position to position make the errors of the tokens independent, though all tokens drift in the same few directions.
    `pca` sees no change outside its directions, so it skips too much unless these hold the drift.

    >>> values = torch.randn(200, 64, generator=torch.Generator().manual_seed(0))
    >>> reduced = Projection(8).reduce(values, np.array([150, 50]), seed=3)
    >>> reduced.shape, abs(float(reduced.norm() / values.norm()) - 1) < 0.05
    (torch.Size([200, 8]), True)
    """

    name = "projection"
    example = "temporal(0.98) > projection(32) > int8"
    place = Place.PREDICT

    dim: int
    kind: Literal["random", "hadamard", "pca"] = "random"

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ArgumentError("dim", f"must be at least 1, not {self.dim}")

    @property
    def unbiased(self) -> bool:
        """Whether squared norms are kept on average, so that reduced and true ones may be compared."""
        return self.kind != "pca"

    def fit(self, values: Tensor) -> Tensor | None:
        """What has to be kept beside the references: the basis of `pca`, fp32 `[hidden, dim]` on the CPU.

        Raises:
            CodecError: where `dim` exceeds the width of `values` `[tokens, hidden]`.
        """
        hidden = values.shape[1]
        if self.dim > hidden:
            raise CodecError(f'"{self}" of values that are {hidden} wide: take a dim of at most {hidden}')
        if self.unbiased:
            return None
        exact = values.cpu().double()
        if (
            self.dim <= len(exact) < hidden
        ):  # the smaller Gram matrix, by which a wide model's takes no seconds
            leading = torch.linalg.eigh(exact @ exact.T).eigenvectors[:, -self.dim :].flip(1)
            basis: Tensor = torch.linalg.qr(exact.T @ leading).Q
        else:
            basis = torch.linalg.eigh(exact.T @ exact).eigenvectors[:, -self.dim :]  # the leading ones last
        return basis.float()

    def reduce(self, values: Tensor, lengths: Ints, seed: int, basis: Tensor | None = None) -> Tensor:
        """Project fp32 `values` `[tokens, hidden]` of samples of these `lengths` to `[tokens, dim]`.

        `seed` and `basis` (what `fit` gave) must stay the same as long as the results are compared.
        """
        if basis is not None:
            return values @ basis.to(values.device)
        hidden = values.shape[1]
        signs, matrix = _signs(hidden, seed), _matrix(hidden, self.dim, self.kind == "hadamard", seed)
        starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
        rows = signs[(np.arange(len(values)) - starts) % _PERIOD]
        mixed = values * torch.from_numpy(rows).to(values.device)
        return mixed @ torch.from_numpy(matrix).to(values.device).float().div_(math.sqrt(self.dim))

    @staticmethod
    def pack(reduced: Tensor) -> Tensor:
        """What is kept of `[tokens, dim]`: 8 bits per number and a bfloat16 scale, uint8 `[tokens, dim + 2]`.

        Twice as many numbers in half the bits: their rounding is far below the error of the projection.
        """
        scale = (reduced.abs().amax(1, keepdim=True) / 127).bfloat16()
        step = scale.float()
        codes = (reduced / step.masked_fill(step == 0, 1)).round_().clamp_(-127, 127).to(torch.int8)
        return torch.cat([codes.view(torch.uint8), scale.flatten().view(torch.uint8).view(len(scale), 2)], 1)

    @staticmethod
    def unpack(items: Sequence[Buffer], num_tokens: int) -> Tensor:
        """Inverse of `pack`, of the bytes of several samples: fp32 `[tokens, dim]`."""
        kept = torch.frombuffer(bytearray().join(items), dtype=torch.uint8).view(num_tokens, -1)
        scale = kept[:, -2:].clone(memory_format=torch.contiguous_format).view(torch.bfloat16)
        return kept[:, :-2].view(torch.int8).float().mul_(scale.float())


@lru_cache(maxsize=16)
def _signs(hidden: int, seed: int) -> Signs:
    """`[positions, hidden]`."""
    return _random_signs(np.random.PCG64([seed, 0]), _PERIOD, hidden)


@lru_cache(maxsize=16)
def _matrix(hidden: int, dim: int, hadamard: bool, seed: int) -> Signs:
    """`[hidden, dim]`; behind the signs of `_signs`, every column is one of random signs."""
    source = np.random.PCG64([seed, 1])
    if not hadamard:
        return _random_signs(source, hidden, dim)
    order = 1 << (hidden - 1).bit_length()
    columns = np.argsort(source.random_raw(order), kind="stable")[:dim]
    common = np.arange(hidden)[:, None] & columns
    for shift in (8, 4, 2, 1):  # the parity of the 16 bits
        common ^= common >> shift
    return np.where(common & 1, np.int8(-1), np.int8(1))


def _random_signs(source: np.random.PCG64, rows: int, width: int) -> Signs:
    # raw bits: their stream never changes, that of numpy's distributions may
    bits = np.unpackbits(source.random_raw(rows * -(-width // 64)).astype("<u8").view(np.uint8))
    return np.where(bits.reshape(rows, -1)[:, :width], np.int8(-1), np.int8(1))
