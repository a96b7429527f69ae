"""Exactly once and in order over connections that break anywhere, within the credit; nothing believed unchecked."""

import tracemalloc
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitcom.errors import LocalProtocolError, RemoteProtocolError
from splitcom.transports.endpoint import MAX_CHUNK_BYTES, Endpoint, Limits
from splitcom.transports.frames_pb2 import Chunk, Credit, Frame, Open, Position
from splitcom.transports.framing import MAX_FRAME_BYTES, Parcel, pack, unpack

SMALL = Limits(chunk_bytes=4, window_bytes=12, message_bytes=64, messages=3)


class Pair:
    """Two endpoints, what is under way between them, and what has come out at each."""

    def __init__(self, limits=SMALL):
        self.ends = [Endpoint(limits), Endpoint(limits)]
        self.wires = [deque(), deque()]  # what end 0 has sent, what end 1 has
        self.sent = [[], []]
        self.arrived = [[], []]
        self.waiting = [0, 0]  # messages that are not consumed
        self.limits = limits
        self.cut()

    def cut(self):
        for wire in self.wires:
            wire.clear()
        positions = [end.position() for end in self.ends]
        for end, position in zip(self.ends, reversed(positions), strict=True):
            end.resume(Position.FromString(position.SerializeToString()))

    def send(self, side, data):
        if self.ends[side].unacknowledged < self.limits.messages:
            self.ends[side].send(data)
            self.sent[side].append(data)

    def emit(self, side):
        if (frame := self.ends[side].next_parcel()) is not None:
            self.wires[side].append(frame)
        return frame is not None

    def deliver(self, side, *, twice=False):
        if not self.wires[side]:
            return False
        frame = self.wires[side].popleft()
        for _ in range(1 + twice):
            message = self.ends[1 - side].receive(unpack(pack(frame)))
            if message is not None:
                self.arrived[1 - side].append(message)
                self.waiting[1 - side] += 1
        return True

    def consume(self, side):
        if self.waiting[side]:
            self.waiting[side] -= 1
            self.ends[side].consume()
            return True
        return False

    def settle(self):
        steps = (self.consume, self.emit, self.deliver)
        while any(step(side) for step in steps for side in (0, 1)):
            pass


sides = st.integers(0, 1)
actions = st.lists(
    st.one_of(
        st.tuples(st.just("send"), sides, st.binary(max_size=40)),
        st.tuples(st.sampled_from(["emit", "deliver", "repeat", "consume"]), sides),
        st.just(("cut",)),
    ),
    max_size=80,
)


@settings(deadline=None, max_examples=300)
@given(actions)
def test_every_message_arrives_once_and_in_order_however_often_the_connection_is_cut(actions):
    pair = Pair()
    for action, *arguments in actions:
        match action:
            case "repeat":
                pair.deliver(*arguments, twice=True)
            case _:
                getattr(pair, action)(*arguments)
    pair.settle()
    assert pair.arrived == [pair.sent[1], pair.sent[0]]
    assert [end.unacknowledged for end in pair.ends] == [0, 0]


@settings(deadline=None, max_examples=100)
@given(actions)
def test_what_is_not_consumed_never_exceeds_the_window(actions):
    pair = Pair()
    for action, *arguments in actions:
        if action in ("send", "emit", "deliver"):  # nobody consumes
            getattr(pair, action)(*arguments)
    for side in (0, 1):
        while pair.emit(side) or pair.deliver(side):
            pass
        last_chunks = [(len(m) - 1) % SMALL.chunk_bytes + 1 if m else 0 for m in pair.arrived[side]]
        assert sum(last_chunks) <= SMALL.window_bytes
        assert len(pair.arrived[side]) <= SMALL.messages


def test_a_message_larger_than_the_window_passes_and_goes_on_in_its_middle():
    pair = Pair()
    pair.send(0, bytes(range(60)))
    frames = 0
    while not pair.arrived[1]:
        frames += pair.emit(0)
        pair.deliver(0)
        pair.emit(1)
        pair.deliver(1)
        if frames % 5 == 0:
            pair.cut()
    assert pair.arrived[1] == [bytes(range(60))]
    assert frames == 15  # of 4 bytes each: none was sent again


def test_small_chunks_take_little_more_memory_than_the_message():
    end = Endpoint(Limits(message_bytes=1 << 17))
    end.position()
    size = 1 << 14
    tracemalloc.start()
    for offset in range(size):
        message = end.receive(unpack(pack(chunk(offset=offset, size=size, data=bytes([offset % 251])))))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert message == bytes(index % 251 for index in range(size))
    assert peak_bytes < 6 * size


def chunk(sequence=1, offset=0, size=4, data=b"abcd"):
    return Parcel(Frame(chunk=Chunk(sequence=sequence, offset=offset, size=size)), data)


@pytest.mark.parametrize(
    ("parcel", "reason"),
    [
        (chunk(sequence=2), "expected 1 at 0"),
        (chunk(offset=1), "expected 1 at 0"),
        (chunk(size=65), "at most 64 are accepted"),
        (chunk(size=3), "4 bytes at 0 of a message of 3"),
        (chunk(size=64, data=bytes(13)), "without credit"),
        (chunk(data=b""), "an empty chunk"),
        (chunk(size=1 << 63), "at most 64"),
        (Parcel(Frame(credit=Credit(sequence=1))), "message 1 is acknowledged; 0 have been sent"),
        (Parcel(Frame(open=Open())), "'open' in the middle"),
        (Parcel(Frame()), "'None' in the middle"),
    ],
)
def test_a_frame_that_may_not_come_is_refused(parcel, reason):
    end = Endpoint(SMALL)
    end.position()
    with pytest.raises(RemoteProtocolError, match=reason):
        end.receive(parcel)


def test_a_chunk_is_never_larger_than_any_may_be():
    end = Endpoint()
    end.position()
    with pytest.raises(RemoteProtocolError, match="bytes at 0"):
        end.receive(chunk(size=1 << 21, data=bytes(MAX_CHUNK_BYTES + 1)))


def test_a_size_that_changes_in_the_middle_is_refused():
    end = Endpoint(SMALL)
    end.position()
    end.receive(chunk(size=8))
    with pytest.raises(RemoteProtocolError, match="of a message of 9"):
        end.receive(chunk(offset=4, size=9))


def test_messages_ahead_of_their_turn_are_refused():
    end = Endpoint(SMALL)
    end.position()
    for sequence in (1, 2, 3):
        assert end.receive(chunk(sequence, size=0, data=b"")) == b""
    with pytest.raises(RemoteProtocolError, match="3 messages ahead of their turn"):
        end.receive(chunk(4, size=0, data=b""))


@pytest.mark.parametrize(
    "position", [Position(sequence=2), Position(offset=4), Position(sequence=1, offset=1)]
)
def test_a_peer_cannot_be_where_nothing_was_sent(position):
    end = Endpoint(SMALL)
    end.send(b"abcd")
    with pytest.raises(RemoteProtocolError):
        end.resume(position)


def test_a_peer_cannot_want_what_it_has_acknowledged():
    end, other = Endpoint(), Endpoint()
    end.resume(other.position()), other.resume(end.position())
    for data in (b"1", b"2"):
        end.send(data)
    other.receive(end.next_parcel())
    other.consume()
    end.receive(other.next_parcel())
    for again in range(2):
        with pytest.raises(RemoteProtocolError, match="message 1 is wanted; 1 has been acknowledged"):
            end.resume(Position(sequence=0, window_bytes=1 << 16))
        if not again:
            other.receive(end.next_parcel())
            other.consume()
            end.resume(Position(sequence=1, window_bytes=1 << 16))


def test_too_much_to_send_is_an_error_of_ours():
    end = Endpoint(SMALL)
    with pytest.raises(LocalProtocolError, match="65 bytes; at most 64"):
        end.send(bytes(65))
    for _ in range(3):
        end.send(b"")
    with pytest.raises(LocalProtocolError, match="3 messages are not acknowledged"):
        end.send(b"")


@pytest.mark.parametrize(
    "limits", [{"chunk_bytes": 0}, {"chunk_bytes": MAX_CHUNK_BYTES + 1}, {"window_bytes": 1}]
)
def test_limits_that_cannot_work_are_refused(limits):
    with pytest.raises(ValueError, match="expected"):
        Limits(**limits)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=64))
def test_whatever_comes_is_a_frame_or_refused(message):
    end = Endpoint(SMALL)
    end.position()
    try:
        end.receive(unpack(message))
    except RemoteProtocolError:
        return


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "0 bytes are no frame"),
        (b"\x05\0\0\0", "a frame of 5 bytes in a message of 4"),
        ((MAX_FRAME_BYTES + 1).to_bytes(4, "little") + bytes(MAX_FRAME_BYTES + 1), "a frame of 4097 bytes"),
        (b"\x01\0\0\0\xff", "1 bytes that are no frame"),
    ],
)
def test_bytes_that_are_no_frame_are_refused(message, reason):
    with pytest.raises(RemoteProtocolError, match=reason):
        unpack(message)
