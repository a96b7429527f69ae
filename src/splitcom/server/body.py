"""The body as the server's conversations reach it: what arrives for it, its engine, and in the U-shape its tails."""

from collections.abc import Callable, Mapping

from splitcom.config import Config
from splitcom.engines.engine import Arrival, Engine, Position, StepResult
from splitcom.server.admission import Admission
from splitcom.server.arrivals import Arrivals
from splitcom.server.conversations import Conversations
from splitcom.server.cuts import Cuts
from splitcom.server.soundness import SoundEngine
from splitcom.server.state import ClientStates
from splitcom.server.tails import Tails


class ServerBody:
    """`tails` is None in the standard form."""

    def __init__(
        self,
        config: Config,
        engine: Engine,
        clients: Conversations,
        states: ClientStates,
        cuts: Cuts | None = None,
    ) -> None:
        admission = Admission(config, engine.hidden_size, engine.num_labels)
        self.arrivals = Arrivals(config, admission, clients, states, cuts)
        self.engine = SoundEngine(engine, clients)
        self.tails = Tails(self.engine, self.arrivals, clients, states) if config.model.tail_blocks else None

    def step(
        self,
        arrivals: Mapping[str, Arrival],
        position: Position,
        packet_position: tuple[int, int],
        progress: float,
    ) -> dict[str, StepResult]:
        """One optimisation step at `position`, whose packets are those of `packet_position`. Raises Rejoined."""
        if self.tails is None:
            return self.engine.step(arrivals, position, progress)
        return self.tails.step(arrivals, position, packet_position, progress)

    def packed_gradient(self, name: str, arrival: Arrival, encode: Callable[[], bytes]) -> bytes | None:
        """The packet of the gradient of a client's last step; None if its codec cannot hold it and it is refused."""
        at_tail = None if self.tails is None else self.tails.gradients.get(name)
        return self.engine.packed(name, "gradient_down", arrival, encode, at_tail)
