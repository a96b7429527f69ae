"""SplitLoRA (Lin et al. 2024, 2407.00952): split federated LoRA without compression, the reference of every saving."""

from splitcom.config import Config
from splitcom.methods.method import Method, with_codecs


def _configure(config: Config) -> Config:
    return with_codecs(config, activation="fp16", gradient="fp16")


SPLITLORA = Method("splitlora", "split, uncompressed fp16 flows", _configure)
