"""SplitLoRA (Lin et al. 2024, 2407.00952): split federated LoRA without compression, the reference of every saving."""

from splitcom.config import Config
from splitcom.flows import FLOWS
from splitcom.methods.method import Method, without_controllers


def _configure(config: Config) -> Config:
    adapters = (flow.name for flow in FLOWS.values() if flow.content == "adapter")
    codecs = [*(f"flows.{flow}.codec" for flow in (*config.cut_flows, *adapters)), "evaluation.codec"]
    return without_controllers(config).override(dict.fromkeys(codecs, "fp16"))


SPLITLORA = Method("splitlora", "split, uncompressed fp16 flows", _configure)
