"""What the codec of one flow does next. Knows no controller, no codec and no message."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

Knob: TypeAlias = Literal["threshold", "step"]


@dataclass(frozen=True, slots=True)
class Decision:
    """For a round; at most one of threshold and step, since a codec has a gate or a quantiser with a step.

    Where both are None, the codec goes by its own text.

    >>> Decision.of("step", 0.5)
    Decision(threshold=None, step=0.5, frozen=False)
    """

    threshold: float | None = None
    """Of the gate: what is as similar to its reference is skipped."""
    step: float | None = None
    """Of the quantiser, in the units of `uniform`."""
    frozen: bool = False
    """Whether what is in front of the flow is no longer trained, so that what it carries changes no more."""

    @classmethod
    def of(cls, knob: Knob, value: float, *, frozen: bool = False) -> "Decision":
        """The one of the two that `knob` names."""
        if knob == "threshold":
            return cls(threshold=value, frozen=frozen)
        return cls(step=value, frozen=frozen)

    @property
    def value(self) -> float | None:
        """Whichever of threshold and step is set."""
        return self.step if self.threshold is None else self.threshold
