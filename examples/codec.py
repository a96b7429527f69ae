"""A codec stage of your own: LZMA in place of zstd at the end of a chain, and what it saves in a short run.

    python examples/codec.py

The class is all that a stage needs. docs/tutorials/codec.md says how to test it, and how a package brings it along, so
that the command line knows it as well.
"""

import lzma
from dataclasses import dataclass

from typing_extensions import override

import splitcom
from splitcom.codecs.chain.stage import Entropy
from splitcom.codecs.element import register
from splitcom.codecs.wire import Buffer
from splitcom.errors import PacketError
from splitcom.language import ArgumentError


@register
@dataclass(frozen=True)
class Lzma(Entropy):
    """LZMA2 without a container.

    Args:
        level: 0 to 9, slower and shorter.
    """

    name = "lzma"

    level: int = 6

    def __post_init__(self) -> None:
        if not 0 <= self.level <= 9:
            raise ArgumentError("level", f"must be 0 to 9, not {self.level}")

    @override
    def compress(self, data: bytes) -> bytes:
        return lzma.compress(data, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": self.level}])

    @override
    def decompress(self, data: Buffer, limit_bytes: int) -> bytes:
        decompressor = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2}])
        try:
            plain = decompressor.decompress(data, max_length=limit_bytes)
        except lzma.LZMAError as error:
            raise PacketError(f"lzma body cannot be read: {error}") from None
        if not decompressor.eof or decompressor.unused_data:
            raise PacketError("lzma body is cut off, too long, or has bytes left over")
        return plain


def settings(last: str) -> splitcom.Config:
    """A short run whose activations end in this stage."""
    return splitcom.Config().override(
        {
            "flows.activation_up.codec": f"temporal(0.98) > delta > int4 > {last}",
            "flows.activation_up.controller": None,
            "data.samples": 24,
            "data.held_out_samples": 6,
            "training.rounds": 2,
            "evaluation.generate": 0,
        }
    )


def main() -> None:
    for last in ("zstd", "lzma"):
        result = splitcom.train(settings(last), f"runs/codec-{last}").result
        print(
            f"{last}: {result['bytes']['activation_up']:,} bytes of activations, loss {result['eval']['loss']:.3f}"
        )


if __name__ == "__main__":
    main()
