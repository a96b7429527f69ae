"""The bytes of a packet: header, small integers, bitmaps, tensors, and a reader that believes nothing.

    header (10 bytes) │ ids │ [known bitmap │ digest of the references] │ lengths │ body

All integers and floats are little-endian. Knows no codec and no reference store.
"""

import math
import struct
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from splitcom.errors import PacketError

Bools: TypeAlias = npt.NDArray[np.bool_]
Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
Floats32: TypeAlias = npt.NDArray[np.float32]
Points: TypeAlias = npt.NDArray[np.float32]
"""Integers of magnitudes up to 2^24, which fp32 holds exactly."""
Buffer: TypeAlias = bytes | bytearray | memoryview

WIRE_VERSION = 3
_MAGIC = ord("S")
_LAYOUT = struct.Struct("<BBHHHBB")
HEADER_BYTES = _LAYOUT.size


class Header(NamedTuple):
    """The fixed part that opens every packet."""

    fingerprint: int
    """Two bytes of a hash of the codec's canonical text."""
    batch: int
    hidden: int
    id_width: int
    """Bytes per sample id, 1 to 8."""
    length_width: int
    """Bytes per length, 1 to 8."""
    known: bool
    """The packet builds on references: a bitmap of them and their digest follow the ids."""
    stored: bool
    """The body did not shrink and was left as it was."""
    changes_step: bool = False
    """The codec's step is another than in the packet before; the body begins with it."""

    def pack(self) -> bytes:
        """Serialise to `HEADER_BYTES` bytes."""
        widths = self.id_width | self.length_width << 4
        flags = self.known | self.stored << 1 | self.changes_step << 2
        return _LAYOUT.pack(_MAGIC, WIRE_VERSION, self.fingerprint, self.batch, self.hidden, widths, flags)

    @classmethod
    def unpack(cls, reader: "Reader") -> "Header":
        """Read and check everything that can be checked without knowing the codec."""
        magic, version, fingerprint, batch, hidden, widths, flags = _LAYOUT.unpack(
            reader.take(HEADER_BYTES, "header")
        )
        if magic != _MAGIC:
            raise PacketError(f"not a packet: first byte {magic:#04x}, expected {_MAGIC:#04x}")
        if version != WIRE_VERSION:
            raise PacketError(f"packet of wire version {version}; this side speaks {WIRE_VERSION}")
        id_width, length_width = widths & 15, widths >> 4
        if not (1 <= id_width <= 8 and 1 <= length_width <= 8 and batch and hidden) or flags > 7:
            raise PacketError(
                f"impossible header: batch {batch}, hidden {hidden}, widths {widths:#04x}, flags {flags:#04x}"
            )
        bits = (bool(flags >> bit & 1) for bit in range(3))
        return cls(fingerprint, batch, hidden, id_width, length_width, *bits)


class Reader:
    """A cursor over received bytes; every read is checked against what is left."""

    def __init__(self, data: Buffer, device: torch.device | str = "cpu") -> None:
        self._data = memoryview(data)
        self._position = 0
        self.device = device

    def take(self, size: int, what: str) -> memoryview:
        """The next `size` bytes; PacketError names `what` if they are missing."""
        end = self._position + size
        if end > len(self._data):
            raise PacketError(
                f"packet ends within its {what}: {size} bytes expected at {self._position}, "
                f"{len(self._data) - self._position} left"
            )
        self._position, start = end, self._position
        return self._data[start:end]

    def rest(self) -> memoryview:
        """Everything that is left."""
        return self.take(len(self._data) - self._position, "body")

    def tensor(self, dtype: torch.dtype, *shape: int, what: str) -> Tensor:
        """The next values as a tensor of its own memory on the reader's device; there is at least one."""
        # one copy: a tensor needs aligned and writable memory
        data = bytearray(self.take(math.prod(shape) * dtype.itemsize, what))
        return torch.frombuffer(data, dtype=dtype).view(shape).to(self.device)

    def finish(self) -> None:
        """Refuse what is left over."""
        if left := len(self._data) - self._position:
            raise PacketError(f"{left} bytes left over at the end of the packet")


def uint_width(values: Sequence[int] | Ints) -> int:
    """Bytes that hold the largest of `values`, at least 1.

    >>> uint_width([0, 255]), uint_width([256]), uint_width([])
    (1, 2, 1)
    """
    return max(1, (int(max(values, default=0)).bit_length() + 7) // 8)


def pack_uints(values: Sequence[int] | Ints, width: int) -> bytes:
    """Write each value as `width` bytes.

    >>> pack_uints([1, 258], 2)
    b'\\x01\\x00\\x02\\x01'
    """
    octets = np.asarray(values, "<i8").reshape(-1, 1).view(np.uint8)
    return octets[:, :width].tobytes()


def unpack_uints(data: Buffer, width: int) -> Ints:
    """Inverse of `pack_uints`; eight-byte values above 2**63 - 1 come out negative.

    >>> unpack_uints(b'\\x01\\x00\\x02\\x01', 2).tolist()
    [1, 258]
    """
    octets = np.zeros((len(data) // width, 8), np.uint8)
    octets[:, :width] = np.frombuffer(data, np.uint8).reshape(-1, width)
    return octets.view("<i8").reshape(-1).astype(np.int64, copy=False)


def pack_bools(flags: Bools) -> bytes:
    """One bit each, the first in the lowest bit.

    >>> pack_bools(np.array([True, False, True]))
    b'\\x05'
    """
    return np.packbits(flags, bitorder="little").tobytes()


def unpack_bools(data: Buffer, count: int) -> Bools:
    """Inverse of `pack_bools`."""
    return np.unpackbits(np.frombuffer(data, np.uint8), count=count, bitorder="little").view(np.bool_)


def num_bool_bytes(count: int) -> int:
    """Bytes that `pack_bools` writes for `count` flags."""
    return (count + 7) // 8


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The tensor's values as bytes, without a copy where it is contiguous and on the CPU."""
    flat = tensor.detach().contiguous().cpu().view(-1)
    return flat.view(torch.uint8).numpy().data
