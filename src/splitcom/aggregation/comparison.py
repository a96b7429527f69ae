"""How an update lies among the others of its round: how large it is, and whether it goes their way; judges nothing."""

from collections.abc import Mapping, Sequence
from math import sqrt
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from splitcom.aggregation.bounds import norm_of
from splitcom.aggregation.update import Update


class Compared(NamedTuple):
    """`ratio` is of its norm to the median of the others', `cosine` that with the sum of the others' directions."""

    norm: float  # L2, of what it changes
    ratio: float
    cosine: float


def compared(shared: Mapping[str, Tensor], updates: Sequence[Update]) -> dict[str, Compared]:
    """By client; nothing of fewer than three updates. Takes two passes over each, and memory for one.

        u_i = change_i / norm(change_i)        U = sum of u_j        cosine_i = u_i * (U - u_i) / norm(U - u_i)

    Directions are of length 1, so that no client hides another by being large.
    """
    norms = {update.client: norm_of(shared, update) for update in updates}
    if len(norms) < 3:
        return {}
    total = {name: torch.zeros_like(old, dtype=torch.float64) for name, old in shared.items()}
    for update in updates:
        for name, unit in _direction(shared, update, norms[update.client]):
            total[name] += unit
    square = sum(float(tensor.square().sum()) for tensor in total.values())
    found = {}
    for update in updates:
        norm = norms[update.client]
        along = sum(float((unit * total[n]).sum()) for n, unit in _direction(shared, update, norm))
        rest = sqrt(max(square - 2 * along + (norm > 0), 0.0))
        others = median(other for client, other in norms.items() if client != update.client)
        ratio = norm / others if others else float(norm == 0)
        found[update.client] = Compared(norm, ratio, (along - 1) / rest if norm and rest else 0.0)
    return found


def _direction(shared: Mapping[str, Tensor], update: Update, norm: float) -> list[tuple[str, Tensor]]:
    if not norm:
        return []
    return [(name, (new.double() - shared[name].double()) / norm) for name, new in update.adapter.items()]
