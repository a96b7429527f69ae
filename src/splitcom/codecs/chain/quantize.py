"""Integers of 8, 4 or 2 bits with one scale per group: int8, int4, int2."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Generator, Tensor
from torch.nn import functional as F
from typing_extensions import override

from splitcom.codecs.chain.stage import Number
from splitcom.codecs.element import register
from splitcom.codecs.wire import Buffer, Reader, tensor_bytes
from splitcom.language import ArgumentError


@dataclass(frozen=True)
class Quantize(Number):
    """`bits` per element and one bfloat16 scale per `group` consecutive elements of a token.

        x ─► groups ─► scale = extreme / -2^(bits-1) ─► code = round(x / scale), clamped ─► packed bits
                                                         x̂ = code · scale

    The scale carries the sign of the group's extreme (its element of largest magnitude), so that the extreme
    is coded by the one code that has no counterpart, -2^(bits-1); all 2^bits codes are in use and zero is
    exact (as in ggml's Q4_0). Scales with the extreme at 2^(bits-1)-1 would waste a code. bfloat16 scales
    cover all of fp32's range; they are rounded away from zero.

    With step `s = |extreme| / 2^(bits-1)`, the error is at most `1.01 s + 1e-38`; with `nearest`, it is at
    most `0.51 s + 1e-38` save for elements of the opposite sign that are nearly as large as the extreme
    (of two equally large ones the negative is the extreme).
    `stochastic` is unbiased for all other elements.

    Args:
        group: elements that share a scale; the last group of a token may be shorter.
        rounding: how `x / scale` becomes an integer.
    """

    bits: ClassVar[int]

    group: int = 64
    rounding: Literal["nearest", "stochastic"] = "nearest"

    def __post_init__(self) -> None:
        if self.group < 1:
            raise ArgumentError("group", f"must be at least 1, not {self.group}")

    @override
    def encode(self, matrix: Tensor, generator: Generator | None) -> tuple[list[Buffer], Tensor]:
        rows, width = matrix.shape
        grouped = self._grouped(matrix)
        scale = _scale(grouped, self.bits)
        # adding half (or a random part of) a step and truncating to an unsigned integer rounds
        offset = 2 ** (self.bits - 1)
        codes = grouped / scale.masked_fill(scale == 0, 1.0)
        if self.rounding == "nearest":
            codes.add_(offset + 0.5)
        else:
            assert generator is not None
            noise = torch.rand(codes.shape, generator=generator, device=generator.device)
            codes.add_(noise).add_(offset)
        codes = codes.clamp_(0, 2 * offset - 1).to(torch.uint8)
        restored = self._dequantize(codes, scale)
        data = [
            _byte_planes(scale),
            tensor_bytes(_pack(_ungrouped(codes, rows, width), self.bits)),
        ]
        return data, _ungrouped(restored, rows, width)

    @override
    def decode(self, reader: Reader, rows: int, width: int) -> Tensor:
        shape = self._grouped_shape(rows, width)
        planes = reader.tensor(torch.uint8, 2, shape[0] * shape[1], what=f"{self.name} scales")
        scale = _from_byte_planes(planes).view(*shape[:2], 1)
        num_bytes = _num_packed_bytes(rows * width, self.bits)
        packed = reader.tensor(torch.uint8, num_bytes, what=f"{self.name} codes")
        codes = self._grouped(_unpack(packed, rows * width, self.bits).view(rows, width))
        return _ungrouped(self._dequantize(codes, scale), rows, width)

    @override
    def size(self, rows: int, width: int) -> int:
        shape = self._grouped_shape(rows, width)
        return 2 * shape[0] * shape[1] + _num_packed_bytes(rows * width, self.bits)

    def _dequantize(self, codes: Tensor, scale: Tensor) -> Tensor:
        # subtracting before scaling keeps a code of zero at +0.0, whichever side computes it
        return codes.float().sub_(2 ** (self.bits - 1)).mul_(scale)

    def _grouped_shape(self, rows: int, width: int) -> tuple[int, int, int]:
        group = min(self.group, width)
        return rows, -(-width // group), group

    def _grouped(self, matrix: Tensor) -> Tensor:
        """`[rows, width]` as `[rows, groups, group]`; a copy only where the last group must be padded."""
        shape = self._grouped_shape(*matrix.shape)
        padding = shape[1] * shape[2] - matrix.shape[1]
        return (F.pad(matrix, (0, padding)) if padding else matrix).reshape(shape)


def _ungrouped(grouped: Tensor, rows: int, width: int) -> Tensor:
    return grouped.view(rows, -1)[:, :width].contiguous()


def _scale(grouped: Tensor, bits: int) -> Tensor:
    """Signed bfloat16 scale of each group, as fp32 `[rows, groups, 1]`."""
    high, low = grouped.amax(-1, keepdim=True), grouped.amin(-1, keepdim=True)
    scale = torch.where(high > -low, high, low).mul_(-(2.0 ** (1 - bits)))
    # bfloat16 is the upper half of fp32; rounding away from zero keeps elements within 2^(bits-1) steps
    scale.view(torch.int32).add_(0xFFFF).bitwise_and_(-0x10000)
    return scale


def _byte_planes(scale: Tensor) -> Buffer:
    """All low bytes of the bfloat16 scales, then all high ones, which hardly vary and so compress well."""
    bits = scale.view(torch.int32).view(-1)
    return tensor_bytes(torch.stack([bits >> 16 & 0xFF, bits >> 24 & 0xFF]).to(torch.uint8))


def _from_byte_planes(planes: Tensor) -> Tensor:
    """Inverse of `_byte_planes`, fp32."""
    low, high = planes.int()
    scale: Tensor = (low << 16 | high << 24).view(torch.float32)
    return scale


def _num_packed_bytes(count: int, bits: int) -> int:
    return -(-count * bits // 8)


def _pack(codes: Tensor, bits: int) -> Tensor:
    """Pack uint8 `codes` below 2^bits: the first part goes to the lowest bits of all bytes, and so on."""
    flat, per_byte = codes.reshape(-1), 8 // bits
    num_bytes = _num_packed_bytes(len(flat), bits)
    flat = F.pad(flat, (0, num_bytes * per_byte - len(flat)))
    packed = flat[:num_bytes].clone() if per_byte > 1 else flat
    for part in range(1, per_byte):
        packed |= flat[part * num_bytes : (part + 1) * num_bytes] << bits * part
    return packed


def _unpack(packed: Tensor, count: int, bits: int) -> Tensor:
    parts = [(packed >> shift) & (2**bits - 1) for shift in range(0, 8, bits)]
    return torch.cat(parts)[:count]


@register
@dataclass(frozen=True)
class Int8(Quantize):
    """8 bits per element.

    Args:
        group: elements that share a scale.
        rounding: `nearest`, or `stochastic`, right on average.

    >>> Int8().encode(torch.tensor([[1.0, -4.0, 0.0]]), None)[1].tolist()
    [[1.0, -4.0, 0.0]]
    """

    name = "int8"
    bits = 8


@register
@dataclass(frozen=True)
class Int4(Quantize):
    """4 bits per element: exactly half a byte plus the scales.

    Args:
        group: elements that share a scale.
        rounding: `nearest`, or `stochastic`, right on average.

    >>> data, restored = Int4().encode(torch.tensor([[1.0, -4.0, 0.1]]), None)
    >>> restored.tolist(), [len(part) for part in data]
    ([[1.0, -4.0, 0.0]], [2, 2])
    """

    name = "int4"
    bits = 4


@register
@dataclass(frozen=True)
class Int2(Quantize):
    """2 bits per element.

    Args:
        group: elements that share a scale.
        rounding: `nearest`, or `stochastic`, right on average.

    >>> Int2().encode(torch.tensor([[1.9, -4.0, 0.1]]), None)[1].tolist()
    [[2.0, -4.0, 0.0]]
    """

    name = "int2"
    bits = 2
