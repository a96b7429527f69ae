"""What both ends have of a batch's tokens already, as few orthonormal columns that packets are to be right along.

A LoRA gradient is a sum over tokens of products of what has come in and what goes back. So errors of a gradient at the
cut are dear if such sums see them, and few see most: those with the directions in which what came in varies most.

    what has come in [tokens, hidden] ─► strongest directions: subspace iteration from fixed columns
                                      ─► tokens' products with them, made orthonormal: [tokens, n]

Nothing is built on the columns' bits: two ends that differ in their last ones differ in those of the values.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from splitcom.codecs.ragged import Ragged
from splitcom.codecs.wire import Ints

_ROUNDS = 2
_ENOUGH = 1024  # tokens tell which directions are strongest; products are of all
_TOKENS_EACH = 16  # a column costs as many numbers as a token
_DEPENDENT = 1e-5  # of the whole: rounding, no more
_LEAST = 1e-15  # the shortest tokens, and one over the longest, whose squares fp32 holds


@dataclass(frozen=True, eq=False)
class Along:
    """Columns of one batch."""

    ids: list[int]
    lengths: Ints
    columns: Tensor
    """fp32 `[tokens, n]`, orthonormal, with sums of 0."""

    @classmethod
    def kept(cls, batch: Ragged, ids: list[int], most: int) -> "Along | None":
        """Up to `most` columns of a batch that has passed: fewer if it has not 16 tokens for each. None of none."""
        if not most:
            return None
        count = min(most, len(batch.values) // _TOKENS_EACH, batch.hidden)
        return cls(ids, batch.lengths.numpy(), columns_of(batch.values, count))

    def of(self, ids: Sequence[int], lengths: Ints) -> Tensor | None:
        """The columns, if they are of these samples and tokens."""
        fits = [*ids] == self.ids and np.array_equal(lengths, self.lengths)
        return self.columns if fits else None


def columns_of(values: Tensor, count: int) -> Tensor:
    """`count` columns of the tokens' products with the strongest directions of `values` `[tokens, hidden]`.

    Each token counts as if it were as long as the others: of language models a few are 1,000 times as long, and all
    that a product would see. Norms in the blocks do the same.
    """
    values, scales = _with_scales(values)
    every = max(1, len(values) // _ENOUGH)
    unit = _Unit.of(values[::every], scales[::every])
    if unit.spread < _DEPENDENT:  # all alike: what is left is rounding
        return values.new_zeros(len(values), count, dtype=torch.float32)
    # fixed, and continuous in the values: eigenvectors would turn over where two are about as strong
    start = np.random.default_rng(0).standard_normal((values.shape[1], count))
    directions = torch.from_numpy(start).to(unit.values)
    for _ in range(_ROUNDS):
        directions = _orthonormal(unit.squared_times(directions))
    products = (values @ directions).mul_(scales)
    return _orthonormal(products.sub_(products.mean(0))).float()


def _with_scales(values: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens in fp32, or in fp64 if fp32 does not hold their squares, and what makes each 1 long, `[tokens, 1]`."""
    values = values.float()
    norms = torch.linalg.vector_norm(values, dim=1, keepdim=True)
    if not (norms.clamp(_LEAST, 1 / _LEAST) == norms).logical_or(norms == 0).all():
        values = values.double()
        norms = torch.linalg.vector_norm(values, dim=1, keepdim=True)
    return values, torch.where(norms > 0, 1 / norms, 0.0)


@dataclass(frozen=True)
class _Unit:
    """The matrix of tokens as long as one another, less their mean; never formed, as each pass over it takes time."""

    values: Tensor
    scales: Tensor
    """`[tokens, 1]`"""
    mean: Tensor
    """`[1, hidden]`"""

    @classmethod
    def of(cls, values: Tensor, scales: Tensor) -> "_Unit":
        return cls(values, scales, scales.mT @ values / len(values))

    @property
    def spread(self) -> float:
        """The mean square of what is not the mean."""
        return 1.0 - float(self.mean.double().square().sum())

    def times(self, columns: Tensor) -> Tensor:
        """The matrix times `columns` `[hidden, n]`."""
        return (self.values @ columns) * self.scales - self.mean @ columns

    def squared_times(self, columns: Tensor) -> Tensor:
        """The transposed matrix times the matrix times `columns`."""
        products = self.times(columns)
        return self.values.mT @ (products * self.scales) - self.mean.mT @ products.sum(0, keepdim=True)


def _orthonormal(columns: Tensor) -> Tensor:
    """Columns of the same space, by QR with a positive diagonal; zeros for those that depend on others."""
    basis, triangle = torch.linalg.qr(columns)
    lengths = triangle.diagonal()
    least = _DEPENDENT * lengths.abs().amax() if len(lengths) else 0.0
    result: Tensor = basis * torch.where(lengths.abs() > least, lengths.sign(), 0.0)
    return result
