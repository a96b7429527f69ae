"""Whole multiples of a fixed step, under subtractive dither that both ends draw: dither. Knows no sample."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Generator, Tensor
from typing_extensions import override

from splitcom.codecs.chain.integers import MOST_BYTES, code
from splitcom.codecs.chain.stage import Number
from splitcom.codecs.element import register
from splitcom.codecs.lattice.coder import Reader as BitReader
from splitcom.codecs.lattice.coder import Writer
from splitcom.codecs.wire import Buffer, Reader, pack_uints, unpack_uints
from splitcom.errors import OutOfRangeError
from splitcom.language import ArgumentError

_SEED_BYTES = 8
_LENGTH_BYTES = 4
_LARGEST = 1 << 18  # integer: fp32 holds it and six bits of the dither


@register
@dataclass(frozen=True)
class Dither(Number):
    """Rounds to whole multiples of a step after adding dither, and takes the dither off again at the other end.

        x ─► / step ─► + u ─► rounded ─► integers ─► adaptive range coder      u uniform in -1/2 to 1/2,
                                             └─► - u ─► * step                 of a seed in the packet

    So the error is uniform in half a step each way, independent of the numbers and of each other (Schuchman 1964; Gray
    and Stockham 1993), at the bits of rounding alone: noise of deviation 0.29 steps that costs none. Towards whoever
    has the packet it is not differentially private for any epsilon: the number is known to lie within half a step.

    Args:
        step: in the units of the numbers, whatever they are.

    >>> numbers = torch.tensor([[3.0, -4.0, 0.5, 3.0]])
    >>> data, restored = Dither(0.1).encode(numbers, torch.Generator().manual_seed(0))
    >>> bool(((restored - numbers).abs() <= 0.0501).all()), bool((restored != numbers).all())
    (True, True)
    """

    name = "dither"
    example = "delta > dither(0.5)"

    step: float

    def __post_init__(self) -> None:
        if not 1e-9 <= self.step <= 1e9:
            raise ArgumentError("step", f"must be 1e-9 to 1e9, not {self.step:g}")

    @override
    def encode(self, matrix: Tensor, generator: Generator | None) -> tuple[list[Buffer], Tensor]:
        assert generator is not None
        seed = int(torch.randint(1 << 62, (), generator=generator, device=generator.device))
        dither = _drawn(seed, *matrix.shape).to(matrix.device)
        integers = (matrix.double() / self.step + dither).round()
        if float(integers.abs().max()) > _LARGEST:
            raise OutOfRangeError(
                f"a value of magnitude {float(matrix.abs().max()):.3g} is more than {_LARGEST:,} steps of {self}; take "
                "a larger step"
            )
        whole = integers.to(torch.int64)
        writer = Writer()
        code(writer, whole.cpu().numpy(), *matrix.shape)
        coded = writer.finish()
        head = pack_uints([seed], _SEED_BYTES) + pack_uints([len(coded)], _LENGTH_BYTES)
        return [head, coded], self._restored(whole, dither)

    @override
    def decode(self, reader: Reader, rows: int, width: int) -> Tensor:
        (seed,) = unpack_uints(reader.take(_SEED_BYTES, "seed of the dither"), _SEED_BYTES).tolist()
        (length,) = unpack_uints(reader.take(_LENGTH_BYTES, "length of the integers"), _LENGTH_BYTES).tolist()
        bits = BitReader(reader.take(length, "integers under dither"))
        integers = code(bits, None, rows, width)
        bits.finish()
        whole = torch.from_numpy(integers).to(reader.device)
        return self._restored(whole, _drawn(seed % (1 << 63), rows, width).to(reader.device))

    @override
    def size(self, rows: int, width: int) -> int:
        return _SEED_BYTES + _LENGTH_BYTES + MOST_BYTES * rows * width + 4

    def _restored(self, integers: Tensor, dither: Tensor) -> Tensor:
        """Numbers again, fp32; the same code on both sides."""
        return (integers.float() - dither) * self.step


def _drawn(seed: int, rows: int, width: int) -> Tensor:
    """Numbers of -1/2 to 1/2 in steps of 2^-24; fp32 `[rows, width]`, the same on every machine (NumPy's NEP 19)."""
    words = np.random.Philox(seed).random_raw(rows * width) >> np.uint64(40)
    return torch.from_numpy(words.astype(np.float32)).view(rows, width) * 2.0**-24 - 0.5
