"""Keep a few elements of each token: topk, randtopk."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor
from typing_extensions import override

from splitcom.codecs.chain.stage import Transform
from splitcom.codecs.element import register
from splitcom.codecs.wire import Buffer, Ints, num_bool_bytes
from splitcom.errors import PacketError
from splitcom.language import ArgumentError


@dataclass(frozen=True)
class _Sparse(Transform):
    """`[rows, width]` becomes the kept values `[rows, k]` and where they were; the rest becomes zero.

    Positions take `ceil(log2 width)` bits each, or one bit per element of the token where that is less.
    """

    ratio: float

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise ArgumentError("ratio", f"must be above 0 and at most 1, not {self.ratio:g}")

    def num_kept(self, width: int) -> int:
        """Elements kept of each token, at least 1."""
        return max(1, math.ceil(self.ratio * width))

    def choose(self, values: Tensor, kept: int, generator: Generator | None) -> Tensor:
        """Positions `[rows, kept]` of the elements to keep, in any order."""
        raise NotImplementedError

    @override
    def forward(
        self, values: Tensor, lengths: Ints, generator: Generator | None
    ) -> tuple[Buffer, list[Tensor]]:
        width = values.shape[1]
        chosen = self.choose(values, self.num_kept(width), generator).sort(dim=1).values
        return _pack_positions(chosen.cpu().numpy(), width), [values.gather(1, chosen)]

    @override
    def inverse(self, side: Buffer, parts: Sequence[Tensor], lengths: Ints, width: int) -> Tensor:
        (kept,) = parts
        positions = _unpack_positions(side, len(kept), kept.shape[1], width)
        full = kept.new_zeros(len(kept), width)
        return full.scatter_(1, torch.from_numpy(positions).to(kept.device), kept)

    @override
    def shapes(self, lengths: Ints, width: int) -> list[tuple[int, int]]:
        return [(int(lengths.sum()), self.num_kept(width))]

    @override
    def side_size(self, lengths: Ints, width: int) -> int:
        return num_bool_bytes(int(lengths.sum()) * _position_bits(self.num_kept(width), width))


@register
@dataclass(frozen=True)
class TopK(_Sparse):
    """Keep the elements of largest magnitude of each token: no error on them, the others become zero.

    Args:
        ratio: share of a token's elements that is kept, rounded up.

    >>> side, parts = TopK(0.5).forward(torch.tensor([[1.0, -3.0, 2.0, 0.0]]), np.array([1]), None)
    >>> TopK(0.5).inverse(side, parts, np.array([1]), 4).tolist()
    [[0.0, -3.0, 2.0, 0.0]]
    """

    name = "topk"
    example = "topk(0.1) > int8"

    @override
    def choose(self, values: Tensor, kept: int, generator: Generator | None) -> Tensor:
        return values.abs().topk(kept, dim=1, sorted=False).indices


@register
@dataclass(frozen=True)
class RandTopK(_Sparse):
    """Randomised top-k (Zheng et al., IJCAI 2023): mostly the largest elements, now and then another.

    Elements are drawn one after the other without replacement, a largest one with weight `(1 - alpha) / k`,
    another with weight `alpha / (width - k)`. No error on those kept, the others become zero.

    Args:
        ratio: share of a token's elements that is kept, rounded up.
        alpha: probability of a draw to leave the top k.

    >>> generator = torch.Generator().manual_seed(0)
    >>> side, parts = RandTopK(0.5, alpha=0.0).forward(torch.tensor([[1.0, -3.0]]), np.array([1]), generator)
    >>> parts[0].tolist()
    [[-3.0]]
    """

    name = "randtopk"
    example = "randtopk(0.1) > int8"

    alpha: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha < 1:
            raise ArgumentError("alpha", f"must be at least 0 and below 1, not {self.alpha:g}")

    @override
    def choose(self, values: Tensor, kept: int, generator: Generator | None) -> Tensor:
        width = values.shape[1]
        if kept == width:
            return torch.arange(width, device=values.device).expand(len(values), -1)
        assert generator is not None
        weights = torch.full_like(values, self.alpha / (width - kept))
        weights.scatter_(1, values.abs().topk(kept, dim=1).indices, (1 - self.alpha) / kept)
        # the k smallest of Exp(1) / weight are such draws (Efraimidis and Spirakis, 2006)
        keys = torch.empty_like(values).exponential_(generator=generator) / weights
        return keys.topk(kept, dim=1, largest=False).indices


def _index_bits(width: int) -> int:
    return (width - 1).bit_length()


def _position_bits(kept: int, width: int) -> int:
    """Bits that the positions of one token take."""
    return min(width, kept * _index_bits(width))


def _pack_positions(positions: Ints, width: int) -> bytes:
    """Pack ascending `positions` `[rows, kept]`."""
    rows, kept = positions.shape
    if _position_bits(kept, width) == width:
        bits = np.zeros((rows, width), np.bool_)
        np.put_along_axis(bits, positions, True, axis=1)
    else:
        bits = (positions[..., None] >> np.arange(_index_bits(width)) & 1).astype(np.bool_)
    return np.packbits(bits, bitorder="little").tobytes()


def _unpack_positions(side: Buffer, rows: int, kept: int, width: int) -> Ints:
    count = rows * _position_bits(kept, width)
    bits = np.unpackbits(np.frombuffer(side, np.uint8), count=count, bitorder="little")
    if _position_bits(kept, width) == width:
        if not (bits.reshape(rows, width).sum(1) == kept).all():
            raise PacketError(f"positions of the packet do not mark {kept} elements of each token")
        return np.nonzero(bits.reshape(rows, width))[1].reshape(rows, kept)
    weights = 1 << np.arange(_index_bits(width))
    positions = bits.reshape(rows, kept, -1).astype(np.int64) @ weights
    if not (positions < width).all() or not (np.diff(positions, axis=1) > 0).all():
        raise PacketError(f"positions of the packet are not ascending below {width}")
    return positions
