"""Who holds what of the shared adapter, if clients have cuts or ranks of their own, and what the server has of it.

    blocks      0    1 │  2    3 │  4    5 …        client a, cut 2: 0-1      client b, cut 4: 0-3
    server             │  2    3    4    5 …        2-3 are b's and the server's

The shared adapter is that of the largest front. Each tensor is averaged over those who hold it. The server's own of a
block counts as one update, by as many labels as those clients have trained on whose cut lies at or before the block: it
is they who have trained it. What comes of it takes its place at the server, so each block has one adapter.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from torch import Tensor

from splitcom.aggregation import Update
from splitcom.config import Config
from splitcom.engines.engine import Engine
from splitcom.server.cuts import Cuts
from splitcom.training.ranks import lowered

Tensors = Mapping[str, Tensor]


class Holding(NamedTuple):
    """What a client holds of the shared adapter: the blocks before its cut, and the beginning of each matrix.

    In the last of these blocks it may hold still less, by `lora.cut_rank`.
    """

    cut: int
    rank: int


class Holdings:
    """`block_of` has the number of the block of each tensor of fronts that is in one."""

    def __init__(self, config: Config, block_of: Mapping[str, int]) -> None:
        self._config = config
        self._block_of = block_of
        self.cuts = Cuts(config)
        self.ranks = config.ranks
        self._cut_rank = config.lora.cut_rank or config.lora.rank
        whole = Holding(config.cuts[-1], config.lora.rank)
        self.whole = whole if self._cut_rank == whole.rank else None  # that of nobody

    def of(self, client: str) -> Holding:
        """That of a client now."""
        return Holding(self.cuts.of(client), self._config.of_client(client).lora.rank)

    @property
    def others(self) -> list[Holding]:
        """All that there are but the whole."""
        cuts, ranks = self._config.cuts, self._config.ranks
        return [one for cut in cuts for rank in ranks if (one := Holding(cut, rank)) != self.whole]

    def part(self, tensors: Tensors, holding: Holding) -> dict[str, Tensor]:
        """What a client with this holding has of the shared tensors."""
        found = {}
        for name, tensor in tensors.items():
            block = self._block_of.get(name, -1)
            rank = min(holding.rank, self._cut_rank) if block == holding.cut - 1 else holding.rank
            if block < holding.cut:
                found[name] = tensor if rank == self.ranks[-1] else lowered(name, tensor, rank)
        return found

    def names_between(self, low: int, high: int) -> list[str]:
        """The shared tensors of the blocks low <= index < high."""
        return [name for name, block in self._block_of.items() if low <= block < high]


class Common:
    """The blocks that the engine and some fronts both hold; nothing if all cuts are the same."""

    def __init__(self, holdings: Holdings, config: Config, engine: Engine | None) -> None:
        self.holdings = holdings
        self._engine = engine
        self._spans = [*pairwise(config.cuts)] if engine is not None else []

    def updates(self, updates: Sequence[Update]) -> list[Update]:
        """What the server has made of these blocks in the round of these clients' updates."""
        if not self._spans or self._engine is None:
            return []
        own, version = self._engine.adapter(), max(update.version for update in updates)
        found = []
        for low, high in self._spans:
            num_labels = sum(
                update.num_labels for update in updates if self.holdings.of(update.client).cut <= low
            )
            if num_labels:
                tensors = {name: own[name] for name in self.holdings.names_between(low, high)}
                found.append(Update(tensors, num_labels, version))
        return found

    def take(self, shared: Tensors) -> None:
        """Have the server go on with what has come of them."""
        if self._spans and self._engine is not None:
            low, high = self._spans[0][0], self._spans[-1][1]
            merged = {name: shared[name] for name in self.holdings.names_between(low, high)}
            self._engine.load_adapter(self._engine.adapter() | merged)
