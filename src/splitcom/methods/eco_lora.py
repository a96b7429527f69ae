"""EcoLoRA (2506.02001): whole models at clients, which send a segment of their adapter each, sparse in both directions.

What is published is what is set here; `docs/methods.md` says what is chosen. A setting that is not at its default is
left as it is, so that variants can be compared.
"""

from splitcom.config import Config
from splitcom.flows import ADAPTERS
from splitcom.methods.method import Method, by_default


def _configure(config: Config) -> Config:
    sparse = {
        f"flows.{flow}.{setting}": value
        for flow in ADAPTERS
        for setting, value in {
            "codec": "delta > golomb(0.95, least=0.5)",
            "codec_a": "delta > golomb(0.95, least=0.6)",
            "error_feedback": True,
        }.items()
    }
    whole = config.override({"training.split": False, "model.tail_blocks": 0})
    return by_default(
        whole, {"federation.segments": 5, "federation.density_rate": 1.0, "client.mixing": 1.0} | sparse
    )


ECO_LORA = Method("eco_lora", "not split, a sparse segment of the adapter a client and round", _configure)
