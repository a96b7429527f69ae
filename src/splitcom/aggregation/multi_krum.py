"""Multi-Krum: the mean of the updates that lie closest to their neighbours."""

from dataclasses import dataclass

from typing_extensions import override

from splitcom.aggregation.aggregator import register
from splitcom.aggregation.krum import Krum


@register
@dataclass(eq=False)
class MultiKrum(Krum):
    """The mean of the n - f updates of the lowest scores of `krum` (Blanchard et al. 2017, 1703.02757, section 4).

    Args:
        part: of the n updates may be hostile, as in `krum`.
    """

    name = "multi_krum"
    example = "multi_krum(0.2)"

    @override
    def _num_chosen(self, count: int, num_hostile: int) -> int:
        return count - num_hostile
