"""FedSA-LoRA (Guo et al. 2024, 2410.01463): whole models at clients; A is averaged, each client keeps a B of its own.

Held-out losses are those of the clients' own models; what a run leaves is A alone.
"""

from splitcom.config import Config
from splitcom.flows import ADAPTERS
from splitcom.methods.ffa_lora import NOTHING
from splitcom.methods.method import Method


def _configure(config: Config) -> Config:
    whole = config.override({"training.split": False, "model.tail_blocks": 0, "client.own_b": True})
    if config.client.own_b:  # and so configured already
        return whole
    codecs = {flow: config.flows.adapter(flow) for flow in ADAPTERS}
    of_a = {f"flows.{flow}.codec_a": codec.codec_a or codec.codec for flow, codec in codecs.items()}
    return whole.override(of_a | {f"flows.{flow}.codec": NOTHING for flow in ADAPTERS})


FEDSA_LORA = Method("fedsa_lora", "not split, A averaged, B of each client's own", _configure)
