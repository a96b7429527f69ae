"""How careful to be: controllers that decide what a flow's codec does next, from what each round has shown.

Read `decision` and `controller` first, then `spec` for the language and one of the others.
"""

from splitcom.control import bangbang, ddpg, fixed, freeze, rate, schedule  # noqa: F401  (they register)
from splitcom.control.controller import CONTROLLERS, Controller, Feedback, register
from splitcom.control.decision import Decision, Knob
from splitcom.control.spec import parse

__all__ = ["CONTROLLERS", "Controller", "Decision", "Feedback", "Knob", "parse", "register"]
