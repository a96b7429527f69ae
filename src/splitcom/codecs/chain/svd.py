"""Fewer numbers for a whole sample: svd."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor
from typing_extensions import override

from splitcom.codecs.chain.stage import Transform
from splitcom.codecs.element import register
from splitcom.codecs.ragged import Ragged
from splitcom.codecs.wire import Buffer, Ints
from splitcom.language import ArgumentError


@register
@dataclass(frozen=True)
class Svd(Transform):
    """The best approximation of each sample by a matrix of rank at most `rank`, as two factors.

        sample [length, width] ─► left [length, rank] with orthonormal columns, right [rank, width]
                                  x̂ = left · right, added up over the rank in ascending order

    The error of the factors themselves, in the Frobenius norm, is that of the truncated singular value
    decomposition (Eckart and Young), to fp32 precision; the stage that follows codes both. A sample shorter
    than `rank` has `length` right rows. Where `rank (length + width) >= length width`, this saves nothing.

    Args:
        rank: singular directions kept of each sample.

    >>> rows = torch.tensor([[1.0, 2.0], [2.0, 4.0]])
    >>> side, (left, right) = Svd(1).forward(rows, np.array([2]), None)
    >>> left.shape, right.shape, torch.allclose(Svd(1).inverse(side, [left, right], np.array([2]), 2), rows)
    (torch.Size([2, 1]), torch.Size([1, 2]), True)
    """

    name = "svd"
    example = "svd(8) > fp16"

    rank: int

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ArgumentError("rank", f"must be at least 1, not {self.rank}")

    @override
    def forward(
        self, values: Tensor, lengths: Ints, generator: Generator | None
    ) -> tuple[Buffer, list[Tensor]]:
        width = values.shape[1]
        rank = min(self.rank, width)
        mask = torch.arange(int(lengths.max())) < torch.from_numpy(lengths)[:, None]
        mask = mask.to(values.device)
        # fp64 and the smaller Gram matrix: several times faster than LAPACK's SVD, exact enough for fp32
        padded = Ragged(values.double(), torch.from_numpy(lengths)).to_padded(mask)
        left = _leading_directions(padded, rank)
        right = left.mT @ padded
        kept = torch.arange(left.shape[2]) < torch.from_numpy(self._ranks(lengths, width))[:, None]
        left = torch.nn.functional.pad(left, (0, rank - left.shape[2]))
        return b"", [left[mask].float(), right[kept.to(values.device)].float()]

    @override
    def inverse(self, side: Buffer, parts: Sequence[Tensor], lengths: Ints, width: int) -> Tensor:
        left, right = parts
        ranks = self._ranks(lengths, width)
        first = np.repeat(np.cumsum(ranks) - ranks, lengths)
        last = np.repeat(np.cumsum(ranks), lengths) - 1
        total = left.new_zeros(len(left), width)
        for k in range(int(ranks.max())):  # no matmul: its order of additions differs between machines
            row = torch.from_numpy(np.minimum(first + k, last)).to(left.device)
            used = torch.from_numpy(first + k <= last).to(left.device)
            total.add_(left[:, k : k + 1].masked_fill(~used[:, None], 0.0) * right[row])
        return total

    @override
    def shapes(self, lengths: Ints, width: int) -> list[tuple[int, int]]:
        return [(int(lengths.sum()), min(self.rank, width)), (int(self._ranks(lengths, width).sum()), width)]

    @override
    def side_size(self, lengths: Ints, width: int) -> int:
        return 0

    def _ranks(self, lengths: Ints, width: int) -> Ints:
        return np.minimum(lengths, min(self.rank, width))


def _leading_directions(padded: Tensor, rank: int) -> Tensor:
    """Orthonormal columns that span the leading left singular vectors of `padded` `[batch, rows, width]`."""
    if padded.shape[1] <= padded.shape[2]:
        left: Tensor = torch.linalg.eigh(padded @ padded.mT).eigenvectors
        return left[..., -rank:].flip(-1)
    right: Tensor = torch.linalg.eigh(padded.mT @ padded).eigenvectors
    basis: Tensor = torch.linalg.qr(padded @ right[..., -rank:].flip(-1)).Q
    return basis
