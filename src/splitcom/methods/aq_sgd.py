"""AQ-SGD (Wang et al. 2022, 2206.01299): differences to what was last sent in 4 bits, gradients in 8.

A sample's first visit is sent whole; rounding is unbiased.
"""

from splitcom.config import Config
from splitcom.methods.method import Method, with_codecs


def _configure(config: Config) -> Config:
    difference = "delta(first=fp16) > int4(rounding=stochastic)"
    return with_codecs(config, activation=difference, gradient="int8(rounding=stochastic)")


AQ_SGD = Method("aq_sgd", "split, activations as 4-bit differences, gradients in 8 bits", _configure)
