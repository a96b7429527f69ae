"""The settings of controllers, and the text that names one."""

from functools import partial
from typing import Annotated

from pydantic import AfterValidator

from splitcom.control.spec import parse
from splitcom.settings import Place, Section, canonical

ControllerText = Annotated[str, AfterValidator(partial(canonical, parse))]


class ControlConfig(Section):
    """One controller for several flows, and where the controllers of a run begin."""

    controller: ControllerText | None = None
    """One controller for all flows that have a threshold or step and no controller of their own."""
    start_from: Annotated[str, Place()] | None = None
    """A run folder: its controllers' state is where this run's controllers begin."""
