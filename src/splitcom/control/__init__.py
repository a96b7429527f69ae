"""How careful to be: controllers that set a flow's threshold or step from what each round has shown.

Read `controller` first, then `spec` for the language and one of the others.
"""

from splitcom.control import bangbang, ddpg, fixed, freeze, rate, schedule  # noqa: F401  (they register)
from splitcom.control.controller import CONTROLLERS, Controller, Feedback, register
from splitcom.control.spec import parse

__all__ = ["CONTROLLERS", "Controller", "Feedback", "parse", "register"]
