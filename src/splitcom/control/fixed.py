"""The same threshold in every round."""

from dataclasses import dataclass

from splitcom.control.controller import Controller, register


@register
@dataclass(eq=False)
class Fixed(Controller):
    """Sets what the codec's own text could say as well.

    >>> Fixed(0.98).threshold
    0.98
    """

    name = "fixed"

    value: float

    @property
    def threshold(self) -> float:
        """For every round."""
        return self.value

    @property
    def bounds(self) -> tuple[float, float]:
        """Its value, twice."""
        return self.value, self.value
