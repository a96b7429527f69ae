"""Each client's part in the body's gradients of a step, and what it may be at most; knows no model.

    g_i  <-  g_i * min(1, max_ratio * median(norms) / norm(g_i / n_i))          norms: of all g_j / n_j, n_j labels

The body learns from every batch, so what bounds updates of adapters does not bound what a client does to it. Norms are
those of means over a client's own labels: who has more of them may pull more. It is clipping as in
`aggregation/bounds.py`, for each step; the direction stays the client's.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from math import sqrt
from statistics import median

import torch

_FEWEST = 3  # of two nobody can tell which is the outlier


class Shares:
    """Holds the gradients of `parameters` by client; as much memory again as those for each client of a step."""

    def __init__(self, parameters: Sequence[torch.nn.Parameter], max_ratio: float) -> None:
        self._parameters = parameters
        self._max_ratio = max_ratio
        self._own: dict[str, list[torch.Tensor]] = {}

    def begin(self) -> None:
        """Forget what a step has left that could not be taken."""
        self._own = {}

    def take(self, client: str) -> None:
        """What is in the gradients is this client's, or a further part of it; they are empty afterwards."""
        found = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        before = self._own.get(client)
        self._own[client] = (
            found if before is None else [one + more for one, more in zip(before, found, strict=True)]
        )
        for parameter in self._parameters:
            parameter.grad = None

    def merge(self, clients: Iterable[str], sum_up: Callable[[], None]) -> None:
        """Have every client's part be what `sum_up` makes of the gradients it is put into, of all processes."""
        for client in clients:
            for parameter, own in zip(self._parameters, self._own.pop(client, repeat(None)), strict=False):
                parameter.grad = own
            sum_up()
            self.take(client)

    def give(self, num_labels: Mapping[str, int]) -> None:
        """Put the sum of the clients' parts back, each clipped; those without labels have none."""
        norms = {client: _norm(self._own[client]) / number for client, number in num_labels.items() if number}
        usual = median(norms.values()) if len(norms) >= _FEWEST else 0.0
        for client, norm in norms.items():
            limit = self._max_ratio * usual
            scale = limit / norm if norm > limit > 0 else 1.0
            for parameter, own in zip(self._parameters, self._own[client], strict=True):
                part = own if scale == 1 else own * scale
                parameter.grad = part if parameter.grad is None else parameter.grad + part
        self.begin()


def _norm(tensors: Sequence[torch.Tensor]) -> float:
    return sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))
