"""Fronts that are trained for as long as it pays, and one threshold for each of both times."""

from dataclasses import dataclass, field
from math import inf
from typing import ClassVar

from splitcom.control.controller import Controller, Feedback, register
from splitcom.control.decision import Decision
from splitcom.language import ArgumentError
from splitcom.state import State


@register
@dataclass(eq=False)
class Freeze(Controller):
    """Freezes the fronts, for good, when the held-out loss has stopped to fall in the later part of the run.

        fronts rest, `training`  ──  after `rest` rounds  ──►  fronts learn, `training`
            ──  after `after`, no new lowest loss  ──►  fronts are frozen, `frozen`

    Early rounds do not count: at a high learning rate the loss goes up and down, and there is much to be learnt yet.

    Where the front is frozen no gradient comes back, no adapter is averaged (but for the tails', in the U-shape), and
    the activation of a sample changes no more: what the first frozen round sends of it lasts, so that a finer step
    pays then. While it rests the same holds, and samples that come for the first time come from a front that both
    ends know.

    Args:
        training: threshold or step while fronts rest or are trained.
        frozen: threshold or step from then on.
        patience: evaluations in a row without a new lowest loss that freeze the fronts; 0: they are frozen at `after`.
        after: part of the run that must be over before an evaluation counts.
        rest: rounds at the beginning of the run in which the body alone learns.
    """

    name = "freeze"
    example = "freeze(0.75, 0.375)"
    can_freeze: ClassVar[bool] = True

    training: float
    frozen: float
    patience: int = 2
    after: float = 0.5
    rest: int = 0
    _round: int = field(default=0, init=False)
    _is_frozen: bool = field(default=False, init=False)
    _lowest: float = field(default=inf, init=False)
    _waited: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.patience < 0:
            raise ArgumentError("patience", f"must be at least 0, not {self.patience}")
        if not 0 <= self.after <= 1:
            raise ArgumentError("after", f"must be 0 to 1, not {self.after:g}")
        if self.rest < 0:
            raise ArgumentError("rest", f"must be at least 0, not {self.rest}")

    def decide(self) -> Decision:
        """One of the two, and whether fronts are not trained."""
        rests = self._round < self.rest
        return self._set(self.frozen if self._is_frozen else self.training, frozen=self._is_frozen or rests)

    @property
    def resting_rounds(self) -> int:
        """What `rest` says."""
        return self.rest

    @property
    def bounds(self) -> tuple[float, float]:
        """The two, the lower first."""
        return min(self.training, self.frozen), max(self.training, self.frozen)

    def observe(self, feedback: Feedback) -> None:
        """Count late evaluations since the lowest loss; a round at rest, or not evaluated, counts for nothing."""
        self._round = feedback.round
        if feedback.round == 0:
            self._is_frozen, self._lowest, self._waited = False, inf, 0
        if self.rest and feedback.round <= self.rest:
            return
        is_late = feedback.progress >= self.after
        if feedback.held_out_loss is not None:
            self._waited = 0 if feedback.held_out_loss < self._lowest else self._waited + is_late
            self._lowest = min(self._lowest, feedback.held_out_loss)
        self._is_frozen |= is_late and self._waited >= self.patience

    def state(self) -> State:
        """The round, whether fronts are frozen, the lowest loss, and how long that is ago; JSON has no infinity."""
        lowest = None if self._lowest == inf else self._lowest
        return State(
            scalars={
                "round": self._round,
                "is_frozen": self._is_frozen,
                "lowest": lowest,
                "waited": self._waited,
            }
        )

    def load_state(self, state: State) -> None:
        """Go on from there."""
        lowest = state.scalars["lowest"]
        self._round = int(state.scalars.get("round", self.rest))  # earlier versions knew no rest
        self._is_frozen, self._waited = bool(state.scalars["is_frozen"]), int(state.scalars["waited"])
        self._lowest = inf if lowest is None else float(lowest)
