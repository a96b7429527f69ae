"""From a text such as "bangbang(0.95, 0.995, band=0.01)" to a controller. The words are read by `language`."""

from splitcom.control.controller import CONTROLLERS, Controller
from splitcom.control.decision import Knob


def parse(text: str, seed: int = 0, knob: Knob = "threshold") -> Controller:
    """Make a controller of thresholds or of steps from its text; `str(controller)` is the canonical text.

    Raises:
        SpecError: where the text cannot be read or an argument is out of range; it points at the place.

    >>> str(parse("bangbang( 0.95,careful = 0.995 )"))
    'bangbang(0.95, 0.995)'
    """
    return CONTROLLERS.parse(text, seed=seed, knob=knob)
