"""SplitLite (2608.23018): differences to what was last sent as factors of low rank, in 4 bits up and 8 down.

With rank r of LoRA an activation's difference has rank 2 r at most, by a first-order argument, and a gradient's 4 r.
A sample's first visit is sent whole; rounding is unbiased.
"""

from splitcom.config import Config
from splitcom.methods.method import Method, with_codecs


def _configure(config: Config) -> Config:
    text = "delta(first=fp16) > svd({}) > {}(rounding=stochastic)"
    rank = config.lora.rank
    return with_codecs(
        config, activation=text.format(2 * rank, "int4"), gradient=text.format(4 * rank, "int8")
    )


SPLIT_LITE = Method("split_lite", "split, differences of low rank in 4 and 8 bits", _configure)
