"""What a controller is, what it hears, and the registry that names them; knows no codec, no message and no loop.

A new controller is one file with one class under `@register`, imported in `control/__init__.py`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from splitcom.control.decision import Decision, Knob
from splitcom.language import Call, Registry
from splitcom.state import State


@dataclass(frozen=True, kw_only=True)
class Feedback:
    """What a round has shown of a flow; round 0 is before training, when nothing has been sent."""

    round: int
    progress: float
    """Part of the run that lies behind, 0 to 1."""
    train_loss: float | None
    """Nats per labelled token, mean over the round; None if it is not known."""
    held_out_loss: float | None
    """Nats per labelled token after the round; None if it was not evaluated."""
    skip_ratio: float
    """Part of the samples of which nothing was sent, 0 to 1."""
    sent_bytes: int
    uncompressed_bytes: int
    """What the same samples take as fp16."""


@dataclass(eq=False)
class Controller(Call, ABC):
    """Decides for each round: a dataclass whose fields are the arguments in the mini-language.

        Feedback of a round ─► observe ─► what it remembers (State) ─► decide ─► Decision for the next round

    What it decides follows from its arguments, its seed and what it has observed.
    """

    saves_upwards: ClassVar[bool] = False
    """Whether it sets more in order to send less, and so fits only where that is right."""
    can_freeze: ClassVar[bool] = False
    """Whether it may stop the training of fronts, and so is for their activations."""
    seed: int = field(default=0, kw_only=True)
    knob: Knob = field(default="threshold", kw_only=True)
    """What its numbers are: thresholds of a gate, or steps of a quantiser."""

    @abstractmethod
    def decide(self) -> Decision:
        """For the next round; asked as often as you like, it says the same until it observes another."""

    @property
    @abstractmethod
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest number it may set."""

    @property
    def resting_rounds(self) -> int:
        """Rounds at the beginning of a run in which fronts do not learn."""
        return 0

    def _set(self, value: float, *, frozen: bool = False) -> Decision:
        """A decision with this threshold or step, whichever its numbers are."""
        return Decision.of(self.knob, value, frozen=frozen)

    def prepare(self) -> None:
        """Load what is needed beyond this package; raises ConfigError if that is not installed."""

    def observe(self, feedback: Feedback) -> None:
        """Hear of a round; one of number 0 begins a new run."""

    def state(self) -> State:
        """What is to be kept, so that another object goes on to the same bits."""
        return State()

    def load_state(self, state: State) -> None:
        """Go on from there. Raises KeyError, TypeError, ValueError or RuntimeError if it is not of this kind."""


CONTROLLERS: Registry[Controller] = Registry("controller", "a controller, such as fixed(0.98)")
register = CONTROLLERS.register
