"""What a client has made of the shared adapter: the unit that is aggregated."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Update:
    """What a client has made of a version of the shared adapter in a round, from so many labels, by which it weighs.

    `adapter` may lack tensors of the shared one: those of layers that this client does not hold, or
    of other segments than the one it has sent.
    """

    adapter: Mapping[str, Tensor]
    num_labels: int
    version: int  # of the adapter it began from
    is_new: bool = True  # false: it has left the adapter as it was
    client: str = ""
    segment: int = 0
