"""A client's connection, as the server sees it: who is there, and whose turn it is. Knows nothing of training."""

from collections.abc import Sequence
from dataclasses import dataclass

from splitcom.protocol.session import Role, Session, State


@dataclass
class Peer:
    """One client; `session` is None while there is no conversation."""

    session: Session | None = None
    gone_since: float | None = None  # of the transport's clock; None while it is connected
    num_samples: int = 0  # that it says it trains on
    num_held_out: int = 0
    saved_rounds: Sequence[int] = ()  # that it says it can go on from

    @property
    def is_present(self) -> bool:
        """Whether it has said hello."""
        return self.session is not None and self.session.state is not State.CONNECTING

    @property
    def is_greeted(self) -> bool:
        """Whether it has said hello and waits for an answer."""
        return self.session is not None and self.session.state is State.GREETED

    @property
    def is_idle(self) -> bool:
        """Whether it waits for something to do."""
        return self.session is not None and self.session.state is State.IDLE

    @property
    def owes(self) -> bool:
        """Whether it has said hello, and the next message is its own to send."""
        return self.is_present and self.session is not None and self.session.turn is Role.CLIENT
