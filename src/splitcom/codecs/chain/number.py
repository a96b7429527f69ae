"""Number formats that keep a float per element: none (fp32), fp16, bf16."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor
from typing_extensions import override

from splitcom.codecs.chain.stage import Number
from splitcom.codecs.element import register
from splitcom.codecs.precision import to_dtype
from splitcom.codecs.wire import Buffer, Reader, tensor_bytes
from splitcom.errors import OutOfRangeError


@dataclass(frozen=True)
class _Float(Number):
    dtype: ClassVar[torch.dtype]

    @override
    def encode(self, matrix: Tensor, generator: Generator | None) -> tuple[list[Buffer], Tensor]:
        self._check(matrix)
        stored = to_dtype(matrix, self.dtype)
        return [tensor_bytes(stored)], stored.float()

    def _check(self, matrix: Tensor) -> None:
        """Raise OutOfRangeError if the format cannot hold a value that a codec takes."""

    @override
    def decode(self, reader: Reader, rows: int, width: int) -> Tensor:
        return reader.tensor(self.dtype, rows, width, what=f"{self.name} values").float()

    @override
    def size(self, rows: int, width: int) -> int:
        return rows * width * self.dtype.itemsize


@register
@dataclass(frozen=True)
class Float32(_Float):
    """fp32 as it is: no error, 4 bytes per element.

    >>> Float32().encode(torch.tensor([[0.1]]), None)[1].item() == torch.tensor(0.1).item()
    True
    """

    name = "none"
    dtype = torch.float32


@register
@dataclass(frozen=True)
class Float16(_Float):
    """IEEE half precision, 2 bytes per element.

    Error at most `2**-11 |x| + 2**-25`. What is beyond ±65504 is refused: it would arrive as another number.

    >>> Float16().encode(torch.tensor([[0.1, 1e3]]), None)[1].tolist()
    [[0.0999755859375, 1000.0]]
    """

    name = "fp16"
    dtype = torch.float16

    @override
    def _check(self, matrix: Tensor) -> None:
        if not matrix.numel():
            return
        low, high = torch.aminmax(matrix)
        largest, limit = float(torch.maximum(-low, high)), torch.finfo(self.dtype).max
        if largest > limit:
            raise OutOfRangeError(
                f"a value of magnitude {largest:.3g} is beyond the range of fp16, which ends at {limit:,.0f}; end this "
                "codec in bf16 or none in place of fp16"
            )


@register
@dataclass(frozen=True)
class BFloat16(_Float):
    """bfloat16, 2 bytes per element. Error at most `2**-8 |x| + 2**-134`.

    >>> BFloat16().encode(torch.tensor([[0.1, 1e6]]), None)[1].tolist()
    [[0.10009765625, 999424.0]]
    """

    name = "bf16"
    dtype = torch.bfloat16
