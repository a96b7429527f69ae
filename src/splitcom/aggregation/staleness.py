"""How updates are merged that began from older versions of the shared adapter; knows tensors, no clients.

    x  <-  x + alpha * sum_i  n_i / n * (1 + s_i) ** -a * (x_i - x)        n = sum_i n_i, over a buffer of updates

`s_i` is how many versions have passed since update `i` began, `n_i` its tokens. With a buffer of one this is FedAsync
with polynomial staleness (Xie, Koyejo and Gupta, arXiv 1903.03934). The buffer is FedBuff's (Nguyen et al., arXiv
2106.06639), which adds differences to the versions that updates began from; interpolation needs no old versions.
"""

from collections.abc import Mapping, Sequence

import torch

from splitcom.aggregation.average import weighted_average
from splitcom.aggregation.update import Update
from splitcom.config import AsynchronousConfig


def part_of(staleness: int, settings: AsynchronousConfig) -> float:
    """The part that an update of this staleness, alone in its buffer, makes up in the merged adapter.

    >>> part_of(0, AsynchronousConfig(mixing=0.6)), part_of(3, AsynchronousConfig(mixing=0.6, staleness=0.5))
    (0.6, 0.3)
    """
    return settings.mixing * float((1 + staleness) ** -settings.staleness)


def merge(
    state: Mapping[str, torch.Tensor], version: int, updates: Sequence[Update], settings: AsynchronousConfig
) -> dict[str, torch.Tensor]:
    """Merge a buffer of updates into `state`, which is that of `version`."""
    num_tokens = sum(update.num_tokens for update in updates)
    parts = [
        part_of(version - update.version, settings) * update.num_tokens / num_tokens for update in updates
    ]
    return weighted_average(
        [state, *(update.adapter for update in updates)], [max(1 - sum(parts), 0.0), *parts]
    )
