"""A bottleneck at the cut that learns with the adapters, as ResBM (2604.11947) has it in pretraining: no references.

A sixteenth of the width, and no codec beside it, if nothing else is set.
"""

from splitcom.config import Config
from splitcom.methods.method import Method, by_default, with_codecs


def _configure(config: Config) -> Config:
    plain = with_codecs(config.override({"model.tail_blocks": 0}), activation="fp16", gradient="fp16")
    return by_default(plain, {"model.bottleneck": 1 / 16})


RES_BM = Method("res_bm", "split, a learnt bottleneck at the cut", _configure)
