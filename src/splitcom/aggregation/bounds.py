"""What one update may do at most, compared with the others of its round; knows no aggregator and no intent.

    norm of the change    at most `max_ratio` times the median of the round's, if there are three or more
    labels, if claimed    at most `max_weight` times the median of the others'

Updates that stay below are handed on as they are, to the bit. Clipping bounds what an update can do and does not find
out whether it is right: Sun et al. 2019, "Can You Really Backdoor Federated Learning?" (1911.07963), section 4.2.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import sqrt
from statistics import median

from torch import Tensor

from splitcom.aggregation.update import Update

_LOG = logging.getLogger(__name__)
_FEWEST = 3  # of two nobody can tell which is the outlier


def clipped(shared: Mapping[str, Tensor], updates: Sequence[Update], max_ratio: float) -> list[Update]:
    """The updates, those clipped whose change of `shared` is too large (L2 norm over all tensors, in fp64).

    One of fewer numbers, of a client that holds less, is compared as if it had as many as the largest.
    """
    if len(updates) < _FEWEST:
        return list(updates)
    sizes = [sum(tensor.numel() for tensor in update.adapter.values()) for update in updates]
    norms = [
        norm_of(shared, update) * sqrt(max(sizes) / max(size, 1))
        for update, size in zip(updates, sizes, strict=True)
    ]
    usual = median(norms)
    bounded = []
    for update, norm in zip(updates, norms, strict=True):
        if norm > max_ratio * usual > 0:
            _LOG.warning(
                "%s: its update changes the adapter %.1f times as much as the median; it is clipped to %g times",
                update.client, norm / usual, max_ratio,
            )  # fmt: skip
            update = replace(update, adapter=scaled(shared, update, max_ratio * usual / norm))
        bounded.append(update)
    return bounded


def weighed(updates: Sequence[Update], max_weight: float) -> list[Update]:
    """The updates, of which none claims to weigh more than `max_weight` times the median of the others."""
    bounded = []
    for index, update in enumerate(updates):
        others = [other.num_labels for place, other in enumerate(updates) if place != index]
        most = int(max_weight * median(others)) if others else update.num_labels
        if update.num_labels > most:
            _LOG.warning(
                "%s: it claims %d labels, far more than the others; its update weighs as of %d",
                update.client, update.num_labels, most,
            )  # fmt: skip
            update = replace(update, num_labels=most)
        bounded.append(update)
    return bounded


def norm_of(shared: Mapping[str, Tensor], update: Update) -> float:
    """The L2 norm of what an update changes, over all tensors that it holds, in fp64."""
    changes = (new.double() - shared[name].double() for name, new in update.adapter.items() if name in shared)
    return sqrt(sum(float(change.square().sum()) for change in changes))


def scaled(shared: Mapping[str, Tensor], update: Update, scale: float) -> dict[str, Tensor]:
    """The adapter of an update whose change is `scale` times as large."""
    return {
        name: (shared[name].double() + (new.double() - shared[name].double()) * scale).to(new.dtype)
        for name, new in update.adapter.items()
    }
