"""The adapter with the lowest held-out loss so far, and for how many evaluations there has been no lower one."""

import math
from collections.abc import Callable, Mapping

import torch

from splitcom.config import TrainingConfig
from splitcom.server.evaluation import HeldOut
from splitcom.state import State


class Best:
    """`round` is that of the lowest loss over the held-out rows of the last evaluation; 0 is before training.

    Losses over other rows cannot be compared, so that the first over other rows is the lowest. `adapter` is that of all
    parts then, empty if the last one is to be kept.
    """

    def __init__(self, config: TrainingConfig) -> None:
        self._keeps = config.keep == "best"
        self._patience = config.patience
        self.round: int | None = None
        self.adapter: dict[str, torch.Tensor] = {}
        self._loss = math.inf
        self._rows: Mapping[str, int] = {}
        self._waited = 0

    @property
    def is_given_up(self) -> bool:
        """Whether as many evaluations as there is patience for have found no lower loss."""
        return 0 < self._patience <= self._waited

    def observe(
        self, round_index: int, found: HeldOut, adapter: Callable[[], Mapping[str, torch.Tensor]]
    ) -> None:
        """Take note of an evaluation of this adapter, of which a copy is kept if it is the best."""
        if self.round is not None and found.rows == self._rows and found.loss >= self._loss:
            self._waited += 1
            return
        self.round, self._loss, self._rows, self._waited = round_index, found.loss, dict(found.rows), 0
        if self._keeps:
            self.adapter = {name: tensor.detach().cpu().clone() for name, tensor in adapter().items()}

    def state(self) -> State:
        """What a checkpoint keeps."""
        scalars = {"round": self.round, "loss": self._loss, "rows": self._rows, "waited": self._waited}
        return State(self.adapter, scalars)

    def load_state(self, state: State) -> None:
        """Go on from a checkpoint."""
        kept = state.scalars
        self.round, self._loss, self._rows = kept["round"], kept["loss"], kept["rows"]
        self._waited, self.adapter = kept["waited"], dict(state.tensors)
