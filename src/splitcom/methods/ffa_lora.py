"""FFA-LoRA (Sun et al. 2024, 2403.12313): whole models at clients; A stays as all have drawn it, so only B is sent.

The mean of products B A is then the product of the means, which with both matrices it is not.
"""

from splitcom.config import Config
from splitcom.flows import ADAPTERS
from splitcom.methods.method import Method

NOTHING = "delta > golomb(0.001)"
"""The codec of tensors that do not change: it keeps no zeros."""


def _configure(config: Config) -> Config:
    whole = {"training.split": False, "model.tail_blocks": 0, "lora.train_a": False}
    return config.override(whole | {f"flows.{flow}.codec_a": NOTHING for flow in ADAPTERS})


FFA_LORA = Method("ffa_lora", "not split, A as it was drawn, B averaged", _configure)
