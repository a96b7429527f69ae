"""SplitFT (2604.26388): each client has a cut of its own, which follows how well it does, and a smaller rank at it.

What is published is set here; `docs/methods.md` says what is chosen. A setting that is not at its default is left as it
is, so that variants can be compared.
"""

from splitcom.config import Config
from splitcom.methods.method import Method, by_default, num_blocks, with_settled_preset

_EVERY = 2  # rounds
_DEEPER = 2  # blocks than the deepest front that is given, if the model has them


def _configure(config: Config) -> Config:
    config = with_settled_preset(config)
    deepest = config.cuts[-1]
    most = max(min(deepest + _DEEPER, num_blocks(config) - config.model.tail_blocks - 1), deepest)
    values = {
        "federation.cuts.every": _EVERY,
        "federation.cuts.most": most,
        "lora.cut_rank": max(config.lora.rank // 2, 1),
    }
    return by_default(config, values)


SPLIT_FT = Method("split_ft", "split, a cut of its own for each client, which follows its loss", _configure)
