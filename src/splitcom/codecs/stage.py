"""What a stage is, the places a chain has for stages, and the registry that names them.

A new stage is one file with one class under `@register`, imported in `codecs/__init__.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from torch import Generator, Tensor

from splitcom.codecs.wire import Buffer, Ints, Reader
from splitcom.language import Call, Registry

MAX_MAGNITUDE = 1e34
"""Largest magnitude a codec takes or a reference keeps: leaves room for sums and differences in fp32."""


class Place(IntEnum):
    """Where a stage stands in a chain; a chain has at most one stage per place, in this order."""

    SKIP = 1
    PREDICT = 2  # from whole references; so also where a stage says that the sender has none
    TRANSFORM = 3
    NUMBER = 4
    ENTROPY = 5


@dataclass(frozen=True)
class Stage(Call):
    """One step of a codec: a frozen dataclass whose fields are its arguments (see `language`). Stages hold no state."""

    place: ClassVar[Place]


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


STAGES: Registry[Stage] = Registry("stage", "a stage")
register = STAGES.register
