"""One end of a conversation over connections that break: every message once and in order; no I/O, threads or clocks.

Messages are numbered from 1 in each direction and cut into chunks. Whoever receives grants credit, in bytes since the
connection began, so that what it has not consumed is bounded. When a connection is lost, both ends tell each other how
far they have got (`position`), to the byte, and go on from there (`resume`).

    sender                                        receiver
    outbox ─► chunk (sequence, offset, size) ───► partial message ─► message ─► whoever consumes it
       ▲                                                                                 │
       └────── credit (sequence that has arrived, bytes that may have been sent) ◄───────┘

Chunks are small at first and double, so that also a connection which is cut early has carried some of a large message.

A chunk that has been received is ignored; one that leaves a gap, exceeds the credit or contradicts the one before is an
error of the peer's. No length is believed before it has been compared with its limit.
"""

from collections import deque
from dataclasses import dataclass

from splitcom.errors import LocalProtocolError, RemoteProtocolError
from splitcom.protocol.limits import MAX_MESSAGE_BYTES
from splitcom.transports.frames_pb2 import Chunk, Credit, Frame, Position
from splitcom.transports.framing import Parcel

MAX_CHUNK_BYTES = 1 << 20  # that anyone may send
FIRST_CHUNK_BYTES = 1 << 14  # of a connection


@dataclass(frozen=True)
class Limits:
    """What one end sends and accepts."""

    chunk_bytes: int = MAX_CHUNK_BYTES  # of the chunks that are sent
    window_bytes: int = 1 << 22  # received and not consumed
    message_bytes: int = MAX_MESSAGE_BYTES
    messages: int = 8  # received and not consumed, or sent and not acknowledged

    def __post_init__(self) -> None:
        if not 0 < self.chunk_bytes <= MAX_CHUNK_BYTES:
            raise ValueError(f"chunk_bytes = {self.chunk_bytes}: expected 1 to {MAX_CHUNK_BYTES}")
        if self.window_bytes < 2 * self.chunk_bytes:
            raise ValueError(f"window_bytes = {self.window_bytes}: expected at least two chunks")


class Endpoint:
    """The state of one end; it outlives its connections.

    >>> one, other = Endpoint(), Endpoint()
    >>> one.resume(other.position()), other.resume(one.position())
    (None, None)
    >>> one.send(b"hello")
    >>> other.receive(one.next_parcel())
    b'hello'
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        # sending
        self._outbox: deque[tuple[int, bytes]] = deque()
        self._last_sequence = 0
        self._cursor = (1, 0)  # sequence and offset of what is sent next
        self._sent_bytes = 0
        self._allowed_bytes = 0
        self._chunk_bytes = 0
        # receiving
        self._received = 0
        self._partial: list[bytes | memoryview | bytearray] = []
        self._partial_bytes = 0
        self._partial_size: int | None = None
        self._arrived_bytes = 0
        self._granted_bytes = 0
        self._consumed_bytes = 0
        self._unconsumed: deque[int] = deque()  # sizes of messages
        self._credit_due = False

    @property
    def unacknowledged(self) -> int:
        """How many messages the peer is not known to have received."""
        return len(self._outbox)

    @property
    def unconsumed(self) -> int:
        """How many messages have been received and not been consumed."""
        return len(self._unconsumed)

    def position(self) -> Position:
        """How far this end has got with what the peer sends; begins this end's part of a connection."""
        self._arrived_bytes = self._consumed_bytes = 0
        self._granted_bytes = max(self._limits.window_bytes - sum(self._unconsumed), 0)
        self._credit_due = False
        return Position(sequence=self._received, offset=self._partial_bytes, window_bytes=self._granted_bytes)

    def resume(self, peer: Position) -> None:
        """Go on where the peer is; raises RemoteProtocolError if it cannot be there."""
        self._acknowledge(peer.sequence)
        first = self._outbox[0][0] if self._outbox else self._last_sequence + 1
        if peer.sequence + 1 < first:
            raise RemoteProtocolError(
                f"message {peer.sequence + 1} is wanted; {first - 1} has been acknowledged"
            )
        size = len(self._outbox[0][1]) if self._outbox else 0
        if peer.offset and peer.offset >= size:
            raise RemoteProtocolError(f"offset {peer.offset} in a message of {size} bytes")
        self._cursor = (peer.sequence + 1, peer.offset)
        self._sent_bytes = 0
        self._allowed_bytes = peer.window_bytes
        self._chunk_bytes = min(FIRST_CHUNK_BYTES, self._limits.chunk_bytes)

    def send(self, data: bytes) -> None:
        """Take a message to be sent; raises LocalProtocolError if it or their number is too large."""
        if len(data) > self._limits.message_bytes:
            raise LocalProtocolError(
                f"a message of {len(data)} bytes; at most {self._limits.message_bytes} can be sent"
            )
        if len(self._outbox) >= self._limits.messages:
            raise LocalProtocolError(
                f"{len(self._outbox)} messages are not acknowledged, and no more may be sent"
            )
        self._last_sequence += 1
        self._outbox.append((self._last_sequence, data))

    def next_parcel(self) -> Parcel | None:
        """What to send next; None if there is nothing, or no credit for it."""
        if self._credit_due:
            self._credit_due = False
            return Parcel(Frame(credit=Credit(sequence=self._received, granted_bytes=self._granted_bytes)))
        sequence, offset = self._cursor
        if sequence > self._last_sequence:
            return None
        data = self._outbox[sequence - self._outbox[0][0]][1]
        length = min(self._chunk_bytes, len(data) - offset)
        if self._sent_bytes + length > self._allowed_bytes:
            return None
        self._sent_bytes += length
        self._chunk_bytes = min(2 * self._chunk_bytes, self._limits.chunk_bytes)
        end = offset + length
        self._cursor = (sequence, end) if end < len(data) else (sequence + 1, 0)
        chunk = Chunk(sequence=sequence, offset=offset, size=len(data))
        return Parcel(Frame(chunk=chunk), memoryview(data)[offset:end])

    def receive(self, parcel: Parcel) -> bytes | None:
        """Take a chunk or credit; returns the message that is complete with it.

        Raises RemoteProtocolError if the frame is none that may come now.
        """
        match parcel.frame.WhichOneof("kind"):
            case "chunk":
                return self._take(parcel.frame.chunk, parcel.data)
            case "credit":
                credit = parcel.frame.credit
                self._acknowledge(credit.sequence)
                self._allowed_bytes = max(self._allowed_bytes, credit.granted_bytes)
            case kind:
                raise RemoteProtocolError(f"a frame '{kind}' in the middle of a connection")
        return None

    def consume(self) -> None:
        """The oldest received message has been taken and no longer counts."""
        self._grant(self._unconsumed.popleft())
        self._credit_due = True

    def _take(self, chunk: Chunk, data: bytes | memoryview) -> bytes | None:
        expected = self._received + 1
        length, end = len(data), chunk.offset + len(data)
        if chunk.sequence < expected:
            return None
        if chunk.sequence == expected and self._partial and chunk.offset < self._partial_bytes:
            return None
        if (chunk.sequence, chunk.offset) != (expected, self._partial_bytes):
            raise RemoteProtocolError(
                f"a chunk of message {chunk.sequence} at {chunk.offset}; expected {expected} at {self._partial_bytes}"
            )
        if chunk.size > self._limits.message_bytes:
            raise RemoteProtocolError(
                f"a message of {chunk.size} bytes is announced; at most {self._limits.message_bytes} are accepted"
            )
        if length > MAX_CHUNK_BYTES or end > chunk.size or self._partial_size not in (None, chunk.size):
            raise RemoteProtocolError(f"{length} bytes at {chunk.offset} of a message of {chunk.size}")
        if not length and chunk.size:
            raise RemoteProtocolError("an empty chunk")
        if self._arrived_bytes + length > self._granted_bytes:
            raise RemoteProtocolError(f"a chunk of {length} bytes without credit for it")
        if len(self._unconsumed) >= self._limits.messages:
            raise RemoteProtocolError(f"{len(self._unconsumed)} messages ahead of their turn")
        self._arrived_bytes += length
        self._append(data)
        self._partial_bytes, self._partial_size = end, chunk.size
        if end < chunk.size:
            self._grant(length)  # or no message could be larger than the window
            return None
        return self._complete(length)

    def _append(self, data: bytes | memoryview) -> None:
        """Small chunks are joined as they come, or each would take many times its size."""
        if self._partial and len(self._partial[-1]) + len(data) <= MAX_CHUNK_BYTES:
            last = self._partial[-1]
            self._partial[-1] = last = last if isinstance(last, bytearray) else bytearray(last)
            last += data
        else:
            self._partial.append(data)

    def _complete(self, last_bytes: int) -> bytes:
        """The last chunk counts until the message is consumed, the others have been granted again."""
        message = b"".join(self._partial)
        self._partial, self._partial_bytes, self._partial_size = [], 0, None
        self._received += 1
        self._unconsumed.append(last_bytes)
        return message

    def _grant(self, size: int) -> None:
        self._granted_bytes += size
        self._consumed_bytes += size
        if self._consumed_bytes >= self._limits.window_bytes // 2:
            self._consumed_bytes = 0
            self._credit_due = True

    def _acknowledge(self, sequence: int) -> None:
        if sequence > self._last_sequence:
            raise RemoteProtocolError(
                f"message {sequence} is acknowledged; {self._last_sequence} have been sent"
            )
        while self._outbox and self._outbox[0][0] <= sequence:
            self._outbox.popleft()
        if self._cursor[0] <= sequence:
            self._cursor = (sequence + 1, 0)
