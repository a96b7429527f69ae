"""What a method is: a complete recipe, as the changes it makes to a configuration."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from splitcom.config import Config
from splitcom.errors import ConfigError
from splitcom.flows import ADAPTERS, AT_CUT, FLOWS
from splitcom.settings.presets import AUTO, DEFAULT, NARROW
from splitcom.settings.tree import flat

_WIDE = 256  # narrower models lost 2 to 5 % with larger steps (docs/results.md)


@dataclass(frozen=True)
class Method:
    """A recipe that can be compared with another; `configure` is idempotent, so that a saved run can be re-run."""

    name: str
    summary: str
    configure: Callable[[Config], Config]


def check_clients(config: Config) -> None:
    """Raise ConfigError for what clients of this form cannot do, once the method has settled the form."""
    wanted = {
        "client.bypass_epochs": (config.client.bypass_epochs or 0, 0),
        "client.keep": (config.client.keep or 1.0, 1.0),
        "lora.train_body": (config.lora.train_body, True),
    }
    for key, (value, plain) in wanted.items():
        if value != plain and not config.model.tail_blocks:
            raise ConfigError(
                f"{key} = {str(value).lower()}: it is for the U-shape, in which a client has both ends of the model; "
                "set model.tail_blocks = 1, or leave it out"
            )
    if config.model.bottleneck is not None and (
        config.model.tail_blocks or not config.training.split or config.engine.kind != "local"
    ):
        raise ConfigError(
            f"model.bottleneck = {config.model.bottleneck:g}: it is at the one cut of the standard form, and needs "
            "model.tail_blocks = 0, training.split = true and engine.kind = 'local'; leave it out, or change the others"
        )
    if config.client.own_b and config.training.keep == "best":
        raise ConfigError(
            "client.own_b = true: the best adapter would go with the clients' last B, not with those it was the best "
            "with; set training.keep = 'last'"
        )
    if not config.lora.train_body and not config.lora.front_learns:
        raise ConfigError(
            "lora.train_body = false: with lora.train_front = false nothing before the tail would learn; set one of "
            "them back, or lora.prompt_tokens"
        )


def without_controllers(config: Config) -> Config:
    """The configuration for a method that sets codecs of its own: nothing else of its flows is kept either."""
    flows = {f"flows.{flow}": {"codec": settings.codec} for flow, settings in config.cut_flows.items()}
    return config.override({"control": {}, **flows})


def with_codecs(config: Config, activation: str, gradient: str) -> Config:
    """The configuration with these codecs of what crosses cuts, and fp16 for adapters and held-out samples."""
    texts = {"activation": activation, "gradient": gradient}
    plain = {f"flows.{flow}": {"codec": "fp16"} for flow in ADAPTERS} | {"evaluation.codec": "fp16"}
    at_cut = {f"flows.{flow}.codec": texts[FLOWS[flow].content] for flow in config.cut_flows}
    return without_controllers(config).override(plain | at_cut)


def by_default(config: Config, values: Mapping[str, Any]) -> Config:
    """The configuration with these values of dotted keys in place of defaults; what is set otherwise stays."""
    given, plain = (flat(tree.model_dump()) for tree in (config, Config()))
    return config.override({key: value for key, value in values.items() if given[key] == plain[key]})


def with_settled_preset(config: Config) -> Config:
    """The configuration with the preset that its model needs where none is asked for; flows that were set stay."""
    if config.preset != AUTO:
        return config
    plain = Config().flows
    own = {
        f"flows.{flow}": getattr(config.flows, flow).model_dump()
        for flow in AT_CUT
        if getattr(config.flows, flow) != getattr(plain, flow)
    }
    preset = NARROW if width(config) < _WIDE else DEFAULT
    return config.override({"preset": preset, "evaluation.codec": config.evaluation.codec, **own})


def num_blocks(config: Config) -> int:
    """How many blocks the model has."""
    return int(_text_config(config).num_hidden_layers)


def width(config: Config) -> int:
    """How wide the model's hidden states are."""
    return int(_text_config(config).hidden_size)


def _text_config(config: Config) -> Any:
    from splitcom.models import load_config  # takes seconds, and most methods need no model

    return load_config(config.model.source).get_text_config()
