"""Centralised fine-tuning: one party with the whole model and everybody's data, the ceiling of quality.

It takes the step of all clients together, so that it makes as many steps in a round as the split methods with a
parallel body.
"""

from splitcom.config import Config
from splitcom.flows import ADAPTERS
from splitcom.methods.method import Method


def _configure(config: Config) -> Config:
    together = config.training.body_update == "parallel"
    sizes = [config.of_client(name).training.batch_size for name in config.client_names]
    return config.override(
        {
            "training.split": False,
            "model.tail_blocks": 0,
            "training.batch_size": sum(sizes) if together else config.training.batch_size,
            "federation.clients": 1,
            **{f"flows.{flow}": {"codec": "none"} for flow in ADAPTERS},
            "partition.kind": "iid",
            "clients": {},
        }
    )


CENTRALISED = Method("centralised", "not split, all data at one party", _configure)
