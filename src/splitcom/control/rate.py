"""A step that follows what has been sent, so that a run ends with the traffic it may have."""

from dataclasses import dataclass, field
from math import exp, log, sqrt

from splitcom.control.controller import Controller, Feedback, register
from splitcom.control.decision import Decision
from splitcom.language import ArgumentError
from splitcom.state import State

_STEADY, _PASSING = 2.0, 2.0  # what to expect of bytes: (step / step before)^-passing · step^-steady
_COARSER, _FINER = log(2.0), log(1.25)  # the most that a round changes the step by


@register
@dataclass(eq=False)
class Rate(Controller):
    """Holds a budget over the whole run; for steps, and whatever else sends less the higher it is.

        what the last round has sent ÷ what it was, uncompressed ──┐
                                                                   ├─► ratio ─► change = ratio^(1/4) · last change^(1/2)
        what is left to send ÷ what is left to come, uncompressed ─┘            step · change, which is 1/1.25 to 2

    What one round is too dear, the first one above all, the rounds after it make up for. A round with a finer step than
    the one before is dearer than it would have been had that been as fine, since references must become finer, and one
    with a coarser step is cheaper: so much of the ratio will pass, and is left out of account. What too fine a step
    has cost can only be saved in rounds to come, so steps become finer slowly, and not in the last round.

    Args:
        percent: of the uncompressed bytes that the run may send.
        low: lowest step. The first is the geometric mean of the two.
        high: highest step.
    """

    name = "rate"
    example = "rate(1.5, 0.25, 4)"
    saves_upwards = True

    percent: float
    low: float
    high: float
    _step: float = field(default=0.0, init=False)
    _change: float = field(default=0.0, init=False)
    _sent: int = field(default=0, init=False)
    _uncompressed: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        for argument, is_right, expected in (
            ("percent", self.percent > 0, "must be above 0"),
            ("low", self.low > 0, "must be above 0"),
            ("high", self.low < self.high, f"must be above low, {self.low:g}"),
        ):
            if not is_right:
                raise ArgumentError(argument, f"{expected}, not {getattr(self, argument):g}")
        self._step = self._first

    @property
    def _first(self) -> float:
        return sqrt(self.low * self.high)

    def decide(self) -> Decision:
        """The step of the next round."""
        return self._set(self._step)

    @property
    def bounds(self) -> tuple[float, float]:
        """Of the steps."""
        return self.low, self.high

    def observe(self, feedback: Feedback) -> None:
        """Compare what the round has cost with what the rest of the run may."""
        if feedback.round == 0:
            self._step, self._change, self._sent, self._uncompressed = self._first, 0.0, 0, 0
        self._sent += feedback.sent_bytes
        self._uncompressed += feedback.uncompressed_bytes
        if not feedback.sent_bytes or not 0 < feedback.progress < 1:
            return
        to_come = self._uncompressed / feedback.progress - self._uncompressed
        allowed = self.percent / 100 * (self._uncompressed + to_come) - self._sent
        change, rounds_left = _COARSER, feedback.round * (1 / feedback.progress - 1)
        if allowed > 0:
            ratio = feedback.sent_bytes / feedback.uncompressed_bytes * to_come / allowed
            change = (log(ratio) + _PASSING * self._change) / (_STEADY + _PASSING)
        step = self._step * exp(min(max(change, -_FINER if rounds_left > 1.5 else 0.0), _COARSER))
        step = min(max(step, self.low), self.high)
        self._step, self._change = step, log(step / self._step)

    def state(self) -> State:
        """The step, how it has changed, and what has been sent so far."""
        return State(
            scalars={
                "step": self._step,
                "change": self._change,
                "sent": self._sent,
                "uncompressed": self._uncompressed,
            }
        )

    def load_state(self, state: State) -> None:
        """Go on from there."""
        scalars = state.scalars
        self._step, self._change = float(scalars["step"]), float(scalars["change"])
        self._sent, self._uncompressed = int(scalars["sent"]), int(scalars["uncompressed"])
