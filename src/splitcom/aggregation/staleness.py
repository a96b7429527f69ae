"""What becomes of an update that began from an older version of the shared adapter; knows tensors, no clients.

    x_i  <-  x + alpha * (1 + s) ** -a * (x_i - x)

`s` is how many versions have passed since the update began. What comes of it goes to the aggregator, so that any of
them may be asynchronous. With FedAvg and a buffer of one this is FedAsync with polynomial staleness (Xie, Koyejo and
Gupta, arXiv 1903.03934). The buffer is FedBuff's (Nguyen et al., arXiv 2106.06639), which adds differences to the
versions that updates began from; interpolation needs no old versions.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from splitcom.aggregation.update import Update


@dataclass(frozen=True)
class Discount:
    """`mixing` is alpha, the part that a fresh update makes up; `exponent` is a.

    >>> Discount(0.6, 0.5).part_of(0), Discount(0.6, 0.5).part_of(3)
    (0.6, 0.3)
    """

    mixing: float
    exponent: float

    def part_of(self, staleness: int) -> float:
        """The part that an update of this staleness makes up in what is left of it."""
        return self.mixing * float((1 + staleness) ** -self.exponent)

    def apply(self, update: Update, shared: Mapping[str, Tensor], version: int) -> Update:
        """The update as far as it counts, in fp64, where `shared` is the adapter of `version`."""
        part = self.part_of(version - update.version)
        mixed = {
            name: shared[name].to(theirs).double() * (1 - part) + theirs.double() * part
            for name, theirs in update.adapter.items()
        }
        return replace(update, adapter=mixed)
