"""Where the body runs: an `Engine` owns its devices and precision; knows no messages, and not what clients claim."""

from splitcom.config import Config
from splitcom.engines.engine import Engine, EngineKind
from splitcom.engines.local import LocalEngine
from splitcom.engines.placed import PlacedEngine
from splitcom.engines.processes import are_several
from splitcom.engines.ray import RayEngine
from splitcom.engines.sharded import ShardedEngine
from splitcom.errors import ConfigError
from splitcom.models import Body

ENGINES: dict[str, EngineKind] = {
    "local": LocalEngine,
    "placed": PlacedEngine,
    "sharded": ShardedEngine,
    "ray": RayEngine,
}
"""What makes an engine, by `engine.kind`."""

__all__ = ["ENGINES", "Engine", "LocalEngine", "check_engine", "check_processes", "engine_of"]


def check_engine(config: Config) -> None:
    """Raise ConfigError if there is no engine of the configured kind, or it does not fit the rest."""
    kind = config.engine.kind
    if kind not in ENGINES:
        raise ConfigError(f"engine.kind = {kind!r}: no such engine; there are {', '.join(ENGINES)}")
    if config.engine.devices is not None and kind != "placed":
        raise ConfigError(f"engine.devices needs engine.kind = 'placed', and this is {kind!r}; leave it out")
    if config.engine.processes is not None and kind != "sharded":
        raise ConfigError(
            f"engine.processes needs engine.kind = 'sharded', and this is {kind!r}; leave it out"
        )
    if not config.training.split and kind not in ("local", "ray"):
        raise ConfigError(
            f"engine.kind = {kind!r}: with training.split = false the server runs no part of the model; "
            "leave engine.kind out"
        )


def check_processes(config: Config) -> None:
    """Raise ConfigError if this process lacks what the configured engine needs, or torchrun has started too many."""
    if are_several() and config.engine.kind != "sharded":
        raise ConfigError(
            f"engine.kind = {config.engine.kind!r} runs in one process, and torchrun has started several; set "
            "engine.kind = 'sharded', or give the command without torchrun"
        )
    ENGINES[config.engine.kind].check(config)


def engine_of(body: Body, config: Config) -> Engine:
    """The engine that a configuration asks for; raises ConfigError if there is none of that kind."""
    check_engine(config)
    return ENGINES[config.engine.kind](body, config)
