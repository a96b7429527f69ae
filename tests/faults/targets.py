"""What hostile frames are fed to, and what must hold of it whatever the frame says."""

import itertools
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from splitcom.codecs import Codec, Context, MemoryReferences, Ragged, parse
from splitcom.codecs.chain.entropy import Zstd
from splitcom.codecs.wire import HEADER_BYTES, Header, Reader
from splitcom.data import IGNORED
from splitcom.errors import PacketError, RemoteProtocolError, UnknownReference
from splitcom.protocol.adapters import pack_packets, unpack_packets
from splitcom.protocol.labels import pack_labels, unpack_labels
from splitcom.protocol.messages_pb2 import Message
from splitcom.protocol.session import TRANSITIONS, Form, Role, Session, State
from splitcom.server.masked import keys_of, shares_of
from splitcom.training.adapters import AdapterCodec
from splitcom.transports.conversation import Conversation
from splitcom.transports.endpoint import Endpoint, Limits
from splitcom.transports.frames_pb2 import Chunk, Credit, Frame, Position, Refused
from splitcom.transports.framing import Parcel, pack, unpack

SPECS = [
    "none",
    "fp16",
    "bf16",
    "int8(group=4)",
    "int4(rounding=stochastic)",
    "int2(group=7)",
    "topk(0.05) > none",
    "topk(0.5) > int8",
    "randtopk(0.3) > bf16",
    "svd(2) > fp16",
    "int4 > zstd",
    "svd(3) > int8 > zstd",
    "topk(0.1) > int2 > zstd",
    "delta > none",
    "delta > grid(2)",
    "delta > dither(0.7)",
    "delta > golomb(0.2)",
    "temporal(0.98) > fp16",
    "temporal(0.98) > projection(1) > int8",
    "temporal(0.9, per=token) > delta > int4 > zstd",
    "temporal(0.9) > delta > svd(1) > int2",
    "temporal(0.05, metric=relative_l2, per=token) > delta > topk(0.3) > int8 > zstd",
    "klt(4) > uniform(0.2) > range",
    "predict > klt(9) > uniform(0.2, prompt=3) > range",
]
ADAPTERS = ["fp16", "none", "bf16", "topk(0.5) > int8 > zstd", "delta > topk(0.1) > int8 > zstd"]
LIMIT_BYTES = 1 << 20
"""Of a decoded batch."""
STORE_BYTES = 1 << 9
"""Of a receiver's references: small, so that packets evict."""
MAX_TOKENS = 64
FRAME_LIMITS = Limits(chunk_bytes=1 << 8, window_bytes=1 << 9, message_bytes=1 << 12, messages=3)
_OTHERS, _SHARE_BYTES = [1, 3], 16
IDS, LENGTHS = [3, 70_000, 1 << 40], [2, 1, 4]
_BASE = {"a": torch.zeros(2, 3), "b": torch.arange(90.0), "c": torch.empty(3, 0)}
_MODEL = {"a": torch.ones(2, 3), "b": torch.arange(90.0) / 8, "c": torch.empty(3, 0)}
_BOMB_BYTES = 1 << 27
_MAX_SEED_BYTES = 1 << 14
_MAX_REASON_BYTES = 1 << 16

Feed = Callable[[bytes], None]


@dataclass(frozen=True)
class Target:
    """`feed` takes a frame; it raises what the receiver's code raises, and AssertionError where that is broken."""

    name: str
    corpus: Sequence[bytes]
    feed: Feed


class Receiver:
    """A decoder with its references, which must be as they were after a packet that is refused."""

    def __init__(self, codec: Codec, history: Sequence[bytes]) -> None:
        self._codec = codec
        self._history = history
        self.store = MemoryReferences("fp16", STORE_BYTES)
        self._rewind()

    def _rewind(self) -> None:
        self.store.clear()
        for packet in self._history:
            self._codec.decode(packet, self.store)

    def _state(self) -> tuple[object, ...]:
        ids = list(self.store)
        values = [bytes(kept) for kept in self.store.read_kept(ids)]
        flow = None if self.store.flow is None else self.store.flow.flat()
        learnt = None if flow is None else {key: array.tobytes() for key, array in flow.items()}
        return ids, self.store.peek(ids), self.store.num_bytes, self.store.hidden, values, learnt

    def feed(self, packet: bytes) -> None:
        before = self._state()
        try:
            decoded = self._codec.decode(packet, self.store, limit_bytes=LIMIT_BYTES)
        except (PacketError, UnknownReference):
            assert self._state() == before, "a refused packet has changed the references"
            raise
        batch, width = decoded.batch, before[3]
        assert batch.values.nbytes <= LIMIT_BYTES
        # A self-contained packet of a flow with a state empties the references and begins another, of any width.
        begins_anew = self.store.flow is not None and not Header.unpack(Reader(packet)).known
        assert begins_anew or width in (None, batch.hidden), "a store holds references of one width"
        assert batch.values.isfinite().all()
        assert len(set(decoded.ids)) == len(batch.lengths) == len(decoded.skipped)
        assert self.store.num_bytes <= STORE_BYTES
        self._rewind()
        with suppress(PacketError):
            self._codec.decode(packet + b"\0", self.store, limit_bytes=LIMIT_BYTES)
            raise AssertionError("a byte too many is accepted")


def codec_targets() -> list[Target]:
    """Every codec with the references that its packets build on, and, where it has any, without."""
    targets = []
    for text in SPECS:
        codec = parse(text)
        corpus = _packets(codec)
        targets.append(Target(f"codec {text}", corpus, Receiver(codec, corpus[:1]).feed))
        if codec.needs_references:
            targets.append(Target(f"codec {text}, no references", corpus, Receiver(codec, []).feed))
    return targets


def _packets(codec: Codec) -> list[bytes]:
    """A first packet, one that builds on it, others of other shapes, and, where few bytes give much, too large ones."""
    generator = torch.Generator().manual_seed(0)
    sender, values = MemoryReferences("fp16", STORE_BYTES), torch.randn(7, 9, generator=generator)
    later = values + 0.3 * torch.randn(7, 9, generator=generator) * (torch.arange(7) % 2)[:, None]
    lengths = torch.tensor(LENGTHS)
    packets = [codec.encode(Ragged(visit, lengths), IDS, Context(sender)).packet for visit in (values, later)]
    largest = LIMIT_BYTES // (4 * 4096)
    for tokens, hidden in ([1], 1), ([1, 1, 1, 2], 33), ([largest], 4096), ([largest // 2] * 4, 4096):
        batch = Ragged(torch.ones(sum(tokens), hidden), torch.tensor(tokens))
        packets.append(codec.encode(batch, range(4, 4 + len(tokens)), Context(MemoryReferences())).packet)
    packets.append(packets[3].replace(b"\4\5\6\7", b"\4\4\6\7", 1))  # an id twice
    if codec.knob is not None and codec.knob.name == "step":
        steered = codec.encode(Ragged(later, lengths), IDS, Context(sender, step=0.4, self_contained=True))
        packets.append(steered.packet)
    if any(isinstance(stage, Zstd) for stage in codec.elements):
        prefix = packets[4][: HEADER_BYTES + 2]  # one id and one length of a byte each
        packets.append(prefix + _bomb())
    return [packet for packet in packets if len(packet) <= _MAX_SEED_BYTES]


@cache
def _bomb() -> bytes:
    return Zstd().compress(bytes(_BOMB_BYTES))


def protocol_targets() -> list[Target]:
    """The server's session with the parsers of what its messages carry, and each parser by itself."""
    labels = _labels()
    adapters = _adapters()
    session = _ServerSession(_packets(parse(_ServerSession.CODEC)))
    return [
        Target("labels", labels, _feed_labels),
        Target("adapter", adapters, _feed_adapter),
        Target("session", _messages(session.packets, labels, adapters), session.feed),
    ]


def _labels() -> list[bytes]:
    rows = {3: [IGNORED, IGNORED, 5, 6], 70_000: [1], 5: [IGNORED, 70_000]}
    samples = {sample: np.array(row, np.int64) for sample, row in rows.items()}
    short = {sample: np.minimum(row, 9) for sample, row in samples.items()}
    long = {3: np.array([IGNORED] * MAX_TOKENS + [5], np.int64)}
    return [*map(pack_labels, (samples, short, long)), b"\2" + bytes(4)]


def _feed_labels(data: bytes) -> None:
    received = unpack_labels(data, MAX_TOKENS)
    assert all(1 <= len(row) <= MAX_TOKENS and row.dtype == np.int64 for row in received.values())


def _adapters() -> list[bytes]:
    """With every codec of ADAPTERS, one after the other; the first field of the last holds several packets."""
    packets = [AdapterCodec(text).encode(_MODEL, _BASE)[0] for text in ADAPTERS]
    return [*packets, pack_packets(packets), pack_packets(packets[:1], is_exact=True)]


def _feed_adapter(data: bytes) -> None:
    with suppress(RemoteProtocolError):
        assert sum(map(len, unpack_packets(data)[0])) <= len(data)
    refused = None
    for text in ADAPTERS:
        try:
            received = AdapterCodec(text).decode(data, _BASE)
        except PacketError as error:
            refused = error
            continue
        assert {name: tensor.shape for name, tensor in received.items()} == {
            n: t.shape for n, t in _BASE.items()
        }
        return
    assert refused is not None
    raise refused


def _messages(packets: Sequence[bytes], labels: Sequence[bytes], adapters: Sequence[bytes]) -> list[bytes]:
    """One of every kind, the server's own among them."""
    keys = {"sealing": bytes(range(32)), "masking": bytes(range(1, 33))}
    shares = [{"member": member, "share": bytes(_SHARE_BYTES)} for member in _OTHERS]
    messages = [
        Message(hello={"protocol_version": 1, "client": "clinic-a", "model_fingerprint": "f" * 16}),
        Message(welcome={"config_toml": "seed = 1"}),
        Message(round_start={"round": 1, "adapter": adapters[0], "steps": {"activation_up": 0.5}}),
        *(Message(activation={"step": 3, "activation": p, "labels": labels[0]}) for p in packets),
        Message(gradient={"step": 3, "gradient": packets[0]}),
        Message(activation_up={"step": 3, "activation": packets[0]}),
        Message(activation_down={"step": 3, "activation": packets[0]}),
        Message(gradient_up={"step": 3, "gradient": packets[0], "num_labels": 5}),
        Message(reference_lost={"step": 3, "sample_ids": IDS[:2]}),
        *(Message(round_end={"round": 1, "num_tokens": 99, "adapter": adapter}) for adapter in adapters),
        Message(evaluation_start={"adapter_version": 2, "adapter": adapters[1]}),
        Message(evaluation_batch={"activation": packets[0], "labels": labels[1]}),
        Message(evaluation_next={}),
        Message(evaluation_up={"activation": packets[0]}),
        Message(evaluation_down={"activation": packets[0]}),
        Message(evaluation_end={"loss_sum": 2.5, "num_labels": 7}),
        Message(save_state={"round": 1}),
        Message(state_saved={}),
        Message(round_paused={}),
        Message(chunk_end={"sketch": bytes(8)}),
        Message(chunk_next={"more": True}),
        Message(mask_start={}),
        Message(mask_keys={"keys": keys}),
        Message(mask_peers={"keys": [keys, keys, keys], "own": 2}),
        Message(mask_shares={"shares": shares}),
        Message(mask_open={"arrived": [1, 3]}),
        Message(mask_opened={"shares": shares}),
        Message(round_abort={}),
        Message(finish={}),
        Message(failure={"reason": "disk full"}),
    ]
    return [message.SerializeToString() for message in messages]


class _ServerSession:
    """A frame from the bytes to the tensors, in every state of the session, and the answer to a bad one."""

    CODEC = "temporal(0.9, per=token) > delta > int4 > zstd"

    def __init__(self, packets: Sequence[bytes]) -> None:
        self.packets = packets
        self._receiver = Receiver(parse(self.CODEC), packets[:1])

    def feed(self, data: bytes) -> None:
        accepted = 0
        for form, state in itertools.product(Form, State):
            session = Session(Role.SERVER, state, form)
            try:
                message = session.receive(data)
            except RemoteProtocolError as error:
                assert session.state is state
                refused = error
            else:
                accepted += 1
                kind = message.WhichOneof("kind")
                assert TRANSITIONS[form][state, Role.CLIENT, kind] is session.state
                self._parse(session, message)
        if not accepted:
            raise refused

    def _parse(self, session: Session, message: Message) -> None:
        """Read what a message carries, as the server does; what is wrong with it can be told to the client."""
        content = getattr(message, message.WhichOneof("kind") or "")
        try:
            if hasattr(content, "labels"):
                _feed_labels(content.labels)
            if hasattr(content, "adapter"):
                _feed_adapter(content.adapter)
            if message.WhichOneof("kind") == "mask_keys":
                keys_of(message)
            for due in ("mask_shares", "mask_opened"):
                if message.WhichOneof("kind") == due:
                    assert shares_of(message, due, _OTHERS, _SHARE_BYTES).keys() == set(_OTHERS)
            for flow in ("activation", "gradient"):
                if hasattr(content, flow):
                    self._receiver.feed(getattr(content, flow))
        except UnknownReference as error:
            if session.state in (State.AWAITING_HIDDEN, State.AWAITING_GRADIENT):
                session.send(Message(reference_lost={"sample_ids": error.sample_ids}))
            raise
        except (PacketError, RemoteProtocolError) as error:
            answer = session.send(Message(failure={"reason": str(error)}))
            assert len(answer) <= _MAX_REASON_BYTES
            raise


def transport_targets() -> list[Target]:
    """One frame to an endpoint in every situation; and all frames of a connection, from its opening on."""
    frames = _frames()
    opening, chunks = frames[0], frames[1:4]
    connections = [
        [opening, *chunks],
        [opening, frames[4], chunks[0], chunks[0], *chunks[1:]],
        [frames[-1], *chunks[1:], frames[5]],
        [opening, *(pack(_chunk(sequence, 0, 1, b"x")) for sequence in range(1, 40))],
    ]
    return [
        Target("frame", frames, _feed_frame),
        Target("connection", [_joined(connection) for connection in connections], _feed_connection),
    ]


def _chunk(sequence: int, offset: int, size: int, data: bytes) -> Parcel:
    return Parcel(Frame(chunk=Chunk(sequence=sequence, offset=offset, size=size)), data)


def _frames() -> list[bytes]:
    """One of every kind; the chunks are those of a message that is larger than the window."""
    position = Position(sequence=1, offset=3, window_bytes=1 << 20)
    opening = {"protocol_version": 1, "conversation": bytes(16)}
    size = 2 * FRAME_LIMITS.window_bytes + 100
    parcels = [
        Parcel(Frame(open=opening)),
        _chunk(1, 0, size, bytes(FRAME_LIMITS.window_bytes)),
        _chunk(1, FRAME_LIMITS.window_bytes, size, bytes(FRAME_LIMITS.window_bytes)),
        _chunk(1, 2 * FRAME_LIMITS.window_bytes, size, bytes(100)),
        Parcel(Frame(credit=Credit(sequence=1, granted_bytes=1 << 20))),
        Parcel(Frame(credit=Credit(sequence=2, granted_bytes=1 << 40))),
        Parcel(Frame(opened={"position": position})),
        Parcel(Frame(reset={})),
        Parcel(Frame(refused={"code": Refused.FULL, "reason": "the run has its 3 clients"})),
        Parcel(Frame(open={**opening, "resumes": True, "position": position})),
    ]
    return [pack(parcel) for parcel in parcels]


def _feed_frame(data: bytes) -> None:
    """Received by an endpoint at its beginning, within a message, and with messages under way."""
    parcel = unpack(data)
    assert len(parcel.data) <= len(data)
    accepted = 0
    for received in (), (_chunk(1, 0, 8, b"half"),), (_chunk(1, 0, 1, b"x"), _chunk(2, 0, 1, b"y")):
        end = Endpoint(FRAME_LIMITS)
        end.position()
        end.resume(Position(window_bytes=6))
        for index, chunk in enumerate(received):
            end.send(b"message %d" % index)
            end.receive(chunk)
        with suppress(RemoteProtocolError):
            end.receive(parcel)
            accepted += 1
        _check_bounds(end)
    if not accepted:
        raise RemoteProtocolError("no endpoint takes this frame")


def _check_bounds(end: Endpoint) -> None:
    sent = 0
    while (parcel := end.next_parcel()) is not None:
        sent += len(parcel.data)
        assert sent <= 100, "more is sent than there is"
    position = end.position()
    assert position.window_bytes <= FRAME_LIMITS.window_bytes
    assert position.offset <= FRAME_LIMITS.message_bytes


def _joined(frames: Sequence[bytes]) -> bytes:
    return b"".join(len(frame).to_bytes(2, "little") + frame for frame in frames)


def _feed_connection(data: bytes) -> None:
    """Taken as the server takes a connection of a client's, to which it has a message to send."""
    frames, place = [], 0
    while place < len(data):
        end = place + 2 + int.from_bytes(data[place : place + 2], "little")
        frames.append(data[place + 2 : end])
        place = end
    if not frames or (opening := unpack(frames[0]).frame).WhichOneof("kind") != "open":
        raise RemoteProtocolError("a connection begins with a frame 'open'")
    conversation = Conversation("clinic-a", bytes(16), FRAME_LIMITS)
    conversation.send(b"welcome")
    connection, position = conversation.connect()
    assert (position.sequence, position.offset) == (0, 0)
    conversation.resume(connection, opening.open.position)
    for frame in frames[1:]:
        message = conversation.incoming(connection, unpack(frame))
        if message is not None:
            assert len(message) <= min(FRAME_LIMITS.message_bytes, len(data))
            conversation.consumed()
    assert conversation.received_bytes <= len(data)


@cache
def all_targets() -> tuple[Target, ...]:
    """Everything that reads bytes of a peer's."""
    return (*transport_targets(), *protocol_targets(), *codec_targets())
