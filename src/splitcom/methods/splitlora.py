"""SplitLoRA (Lin et al. 2024, 2407.00952): split federated LoRA without compression, the reference of every saving."""

from splitcom.config import Config
from splitcom.flows import ADAPTERS
from splitcom.methods.method import Method, without_controllers


def _configure(config: Config) -> Config:
    codecs = [*(f"flows.{flow}.codec" for flow in config.cut_flows), "evaluation.codec"]
    plain = dict.fromkeys(codecs, "fp16") | {f"flows.{flow}": {"codec": "fp16"} for flow in ADAPTERS}
    return without_controllers(config).override(plain)


SPLITLORA = Method("splitlora", "split, uncompressed fp16 flows", _configure)
