"""What a chain is made of: each stage's behaviour at its place. Knows no packet's head and no reference store.

A new stage is one file with one class under `@register`, imported in `chain/__init__.py`. What turns bytes into numbers
uses elementwise fp32 operations in a defined order only, so that its result is the same on every machine.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Generator, Tensor

from splitcom.codecs.element import Element, Place
from splitcom.codecs.wire import Buffer, Ints, Reader


@dataclass(frozen=True)
class Stage(Element):
    """One step of a chain. Holds no state."""


class Prediction(Stage, ABC):
    """What is coded of values, given what both ends hold of them."""

    place = Place.PREDICT

    @property
    def first_is_whole(self) -> bool:
        """Whether samples without a reference are sent as fp16, and not by the stages that follow."""
        return False

    @abstractmethod
    def residual(self, values: Tensor, reference: Tensor) -> Tensor:
        """What the following stages code, fp32 like both, `[tokens, hidden]`."""

    @abstractmethod
    def restore(self, residual: Tensor, reference: Tensor) -> Tensor:
        """The values again, in place of `residual`, elementwise."""


class Transform(Stage, ABC):
    """Turns a matrix `[rows, width]` into smaller matrices and, perhaps, some side information in bytes.

    `lengths` gives the rows of each sample. Sizes and shapes must follow from the arguments alone, and must
    not shrink as rows are added, so that a receiver can bound a packet before it reads it.
    """

    place = Place.TRANSFORM

    @abstractmethod
    def forward(
        self, values: Tensor, lengths: Ints, generator: Generator | None
    ) -> tuple[Buffer, list[Tensor]]:
        """Give the side information and the matrices."""

    @abstractmethod
    def inverse(self, side: Buffer, parts: Sequence[Tensor], lengths: Ints, width: int) -> Tensor:
        """Rebuild `[rows, width]`, with elementwise operations in a defined order only.

        Raises:
            PacketError: where `side` is malformed.
        """

    @abstractmethod
    def shapes(self, lengths: Ints, width: int) -> list[tuple[int, int]]:
        """The shapes of the matrices that `forward` gives."""

    @abstractmethod
    def side_size(self, lengths: Ints, width: int) -> int:
        """Bytes of side information that `forward` gives."""


class Number(Stage, ABC):
    """Turns a matrix of fp32 numbers into bytes, element by element or in groups within a row."""

    place = Place.NUMBER

    @abstractmethod
    def encode(self, matrix: Tensor, generator: Generator | None) -> tuple[list[Buffer], Tensor]:
        """Give the bytes and the fp32 matrix that `decode` will make of them, bit for bit."""

    @abstractmethod
    def decode(self, reader: Reader, rows: int, width: int) -> Tensor:
        """Read an fp32 matrix back.

        Raises:
            PacketError: where the bytes run out. The codec refuses numbers that are not finite.
        """

    @abstractmethod
    def size(self, rows: int, width: int) -> int:
        """Bytes that `encode` gives; never shrinks as rows are added."""


class Entropy(Stage, ABC):
    """Shortens bytes without loss."""

    place = Place.ENTROPY

    @abstractmethod
    def compress(self, data: bytes) -> bytes:
        """Compress the body of a packet."""

    @abstractmethod
    def decompress(self, data: Buffer, limit_bytes: int) -> bytes:
        """Inverse of `compress`.

        Raises:
            PacketError: where the data are malformed or would give more than `limit_bytes`.
        """
