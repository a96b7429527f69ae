"""What a transport tells the server; the same for clients in this process and across a network."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from splitcom.errors import TransportError


class NothingComes(TransportError):  # noqa: N818  (what is the case, not whose fault)
    """Nothing is under way, and the next event would be waited for without end."""


@dataclass(frozen=True)
class Joined:
    """A client begins a conversation: its next message is a hello, whatever there was before."""

    client: str


@dataclass(frozen=True)
class Received:
    """A message of a client's, exactly once and in order within its conversation."""

    client: str
    data: bytes


@dataclass(frozen=True)
class Gone:
    """A client's connection is lost. It may go on where it was, or join anew."""

    client: str


@dataclass(frozen=True)
class Back:
    """A client is connected again and goes on where it was; that it was gone may not have been noticed."""

    client: str


@dataclass(frozen=True)
class Excluded:
    """Whoever runs the server has decided that a client is to take no part; `replaced` if its seat is for another."""

    client: str
    reason: str
    replaced: bool = False


@dataclass(frozen=True)
class Admitted:
    """Whoever runs the server has decided that a client which was excluded may take part again."""

    client: str


Event = Joined | Received | Gone | Back | Excluded | Admitted


class Transport(Protocol):
    """Carries bytes between the server and its clients."""

    notice_s: float | None
    """For how long a client may be waited for before the log says so; None where waiting takes no time."""

    def receive(self, timeout_s: float | None = None) -> Event | None:
        """Wait for the next event; None if there is none within `timeout_s` (None: wait for ever)."""

    def now(self) -> float:
        """Seconds since the run's start; what deadlines are set by."""

    def send(self, client: str, data: bytes) -> None:
        """Send a message, or keep it until the client is back; returns at once, whatever the client's link.

        Belongs to the conversation whose beginning the server has heard of last; where the client has begun another
        since, the message is dropped.
        """

    def reset(self, client: str) -> None:
        """End a client's conversation: what is under way is dropped, and the client will join anew."""

    def refuse(self, client: str, reason: str) -> None:
        """End a client's conversation for good, telling it why."""

    def state(self) -> dict[str, Any]:
        """Its clocks, for a checkpoint; what `load_state` takes."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Set the clocks to those of a checkpoint."""

    def take_seconds(self, client: str) -> dict[str, float]:
        """`client`: seconds it has computed since the last call; `virtual`: seconds since the run's start."""


class Peer(Protocol):
    """A client as a transport sees it: one conversation."""

    def connect(self) -> bytes:
        """Its first message."""

    def receive(self, data: bytes) -> bytes | None:
        """Work on a message; the answer, if there is one."""
