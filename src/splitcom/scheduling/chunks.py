"""When a round ends that is trained in chunks: as soon as clients are too far apart. Knows no message.

FDA-Opt, "Communication-Efficient Federated Fine-Tuning of Language Models via Dynamic Update Schedules" (2505.04535):

    after a chunk     v = estimated variance of what clients have made (`training.variance`)
                      another chunk follows while v <= threshold, and there are fewer than E_max
    after the round   threshold  <-  E_max / 2 / chunks * the exact variance of what has come

The first threshold is 0, so the first round has one chunk.
"""

import logging
from collections.abc import Iterable, Mapping

from torch import Tensor

from splitcom.aggregation import Update
from splitcom.config import Config
from splitcom.server.state import ClientStates
from splitcom.state import State
from splitcom.training.plan import max_chunks_of
from splitcom.training.variance import Estimate, Numbers, estimate_of, exact_variance, flat_of

_LOG = logging.getLogger(__name__)


class Chunks:
    """Judges the chunks of one round after the other."""

    def __init__(self, config: Config, states: ClientStates) -> None:
        self.threshold = 0.0
        self.count = 0  # of this round, that are over
        self._config = config
        self._states = states
        self._estimate: Estimate | None = None
        self._began: Mapping[str, Tensor] = {}  # from what this round began, or the last one
        self._version = 0  # of it

    def begin(self, index: int, version: int, tensors: Mapping[str, Tensor], names: Iterable[str]) -> bool:
        """Round `index` begins from this version with these clients.

        Returns whether all of them know what the last one began from, and that has changed since.
        """
        knows = self._version not in (0, version) and all(
            self._states[name].base_version == self._version for name in names
        )
        settings, before = self._config.federation.variance, self._began if knows else None
        self._estimate = estimate_of(settings, self._config.seed, index, tensors, before)
        self._began, self._version, self.count = tensors, version, 0
        return knows

    def read(self, sketch: bytes) -> Numbers:
        """What a client has sent after a chunk; raises PacketError if it cannot be that."""
        assert self._estimate is not None
        return self._estimate.unpack(sketch)

    def goes_on(self, found: Iterable[Numbers]) -> bool:
        """Whether there is another chunk, by what all clients have sent after one."""
        assert self._estimate is not None
        self.count += 1
        variance = self._estimate.variance(list(found))
        _LOG.info("chunk %d: variance %.4g, threshold %.4g", self.count, variance, self.threshold)
        return variance <= self.threshold and self.count < max_chunks_of(self._config)

    def end(self, updates: Iterable[Update]) -> None:
        """The round has ended with these updates."""
        began = flat_of(self._began)
        if self.count and (
            changes := [flat_of(update.adapter) - began for update in updates if update.is_new]
        ):
            self.threshold = max_chunks_of(self._config) / 2 / self.count * exact_variance(changes)

    def state(self) -> State:
        """What a checkpoint keeps."""
        return State(self._began, {"threshold": self.threshold, "version": self._version})

    def load_state(self, state: State) -> None:
        """Go on from a checkpoint; an empty one is that before the first round."""
        self._began = dict(state.tensors)
        self.threshold = state.scalars.get("threshold", 0.0)
        self._version = state.scalars.get("version", 0)
