"""Lossless shortening of a packet's body: zstd."""

from dataclasses import dataclass

import zstandard
from typing_extensions import override

from splitcom.codecs.stage import ArgumentError, Entropy, register
from splitcom.codecs.wire import Buffer
from splitcom.errors import PacketError


@register
@dataclass(frozen=True)
class Zstd(Entropy):
    """Zstandard without magic number, size, checksum or dictionary id: the packet tells or bounds them.

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
        decompressor = zstandard.ZstdDecompressor(format=zstandard.FORMAT_ZSTD1_MAGICLESS)
        try:
            # a frame that names its size would be believed; ours never do
            frame = zstandard.get_frame_parameters(data, format=zstandard.FORMAT_ZSTD1_MAGICLESS)
            if frame.content_size not in (0, zstandard.CONTENTSIZE_UNKNOWN):
                raise PacketError(f"zstd frame claims {frame.content_size} bytes")
            return decompressor.decompress(data, max_output_size=limit_bytes, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise PacketError(f"zstd body cannot be read: {error}") from None
