"""Whole multiples of one step, each in as few bits as it is worth: grid. Knows no sample and no reference."""

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from typing_extensions import override

from splitcom.codecs.chain.integers import MOST_BYTES, code
from splitcom.codecs.chain.stage import Number
from splitcom.codecs.element import register
from splitcom.codecs.lattice.coder import Reader as BitReader
from splitcom.codecs.lattice.coder import Writer
from splitcom.codecs.wire import Buffer, Reader, pack_uints, tensor_bytes, unpack_uints
from splitcom.errors import PacketError
from splitcom.language import ArgumentError

_LENGTH_BYTES = 4
_LARGEST = 1 << 19  # integer
_MOST_GAIN = (
    4  # in steps: what all lies just below the dead zone, as after one step of Adam, has a smaller step
)
_FINER = 0.8


@register
@dataclass(frozen=True)
class Grid(Number):
    """Whole multiples of one step; the zeros among them cost next to nothing.

        numbers ─► / step ─► rounded ─► integers ─► adaptive range coder
                                           └─► * gain

    The gain makes what arrives as long as the numbers are, measured along them: <arrived, numbers> is <numbers,
    numbers>. Of changes that is what counts. Nearest in the mean square would be shorter ones, and training slower by
    as much: half a change that arrives is half a step taken. Errors at a right angle cancel over clients and rounds.

    Args:
        step: in units of the root mean square of all numbers. It is made smaller if hardly anything would arrive.
        dead_zone: numbers up to this part of a step beyond half a step are taken for zero.

    >>> numbers = torch.tensor([[3.0, -4.0, 0.5, 3.0]])
    >>> data, restored = Grid(1.0).encode(numbers, None)
    >>> restored.sign().tolist(), ((restored * numbers).sum() / (numbers * numbers).sum()).round(decimals=5).item()
    ([[1.0, -1.0, 0.0, 1.0]], 1.0)
    """

    name = "grid"
    example = "delta > grid(2)"

    step: float
    dead_zone: float = 0.05

    def __post_init__(self) -> None:
        if not 1e-3 <= self.step <= 1e3:
            raise ArgumentError("step", f"must be 0.001 to 1000, not {self.step:g}")
        if not -0.4 <= self.dead_zone <= 0.5:
            raise ArgumentError("dead_zone", f"must be -0.4 to 0.5, not {self.dead_zone:g}")

    @override
    def encode(self, matrix: Tensor, generator: Generator | None) -> tuple[list[Buffer], Tensor]:
        integers, gain = self._rounded(matrix.double())
        unit = torch.tensor(gain, dtype=torch.float32, device=matrix.device)
        writer = Writer()
        code(writer, integers.cpu().numpy(), *matrix.shape)
        coded = writer.finish()
        return [pack_uints([len(coded)], _LENGTH_BYTES), tensor_bytes(unit), coded], _restored(integers, unit)

    def _rounded(self, numbers: Tensor) -> tuple[Tensor, float]:
        """Integers `[rows, width]`, and what they are to be multiplied by; the sender's alone: sums are allowed."""
        energy, largest = float(numbers.square().sum()), float(numbers.abs().max())
        if not energy:
            return torch.zeros_like(numbers, dtype=torch.int32), 0.0
        step = self.step * (energy / numbers.numel()) ** 0.5
        while True:
            step = max(step, largest / _LARGEST)
            whole = (numbers.abs() / step + (0.5 - self.dead_zone)).floor().copysign(numbers)
            along = float((whole * numbers).sum())
            if along * step * _MOST_GAIN >= energy:
                return whole.to(torch.int32), energy / along
            step *= _FINER

    @override
    def decode(self, reader: Reader, rows: int, width: int) -> Tensor:
        (length,) = unpack_uints(reader.take(_LENGTH_BYTES, "length of the grid"), _LENGTH_BYTES).tolist()
        unit = reader.tensor(torch.float32, what="gain of the grid")
        if not 0 <= unit < torch.inf:
            raise PacketError(f"a grid's gain of {unit.item()}")
        bits = BitReader(reader.take(length, "integers of the grid"))
        integers = code(bits, None, rows, width)
        bits.finish()
        return _restored(torch.from_numpy(integers), unit)

    @override
    def size(self, rows: int, width: int) -> int:
        return _LENGTH_BYTES + torch.float32.itemsize + MOST_BYTES * rows * width + 4


def _restored(integers: Tensor, unit: Tensor) -> Tensor:
    """Numbers again, fp32 on the unit's device; the same code on both sides."""
    return integers.to(unit.device).float() * unit
