"""Two thresholds, switched by the held-out perplexity (SplitCom, arXiv 2602.10564).

The paper's notes name neither levels, nor band, nor direction; docs/controllers.md has the experiment behind these.
"""

from dataclasses import dataclass, field
from math import exp, inf

from splitcom.control.controller import Controller, Feedback, register
from splitcom.control.decision import Decision
from splitcom.language import ArgumentError
from splitcom.state import State


@register
@dataclass(eq=False)
class BangBang(Controller):
    """Saves while the held-out perplexity falls, and is careful when it no longer does.

        relative fall of the perplexity since the evaluation before
        ──────────────┬───────────────────┬──────────────►
            careful   0    as before    band    saving

    Args:
        saving: threshold while training gets on without more being sent.
        careful: threshold otherwise, and in the first round.
        band: width of the dead band, a part of the perplexity.
    """

    name = "bangbang"
    example = "bangbang(0.95, 0.995)"

    saving: float
    careful: float
    band: float = 0.01
    _is_careful: bool = field(default=True, init=False)
    _loss: float = field(default=inf, init=False)

    def __post_init__(self) -> None:
        if self.band < 0:
            raise ArgumentError("band", f"must be at least 0, not {self.band:g}")

    def decide(self) -> Decision:
        """One of the two."""
        return self._set(self.careful if self._is_careful else self.saving)

    @property
    def bounds(self) -> tuple[float, float]:
        """The two, the lower first."""
        return min(self.saving, self.careful), max(self.saving, self.careful)

    def observe(self, feedback: Feedback) -> None:
        """Compare the held-out perplexity with the one before; a round that was not evaluated changes nothing."""
        if feedback.round == 0:
            self._is_careful, self._loss = True, inf
        if feedback.held_out_loss is None:
            return
        fall = 1 - exp(min(feedback.held_out_loss - self._loss, 700.0))  # beyond it there is no float
        self._loss = feedback.held_out_loss
        if fall < 0:
            self._is_careful = True
        elif fall > self.band and feedback.round > 0:
            self._is_careful = False

    def state(self) -> State:
        """Which of the two, and the loss before; JSON has no infinity."""
        loss = None if self._loss == inf else self._loss
        return State(scalars={"is_careful": self._is_careful, "loss": loss})

    def load_state(self, state: State) -> None:
        """Go on from there."""
        loss = state.scalars["loss"]
        self._is_careful = bool(state.scalars["is_careful"])
        self._loss = inf if loss is None else float(loss)
