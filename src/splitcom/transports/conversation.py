"""An endpoint that threads share, and which of its connections is the current one; knows no gRPC.

Of a connection one side takes frames to be sent, the other hands frames to `incoming`. A client has a thread for each,
and waits in `outgoing`; a server has all of them in one, which asks with `poll` when it is told of a change. Whoever
owns the conversation calls `send` and `consumed`. A newer connection supersedes the one before, which ends at once: it
may be half dead without knowing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Condition
from time import monotonic

from splitcom.transports.endpoint import Endpoint, Limits
from splitcom.transports.frames_pb2 import Frame, Position
from splitcom.transports.framing import Parcel, pack


class Superseded(Exception):  # noqa: N818  (an event, no error)
    """The connection is not the current one any more."""


class Conversation:
    """One hello … finish exchange; `client` and `identifier` say whose."""

    def __init__(self, client: str, identifier: bytes, limits: Limits) -> None:
        self.client = client
        self.identifier = identifier
        self.received_bytes = self.sent_bytes = 0  # of messages, each counted once: what a ledger counts
        self.connections = 0
        self._began = monotonic()
        self._endpoint = Endpoint(limits)
        self._changed = Condition()
        self._connection = 0
        self._connected = False
        self._closing = False
        self._farewell: Parcel | None = None
        self._watchers: list[Callable[[], object]] = []

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as this side knows."""
        return self._connected

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self._farewell is not None

    @property
    def unread(self) -> int:
        """How many messages have come that this side has not taken yet."""
        return self._endpoint.unconsumed

    @property
    def unacknowledged(self) -> int:
        """How many messages the peer is not known to have received."""
        return self._endpoint.unacknowledged

    def is_silent_for(self, seconds: float) -> bool:
        """Whether the peer has had that much time and has said nothing at all."""
        return not self.received_bytes and monotonic() - self._began > seconds

    def connect(self) -> tuple[int, Position]:
        """Begin a connection: its number, and what to tell the peer; the one before is superseded."""
        with self._changed:
            self.connections += 1
            self._supersede()
            return self._connection, self._endpoint.position()

    def resume(self, connection: int, peer: Position) -> None:
        """The peer has told where it is: messages can go. Raises RemoteProtocolError, and Superseded."""
        with self._changed:
            self._check(connection)
            if not self.ended:  # else all that is left to say is that it is over
                self._endpoint.resume(peer)
            self._connected = True
            self._tell()

    def disconnect(self, connection: int) -> bool:
        """A connection is lost; returns whether messages went over it until now."""
        with self._changed:
            was_connected = self._connected and self.is_current(connection)
            if self.is_current(connection):
                self._supersede()
            return was_connected

    def is_current(self, connection: int) -> bool:
        """Whether a connection is neither lost nor superseded."""
        return connection == self._connection

    def outgoing(self, connection: int) -> Iterator[bytes]:
        """What to send over a connection, waiting for more; ends when it is over, lost or superseded."""
        with suppress(Superseded):
            while (parcel := self._wait_for_parcel(connection)) is not None:
                yield pack(parcel)
                if self.is_last(parcel):
                    return

    def poll(self, connection: int) -> Parcel | None:
        """What to send over a connection now, None if there is nothing yet; raises Superseded.

        The last frame is also for a connection that is lost on this side, since the peer may be there.
        """
        with self._changed:
            if self._farewell is not None:
                return self._farewell
            self._check(connection)
            return self._endpoint.next_parcel() if self._connected else None

    def is_last(self, parcel: Parcel | None) -> bool:
        """Whether nothing comes after this in the conversation."""
        return parcel is not None and parcel is self._farewell

    @contextmanager
    def watched(self, on_change: Callable[[], object]) -> Iterator[None]:
        """Call `on_change` whenever `poll` may give something else, from whichever thread; it must not wait."""
        with self._changed:
            self._watchers.append(on_change)
        try:
            yield
        finally:
            with self._changed:
                self._watchers.remove(on_change)

    def incoming(self, connection: int, parcel: Parcel) -> bytes | None:
        """Take a frame; returns the message that is complete with it. Raises RemoteProtocolError, and Superseded."""
        with self._changed:
            self._check(connection)
            message = self._endpoint.receive(parcel)
            if message is not None:
                self.received_bytes += len(message)
            self._tell()
            return message

    def send(self, data: bytes) -> None:
        """Take a message to be sent as soon as there is a connection; dropped where the conversation is over."""
        with self._changed:
            if not self.ended:
                self._endpoint.send(data)
                self.sent_bytes += len(data)
                self._tell()

    def consumed(self) -> None:
        """The oldest received message has been taken: the peer may send more."""
        with self._changed:
            self._endpoint.consume()
            self._tell()

    def end(self, farewell: Frame) -> None:
        """Drop what is under way and send a last frame."""
        with self._changed:
            self._farewell = self._farewell or Parcel(farewell)
            self._tell()

    def close(self) -> None:
        """Nothing more will be sent: connections end when everything is acknowledged."""
        with self._changed:
            self._closing = True
            self._tell()

    def abandon(self) -> None:
        """Break off the present connection; the other side sees one that is lost."""
        with self._changed:
            self._supersede()

    def wait_until_acknowledged(self, timeout_s: float) -> bool:
        """Wait until the peer has everything that was sent; returns whether it has."""
        deadline = monotonic() + timeout_s
        with self._changed:
            while self._endpoint.unacknowledged and not self.ended:
                if not self._changed.wait(max(deadline - monotonic(), 0.0)) and monotonic() >= deadline:
                    return False
            return True

    def _wait_for_parcel(self, connection: int) -> Parcel | None:
        with self._changed:
            while (parcel := self.poll(connection)) is None:
                if self._connected and self._closing and not self._endpoint.unacknowledged:
                    break
                self._changed.wait()
            return parcel

    def _tell(self) -> None:
        self._changed.notify_all()
        for on_change in self._watchers:
            on_change()

    def _check(self, connection: int) -> None:
        if not self.is_current(connection):
            raise Superseded

    def _supersede(self) -> None:
        self._connection += 1
        self._connected = False
        self._tell()
