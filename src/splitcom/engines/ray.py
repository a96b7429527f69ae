"""The body in this process, and the clients of a simulation in the actors of a Ray cluster; knows nothing of these."""

from splitcom.config import Config
from splitcom.engines.local import LocalEngine
from splitcom.errors import MissingExtraError


class RayEngine(LocalEngine):
    """A `LocalEngine`; `splitcom.simulation` sees to the clients."""

    @classmethod
    def check(cls, config: Config) -> None:
        """Raise MissingExtraError if Ray is not installed."""
        try:
            import ray  # noqa: F401
        except ImportError as error:
            raise MissingExtraError("engine.kind = 'ray'", "scale", error) from error
