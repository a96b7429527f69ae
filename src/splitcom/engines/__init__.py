"""Where the body runs: an `Engine` owns its devices and precision; knows no messages, and not what clients claim."""

from collections.abc import Callable

from splitcom.config import Config
from splitcom.engines.engine import Engine
from splitcom.engines.local import LocalEngine
from splitcom.errors import ConfigError
from splitcom.models import Body

ENGINES: dict[str, Callable[[Body, Config], Engine]] = {"local": LocalEngine}
"""What makes an engine, by `engine.kind`."""

__all__ = ["ENGINES", "Engine", "LocalEngine", "check_engine", "engine_of"]


def check_engine(config: Config) -> None:
    """Raise ConfigError if there is no engine of the configured kind."""
    if config.engine.kind not in ENGINES:
        raise ConfigError(
            f"engine.kind = {config.engine.kind!r}: no such engine; there are {', '.join(ENGINES)}"
        )


def engine_of(body: Body, config: Config) -> Engine:
    """The engine that a configuration asks for; raises ConfigError if there is none of that kind."""
    check_engine(config)
    return ENGINES[config.engine.kind](body, config)
