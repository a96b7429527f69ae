"""SplitCom (2602.10564): an activation is sent again only when it differs noticeably from what the server holds.

The codecs of the flows are the configuration's own; `temporal(threshold)` is the paper's gate.
"""

from splitcom.config import Config
from splitcom.control import parse
from splitcom.methods.method import Method, num_blocks, with_settled_preset

_EARLY = 0.1  # of the blocks: a front that has no more lost a tenth of a per cent by not learning (docs/results.md)


def _configure(config: Config) -> Config:
    config = with_settled_preset(config)
    if config.lora.train_front != "auto":
        return config
    return config.override({"lora.train_front": not (_may_be_frozen(config) and _is_early(config))})


def _may_be_frozen(config: Config) -> bool:
    """Whether a controller may freeze fronts, and nothing is asked for that only a front that learns can do."""
    steering = config.steering.get("activation_up")
    asks_more = (
        config.model.tail_blocks
        or config.model.bottleneck is not None
        or config.lora.prompt_tokens
        or config.lora.modules_to_save
        or not config.lora.train_body
        or config.federation.secure_aggregation is not None
        or config.federation.cuts.every is not None
    )
    return config.training.split and steering is not None and parse(steering[1]).can_freeze and not asks_more


def _is_early(config: Config) -> bool:
    return config.cuts[-1] <= _EARLY * num_blocks(config)


SPLITCOM = Method("splitcom", "split, flows coded as configured", _configure)
