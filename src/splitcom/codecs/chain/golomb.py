"""The largest of all numbers as fp16, and where they were as a Golomb code: golomb. Knows no sample, no reference."""

import math
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Generator, Tensor
from typing_extensions import override

from splitcom.codecs.chain.number import Float16
from splitcom.codecs.chain.stage import Number
from splitcom.codecs.element import register
from splitcom.codecs.wire import (
    Bools,
    Buffer,
    Ints,
    Reader,
    num_bool_bytes,
    pack_bools,
    pack_uints,
    unpack_bools,
    unpack_uints,
)
from splitcom.errors import PacketError
from splitcom.language import ArgumentError

_COUNT_BYTES = 4
_MOST_BITS = 24  # of a remainder
_BITS_A_NUMBER = 4  # that positions take at most, see `size`
_LOG_GOLDEN = math.log((math.sqrt(5) - 1) / 2)
_FP16 = Float16()


@register
@dataclass(frozen=True)
class Golomb(Number):
    """Keeps a part of all numbers, the largest of the whole matrix; the others become zero.

        numbers ─► the largest ─┬─► as fp16
                                └─► positions ─► gaps between them ─► remainders of b bits, the rest in unary

    A gap g, of numbers that are left out, is g >> b ones and a zero, and b bits. If a part p is kept,
    b = max(0, 1 + floor(log2(ln((sqrt(5) - 1) / 2) / ln(1 - p)))) is the best for gaps that are independent (Golomb
    1966; in EcoLoRA, 2506.02001). From a part of 0.38 on that is one bit for each number, as in a bitmap. Zeros are
    never kept.

    Args:
        density: the part that is kept, rounded up.
        least: the part that is left of it where the codec is told to send as little as it can.

    >>> data, restored = Golomb(0.5).encode(torch.tensor([[1.0, -3.0, 2.0, 0.0]]), None)
    >>> restored.tolist(), [len(part) for part in data]
    ([[0.0, -3.0, 2.0, 0.0]], [4, 4, 1, 0, 1, 4])
    """

    name = "golomb"
    example = "delta > golomb(0.05)"

    density: float
    least: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise ArgumentError("density", f"must be above 0 and at most 1, not {self.density:g}")
        if not 0 <= self.least <= self.density:
            raise ArgumentError("least", f"must lie in 0 to density = {self.density:g}; it is {self.least:g}")

    def at(self, share: float) -> Self:
        """With another density, at this share (0 to 1) of the way from `least` to it; it reads the same packets."""
        return replace(self, density=max(self.least + (self.density - self.least) * share, 1e-9))

    @override
    def encode(self, matrix: Tensor, generator: Generator | None) -> tuple[list[Buffer], Tensor]:
        flat = matrix.reshape(-1)
        most = min(math.ceil(self.density * len(flat)), int(flat.count_nonzero()))
        positions = flat.abs().topk(most, sorted=False).indices.sort().values
        values, kept = _FP16.encode(flat[positions][None], None)
        bits = _remainder_bits(most, len(flat))
        remainders, unary = _coded(positions.cpu().numpy(), bits)
        restored = torch.zeros_like(flat).scatter_(0, positions, kept[0]).view(matrix.shape)
        sizes = [pack_uints([number], _COUNT_BYTES) for number in (most, len(unary))]
        return [*sizes, bytes([bits]), remainders, unary, *values], restored

    @override
    def decode(self, reader: Reader, rows: int, width: int) -> Tensor:
        (kept,) = unpack_uints(reader.take(_COUNT_BYTES, "number of values kept"), _COUNT_BYTES).tolist()
        (size,) = unpack_uints(reader.take(_COUNT_BYTES, "length of the positions"), _COUNT_BYTES).tolist()
        bits, count = reader.take(1, "bits of a remainder")[0], rows * width
        if kept > count or bits > _MOST_BITS:
            raise PacketError(f"{kept} values kept of {count}, {bits} bits of each position as they are")
        remainders = unpack_bools(
            reader.take(num_bool_bytes(kept * bits), "remainders of positions"), kept * bits
        )
        unary = unpack_bools(reader.take(size, "unary part of positions"), 8 * size)
        positions = torch.from_numpy(_positions(remainders, unary, kept, bits, count))
        values = _FP16.decode(reader, 1, kept)[0] if kept else torch.empty(0)
        full = torch.zeros(count, device=values.device)
        return full.scatter_(0, positions.to(values.device), values).view(rows, width)

    @override
    def size(self, rows: int, width: int) -> int:
        # a gap takes 1 + b bits and its unary part, of which all together take `count`: kept * b <= 1.3 * count
        count = rows * width
        positions = num_bool_bytes(_BITS_A_NUMBER * count)
        return 2 * _COUNT_BYTES + 1 + positions + count * torch.float16.itemsize + 2


def _remainder_bits(kept: int, count: int) -> int:
    """How many bits of a gap are best not in unary.

    >>> [_remainder_bits(kept, 1000) for kept in (0, 1, 10, 100, 500, 1000)]
    [0, 9, 6, 3, 0, 0]
    """
    if not 0 < kept < count:
        return 0
    best = 1 + math.floor(math.log2(_LOG_GOLDEN / math.log1p(-kept / count)))
    return min(max(0, best), _MOST_BITS)


def _coded(positions: Ints, bits: int) -> tuple[bytes, bytes]:
    """Ascending positions as remainders and unary parts."""
    gaps = np.diff(positions, prepend=-1) - 1
    remainders = (gaps[:, None] >> np.arange(bits) & 1).astype(np.bool_)
    ends = np.cumsum((gaps >> bits) + 1)
    unary = np.ones(ends[-1] if len(ends) else 0, np.bool_)
    unary[ends - 1] = False
    return pack_bools(remainders), pack_bools(unary)


def _positions(remainders: Bools, unary: Bools, kept: int, bits: int, count: int) -> Ints:
    """Inverse of `_coded`; raises PacketError if it gives other than `kept` ascending positions below `count`."""
    ends = np.flatnonzero(~unary)[:kept]
    used = int(ends[-1]) + 1 if len(ends) else 0
    if len(ends) != kept or len(unary) != 8 * num_bool_bytes(used) or unary[used:].any():
        raise PacketError(f"a unary part of positions that does not end {kept} times")
    high = np.diff(ends, prepend=-1) - 1
    gaps = (high << bits) + remainders.reshape(kept, bits) @ (1 << np.arange(bits))
    positions: Ints = np.cumsum(gaps + 1) - 1
    if kept and not positions[-1] < count:
        raise PacketError(f"positions up to {positions[-1]} of {count} values")
    return positions
