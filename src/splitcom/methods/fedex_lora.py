"""FedEx-LoRA (Singhal et al. 2024, 2410.09432): whole models at clients; the mean of the products B A is aggregated.

As far as the adapters' rank holds it: see `aggregation.fedex`.
"""

from splitcom.config import Config
from splitcom.methods.method import Method, by_default


def _configure(config: Config) -> Config:
    whole = config.override({"training.split": False, "model.tail_blocks": 0})
    return by_default(whole, {"federation.aggregator": "fedex"})


FEDEX_LORA = Method("fedex_lora", "not split, the mean of products B A aggregated", _configure)
