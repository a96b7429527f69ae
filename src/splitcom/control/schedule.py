"""A threshold that follows from the progress of the run alone."""

from abc import abstractmethod
from dataclasses import dataclass, field
from math import cos, pi

from splitcom.control.controller import Controller, Feedback, register
from splitcom.control.decision import Decision
from splitcom.state import State


@dataclass(eq=False)
class Schedule(Controller):
    """Goes from `first`, in the first round, towards `last`, at the end of the run."""

    first: float
    last: float
    _progress: float = field(default=0.0, init=False)

    def decide(self) -> Decision:
        """By the part of the run that lies behind."""
        return self._set(self.first + (self.last - self.first) * self._share(self._progress))

    @property
    def bounds(self) -> tuple[float, float]:
        """Both ends, the lower first."""
        return min(self.first, self.last), max(self.first, self.last)

    def observe(self, feedback: Feedback) -> None:
        """Keep the progress."""
        self._progress = feedback.progress

    def state(self) -> State:
        """The progress."""
        return State(scalars={"progress": self._progress})

    def load_state(self, state: State) -> None:
        """Go on from there."""
        self._progress = float(state.scalars["progress"])

    @abstractmethod
    def _share(self, progress: float) -> float:
        """How much of the way is done, 0 to 1."""


@register
@dataclass(eq=False)
class Linear(Schedule):
    """From one threshold or step to another, in equal steps.

    Args:
        first: that of the first round.
        last: that of the end of the run.
    """

    name = "linear"
    example = "linear(0.9, 0.99)"

    def _share(self, progress: float) -> float:
        return progress


@register
@dataclass(eq=False)
class Cosine(Schedule):
    """From one threshold or step to another, slowly at both ends.

    Args:
        first: that of the first round.
        last: that of the end of the run.
    """

    name = "cosine"
    example = "cosine(0.9, 0.99)"

    def _share(self, progress: float) -> float:
        return (1 - cos(pi * progress)) / 2
