"""FedLoRA: every client trains the whole model, only adapters travel (FedAvg, McMahan et al. 2017, on LoRA)."""

from splitcom.config import Config
from splitcom.methods.method import Method


def _configure(config: Config) -> Config:
    return config.override({"training.split": False, "model.tail_blocks": 0})


FEDLORA = Method("fedlora", "not split, adapters averaged", _configure)
