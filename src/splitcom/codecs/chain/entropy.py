"""Lossless shortening of a packet's body: zstd."""

from dataclasses import dataclass

import zstandard
from typing_extensions import override

from splitcom.codecs.chain.stage import Entropy
from splitcom.codecs.element import register
from splitcom.codecs.wire import Buffer
from splitcom.errors import PacketError
from splitcom.language import ArgumentError


@register
@dataclass(frozen=True)
class Zstd(Entropy):
    """Pack what the number format gives with Zstandard.

    Frames have no magic number, size, checksum or dictionary id: the packet tells or bounds them.

    Args:
        level: 1 to 22; the higher, the smaller and slower.

    >>> short = Zstd().compress(bytes(1000))
    >>> len(short) < 20, Zstd().decompress(short, 1000) == bytes(1000)
    (True, True)
    """

    name = "zstd"

    level: int = 3

    def __post_init__(self) -> None:
        if not 1 <= self.level <= zstandard.MAX_COMPRESSION_LEVEL:
            raise ArgumentError("level", f"must be 1 to {zstandard.MAX_COMPRESSION_LEVEL}, not {self.level}")

    @override
    def compress(self, data: bytes) -> bytes:
        parameters = zstandard.ZstdCompressionParameters.from_level(
            self.level,
            source_size=len(data),
            format=zstandard.FORMAT_ZSTD1_MAGICLESS,
            write_content_size=0,
            write_checksum=0,
            write_dict_id=0,
        )
        return zstandard.ZstdCompressor(compression_params=parameters).compress(data)

    @override
    def decompress(self, data: Buffer, limit_bytes: int) -> bytes:
        if data[:1] != b"\0":
            raise PacketError("zstd frame with a size, checksum or dictionary id, of which ours have none")
        decompressor = zstandard.ZstdDecompressor(format=zstandard.FORMAT_ZSTD1_MAGICLESS)
        try:
            plain = decompressor.decompress(data, max_output_size=limit_bytes)
        except zstandard.ZstdError as error:
            raise PacketError(f"zstd body cannot be read: {error}") from None
        # allow_extra_data=False is only heeded where the output fills max_output_size (zstandard 0.25)
        if left := len(data) - _frame_end(data):
            raise PacketError(f"{left} bytes left over after the zstd frame")
        return plain


def _frame_end(data: Buffer) -> int:
    """Where a whole frame ends whose header is descriptor and window, by its blocks (RFC 8878, 3.1.1.2)."""
    position, is_last = 2, 0
    while not is_last and position < len(data):
        block = int.from_bytes(data[position : position + 3], "little")
        is_last, is_run, size = block & 1, block >> 1 & 3 == 1, block >> 3
        position += 3 + (1 if is_run else size)
    return position
