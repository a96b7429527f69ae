"""The same threshold in every round."""

from dataclasses import dataclass

from splitcom.control.controller import Controller, register
from splitcom.control.decision import Decision


@register
@dataclass(eq=False)
class Fixed(Controller):
    """The same threshold or step in every round, as the codec's own text could say as well.

    Args:
        value: the threshold or step.

    >>> Fixed(0.98).decide().threshold
    0.98
    """

    name = "fixed"
    example = "fixed(0.98)"

    value: float

    def decide(self) -> Decision:
        """The same for every round."""
        return self._set(self.value)

    @property
    def bounds(self) -> tuple[float, float]:
        """Its value, twice."""
        return self.value, self.value
