"""Where each client's model is cut, if cuts follow how well clients do; knows no conversation and no tensor.

    q_i    = exp(-held-out loss of client i)            what its tokens are given, in the geometric mean
    cut_i  <- clip(round(cut_i0 * (1 + strength * (q_i - q) / q)), least, most_i), by one block at most

SplitFT (2604.26388) gives clients that do better than the mean more layers, and those that do worse fewer; its formula
is not known to us. This one is chosen.
"""

import logging
from collections.abc import Mapping
from math import exp
from statistics import mean

from splitcom.config import Config
from splitcom.state import State

_LOG = logging.getLogger(__name__)


class Cuts:
    """Begins with the cuts that are configured."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._now: dict[str, int] = {}  # of clients whose cut has moved
        self._losses: dict[str, float] = {}  # held-out, of the last evaluation

    @property
    def move(self) -> bool:
        """Whether they may."""
        return self._config.federation.cuts.every is not None

    def of(self, client: str) -> int:
        """How many blocks a client's front has now."""
        return self._now.get(client) or self._config.of_client(client).model.cut

    def observe(self, losses: Mapping[str, float]) -> None:
        """Hear of an evaluation: nats per label, by client."""
        self._losses = dict(losses)

    def adapt(self, round_index: int) -> list[str]:
        """Move cuts before a round, if it is time to; the clients whose cut has moved."""
        every, losses = self._config.federation.cuts.every, self._losses
        if every is None or len(losses) < 2 or round_index == 1 or (round_index - 1) % every:
            return []
        quality = {name: exp(-min(loss, 700.0)) for name, loss in losses.items()}
        usual, moved = mean(quality.values()), []
        for name, own in quality.items():
            settings = self._config.of_client(name)
            first, cuts = settings.model.cut, settings.federation.cuts
            assert cuts.most is not None
            due = round(first * (1 + cuts.strength * (own - usual) / usual)) if usual else first
            now = self.of(name)
            new = now + (due > now) - (due < now)
            new = min(max(new, min(cuts.least, first)), max(cuts.most, first))
            if new != now:
                _LOG.info("%s: its cut moves from %d to %d before round %d", name, now, new, round_index)
                self._now[name] = new
                moved.append(name)
        return moved

    def state(self) -> State:
        """What a checkpoint keeps."""
        return State({}, {"now": self._now, "losses": self._losses})

    def load_state(self, state: State) -> None:
        """Go on from a checkpoint; an empty one is that before the first round."""
        self._now, self._losses = dict(state.scalars.get("now", {})), dict(state.scalars.get("losses", {}))
