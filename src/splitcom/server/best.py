"""The adapter with the lowest held-out loss so far, and for how many evaluations there has been no lower one."""

import math
from collections.abc import Callable, Mapping

import torch

from splitcom.config import TrainingConfig
from splitcom.server.evaluation import HeldOut
from splitcom.state import State


class Best:
    """`round` is that of the lowest loss; 0 is before training.

    Losses over other rows cannot be compared. Where clients have come or gone, those of the others are, and where no
    client has the same rows as before, the loss counts as the lowest. `adapter` is that of all parts then, empty if the
    last one is to be kept.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self._keeps = config.keep == "best"
        self._patience = config.patience
        self.round: int | None = None
        self.adapter: dict[str, torch.Tensor] = {}
        self._loss = math.inf
        self._rows: Mapping[str, int] = {}
        self._losses: Mapping[str, float] = {}  # by client
        self._waited = 0

    @property
    def is_given_up(self) -> bool:
        """Whether as many evaluations as there is patience for have found no lower loss."""
        return 0 < self._patience <= self._waited

    def observe(
        self,
        round_index: int,
        found: HeldOut,
        losses: Mapping[str, float],
        adapter: Callable[[], Mapping[str, torch.Tensor]],
    ) -> None:
        """Take note of an evaluation of this adapter, of which a copy is kept if it is the best.

        `losses` are those of each client, in nats per label.
        """
        if not self._is_lowest(found, losses):
            self._waited += 1
            return
        self.round, self._loss, self._waited = round_index, found.loss, 0
        self._rows, self._losses = dict(found.rows), dict(losses)
        if self._keeps:
            self.adapter = {name: tensor.detach().cpu().clone() for name, tensor in adapter().items()}

    def _is_lowest(self, found: HeldOut, losses: Mapping[str, float]) -> bool:
        if found.rows == self._rows:
            return found.loss < self._loss
        same = [
            name
            for name, number in found.rows.items()
            if number == self._rows.get(name) and name in losses and name in self._losses
        ]
        return not same or sum(found.rows[name] * (losses[name] - self._losses[name]) for name in same) < 0

    def state(self) -> State:
        """What a checkpoint keeps."""
        scalars = {
            "round": self.round,
            "loss": self._loss,
            "rows": self._rows,
            "losses": self._losses,
            "waited": self._waited,
        }
        return State(self.adapter, scalars)

    def load_state(self, state: State) -> None:
        """Go on from a checkpoint."""
        kept = state.scalars
        self.round, self._loss, self._rows = kept["round"], kept["loss"], kept["rows"]
        self._losses = kept.get("losses", {})
        self._waited, self.adapter = kept["waited"], dict(state.tensors)
