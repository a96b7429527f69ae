"""A client's connection, as the server sees it: who is there, and whose turn it is. Knows nothing of training.

Times are of the transport's clock, in seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from splitcom.config.federation import FederationConfig
from splitcom.protocol.session import Role, Session, State


@dataclass(frozen=True)
class Standing:
    """Where a client stands, for whoever watches."""

    state: str  # of the session, such as "training"; or "gone", "failed", "excluded", "not here"
    waited_s: float | None = None  # for its next message; None if it owes none
    restarts: int = 0  # in the middle of something, since the server was started
    refusals: int = 0
    reason: str = ""  # why it has failed, or is not to take part


@dataclass
class Peer:
    """One client; `session` is None while there is no conversation."""

    session: Session | None = None
    gone_since: float | None = None  # None while it is connected
    asked_at: float | None = None  # when its next message came to be due; None if it owes none
    noticed_at: float = 0.0  # when it was last said that it is waited for
    is_wanted: bool = False  # whether it is waited for while it is gone, though it owes nothing
    is_kept: bool = False  # whether a new conversation could go on from what it has saved
    failure: str = ""  # why it has ended its conversation, as it says itself
    restarts: int = 0  # in the middle of something
    restarts_since_save: int = 0
    refusals: int = 0
    num_samples: int = 0  # that it says it trains on
    num_held_out: int = 0
    saved_rounds: Sequence[int] = ()  # that it says it can go on from
    adapter_digest: bytes = b""  # of what it begins with

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
        return self.is_present and self._is_to_send

    @property
    def _is_to_send(self) -> bool:
        return self.session is not None and self.session.turn is Role.CLIENT

    @property
    def is_missing(self) -> bool:
        """Whether it has a conversation, and is gone or has not said hello."""
        return self.session is not None and (self.gone_since is not None or not self.is_present)

    @property
    def awaited_since(self) -> float | None:
        """Since when it is gone, or since when it owes a message, also its hello; None if nobody waits for it."""
        if self.session is None or not (self._is_to_send or self.is_wanted):
            return None
        return self.asked_at if self.gone_since is None else self.gone_since

    def overdue_at(self, settings: FederationConfig) -> float | None:
        """When it is to be dropped, if it is waited for: one that is gone, or connected and silent; None: never."""
        patience_s = settings.step_timeout_s if self.gone_since is None else settings.drop_after_s
        since = self.awaited_since
        return None if patience_s is None or since is None else since + patience_s

    def notice_at(self, notice_s: float | None) -> float | None:
        """When it is next to be said that it is waited for, which is said every `notice_s`; None: never."""
        since = self.awaited_since
        return None if notice_s is None or since is None else max(since, self.noticed_at) + notice_s

    def begins(self, session: Session, now: float) -> None:
        """It begins a conversation, and owes a hello."""
        self.session, self.gone_since, self.asked_at, self.failure = session, None, now, ""
        self.is_kept = False

    def note_turn(self, now: float) -> None:
        """Something has been said by either side: whether it owes an answer from now on."""
        self.asked_at = now if self._is_to_send else None

    def standing(self, now: float, excluded: str | None) -> Standing:
        """Where it stands; `excluded` is why it is not to take part, if it is not."""
        since = self.awaited_since
        if excluded is not None:
            state = "excluded"
        elif self.session is None:
            state = "not here"
        elif self.gone_since is not None:
            state = "failed" if self.failure else "gone"
        else:
            state = self.session.state.value
        waited_s = None if since is None else max(now - since, 0.0)
        return Standing(state, waited_s, self.restarts, self.refusals, excluded or self.failure)
