"""What a method is: a complete recipe, as the changes it makes to a configuration."""

from collections.abc import Callable
from dataclasses import dataclass

from splitcom.config import Config


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
