"""What a method is: a complete recipe, as the changes it makes to a configuration."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from splitcom.config import Config
from splitcom.settings.tree import flat


@dataclass(frozen=True)
class Method:
    """A recipe that can be compared with another; `configure` is idempotent, so that a saved run can be re-run."""

    name: str
    summary: str
    configure: Callable[[Config], Config]


def without_controllers(config: Config) -> Config:
    """The configuration for a method that sets codecs of its own: nothing else of its flows is kept either."""
    flows = {f"flows.{flow}": {"codec": settings.codec} for flow, settings in config.cut_flows.items()}
    return config.override({"control": {}, **flows})


def by_default(config: Config, values: Mapping[str, Any]) -> Config:
    """The configuration with these values of dotted keys in place of defaults; what is set otherwise stays."""
    given, plain = (flat(tree.model_dump()) for tree in (config, Config()))
    return config.override({key: value for key, value in values.items() if given[key] == plain[key]})
