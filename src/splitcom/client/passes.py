"""One step through a front, in as many passes as `training.accumulate` says; knows no message.

    batch ─► part ─► front ─► hidden ┐                            gradient ─► part ─► front once more ─► backward
             part ─► front ─► hidden ┴─► what is sent                         part ─► front once more ─► backward

Of several passes only what they give is held until the gradient comes: each is computed again then, with the same
dropout, so that a client needs the memory of one of them. The gradients add up to those of one pass, but for rounding.
"""

from collections.abc import Callable

import torch

from splitcom.codecs import Ragged
from splitcom.data import Batch
from splitcom.models import Front
from splitcom.training.loss import learnt_tokens


class FrontPasses:
    """The passes of one step; `draw` seeds the dropout of the pass of that index."""

    def __init__(
        self, front: Front, parts: list[Batch], draw: Callable[[int], None], *, trains: bool
    ) -> None:
        self._front = front
        self._parts = parts
        self._draw = draw
        self._keeps = trains and len(parts) == 1
        self._kept: torch.Tensor | None = None

    def forward(self) -> Ragged:
        """What the front gives for the batch."""
        found = []
        for index, part in enumerate(self._parts):
            with torch.set_grad_enabled(self._keeps):
                hidden = self._run(index)
            self._kept = hidden if self._keeps else None
            found.append(
                Ragged.from_padded(
                    hidden.detach(), part.attention_mask.to(hidden.device), learnt_tokens(part.labels)
                )
            )
        return found[0] if len(found) == 1 else Ragged.join(found)

    def backward(self, gradient: Ragged) -> None:
        """Add the gradients of the front's adapter that belong to this one of what it gave."""
        start = 0
        for index, part in enumerate(self._parts):
            hidden = self._run(index) if self._kept is None else self._kept
            stop = start + int(part.lengths.sum())
            own = Ragged(gradient.values[start:stop], part.lengths).to_padded(part.attention_mask)
            torch.autograd.backward(hidden, own.to(hidden.device, hidden.dtype))
            start = stop

    def _run(self, index: int) -> torch.Tensor:
        self._draw(index)
        part, device = self._parts[index], next(self._front.parameters()).device
        hidden: torch.Tensor = self._front(part.input_ids.to(device), part.attention_mask.to(device))
        return hidden
