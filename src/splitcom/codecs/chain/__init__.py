"""Tokens through a chain of independent stages: what is similar is skipped, the rest coded in fewer numbers and bits.

Read `stage` and `codec` first, then one of the stages.
"""

from splitcom.codecs.chain import dither, entropy, golomb, grid, projection, quantize, sparsify, svd, temporal  # noqa: F401  (they register)
from splitcom.codecs.chain.codec import ChainCodec
from splitcom.codecs.chain.number import Float16
from splitcom.codecs.chain.stage import Stage

__all__ = ["ChainCodec", "Float16", "Stage"]
