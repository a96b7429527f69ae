"""FDA-Opt (2505.04535): whole models at clients, whose adapters are averaged when they have moved too far apart.

What is published is what is set here; `docs/methods.md` says what is chosen. A setting that is not at its default is
left as it is, so that estimates and server optimizers can be compared.
"""

from splitcom.config import Config
from splitcom.methods.method import Method, by_default


def _configure(config: Config) -> Config:
    whole = config.override({"training.split": False, "model.tail_blocks": 0})
    return by_default(whole, {"federation.variance.estimate": "linear"})


FDA_OPT = Method("fda_opt", "not split, adapters averaged once clients have moved apart", _configure)
