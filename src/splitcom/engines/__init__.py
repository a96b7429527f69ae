"""Where the body runs: an `Engine` owns its devices and precision; knows no messages, and not what clients claim."""

from splitcom.config import Config
from splitcom.engines.engine import Engine
from splitcom.engines.local import LocalEngine
from splitcom.models import Body

__all__ = ["Engine", "LocalEngine", "engine_of"]


def engine_of(body: Body, config: Config) -> Engine:
    """The engine that a configuration asks for."""
    return {"local": LocalEngine}[config.engine.kind](body, config)
