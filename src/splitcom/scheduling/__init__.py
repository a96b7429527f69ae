"""Who trains when, and who waits for whom."""

from collections.abc import Callable

from splitcom.config import Config
from splitcom.scheduling.asynchronous import Asynchronous
from splitcom.scheduling.deadline import Deadline
from splitcom.scheduling.lockstep import Lockstep
from splitcom.server.part import ServerRun
from splitcom.server.rounds import Scheduling
from splitcom.server.steps import Steps

__all__ = ["Asynchronous", "Deadline", "Lockstep", "scheduling_of"]


def scheduling_of(config: Config) -> Callable[[ServerRun, Steps], Scheduling]:
    """The way of scheduling that a configuration asks for."""
    if config.federation.scheduling == "asynchronous":
        return Asynchronous
    return Lockstep if config.federation.waits_for_all else Deadline
