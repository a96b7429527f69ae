"""What a client has made of the shared adapter: the unit that is aggregated."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Update:
    """What a client has made of a version of the shared adapter in a round, from so many tokens."""

    adapter: dict[str, torch.Tensor]
    num_tokens: int
    version: int  # of the adapter it began from
    is_new: bool = True  # false: it has left the adapter as it was
