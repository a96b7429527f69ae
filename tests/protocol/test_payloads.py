"""Labels, adapters and the accounting of bytes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitcom.data import IGNORED
from splitcom.errors import RemoteProtocolError
from splitcom.protocol.accounting import flows_of
from splitcom.protocol.adapters import pack_packets, unpack_packets
from splitcom.protocol.labels import most_label_bytes, pack_labels, unpack_labels
from splitcom.protocol.messages_pb2 import Message

MAX_TOKENS = 64


@st.composite
def labels(draw):
    token = st.integers(0, draw(st.sampled_from([10, 70_000, (1 << 32) - 1])))
    gaps = draw(st.booleans())
    behind = st.one_of(token, st.just(IGNORED)) if gaps else token
    rows = st.tuples(
        st.integers(0, 20), st.tuples(token, st.lists(behind, max_size=39)).map(lambda row: [row[0], *row[1]])
    )
    drawn = draw(st.dictionaries(st.integers(0, (1 << 32) - 1), rows, max_size=5))
    return {
        sample: np.array([IGNORED] * start + tokens, dtype=np.int64)
        for sample, (start, tokens) in drawn.items()
    }


@settings(deadline=None, max_examples=200)
@given(labels())
def test_labels_survive_the_wire(drawn):
    received = unpack_labels(pack_labels(drawn), MAX_TOKENS)
    assert received.keys() == drawn.keys()
    assert all((received[sample] == drawn[sample]).all() for sample in drawn)


@settings(deadline=None, max_examples=300)
@given(labels(), st.data())
def test_mutated_labels_are_read_or_refused(drawn, data):
    packed = bytearray(pack_labels(drawn) or b"\x02")
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    packed = packed[: data.draw(st.integers(0, len(packed)))]
    try:
        received = unpack_labels(bytes(packed), MAX_TOKENS)
    except RemoteProtocolError:
        return
    assert all(len(row) <= MAX_TOKENS for row in received.values())


def test_what_is_not_learnt_is_not_sent():
    answer, question = [5, 6], [40_000] * 20
    turns = np.array([IGNORED] * 3 + answer + [IGNORED] * len(question) + answer + [IGNORED])
    packed = pack_labels({1: turns})
    assert len(packed) == 5 + 12 + 4 + 2 * 4  # 25 bits, four tokens
    assert pack_labels({1: turns[:5]}) == b"\x02\x01" + bytes(3) + b"".join(
        number.to_bytes(4, "little") for number in (1, 3, 5)
    ) + bytes([5, 0, 6, 0])


def test_labels_with_gaps_take_no_more_than_they_may():
    with_gap = np.full(MAX_TOKENS, 1 << 16)
    with_gap[-1] = IGNORED
    for row in (with_gap, np.full(MAX_TOKENS, 1 << 16)):
        assert len(pack_labels({1: row, 2: row})) <= most_label_bytes(2, MAX_TOKENS)


def test_a_sample_longer_than_allowed_is_refused():
    packed = pack_labels({7: np.arange(MAX_TOKENS + 1)})
    with pytest.raises(RemoteProtocolError, match="do not add up"):
        unpack_labels(packed, MAX_TOKENS)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.binary(max_size=9), min_size=1, max_size=5))
def test_packets_of_an_adapter_survive_the_wire(packets):
    assert unpack_packets(pack_packets(packets)) == (packets, False)
    assert unpack_packets(pack_packets(packets[:1], is_exact=True)) == (packets[:1], True)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no bytes"),
        (b"\x03abc", "sizes of 3 packets are due"),
        (b"\x02\xff\xff\xff\xffab", "take more than"),
    ],
)
def test_damaged_packets_of_an_adapter_are_refused(data, message):
    with pytest.raises(RemoteProtocolError, match=message):
        unpack_packets(data)


@pytest.mark.parametrize(
    "message",
    [
        Message(activation={"step": 300, "activation": b"a" * 50, "labels": b"l" * 20}),
        Message(round_end={"round": 2, "adapter": b"x" * 30, "num_tokens": 100}),
        Message(hello={"client": "clinic"}),
        Message(evaluation_batch={"activation": b"a" * 50, "labels": b"b"}),
        Message(activation_up={"step": 300, "activation": b"a" * 50}),
        Message(gradient_up={"step": 300, "gradient": b"a" * 50, "num_labels": 7}),
        Message(evaluation_down={"activation": b"a" * 50}),
    ],
)
def test_every_byte_of_a_message_is_counted_once(message):
    size = message.ByteSize()
    flows = flows_of(message, size)
    assert sum(flows.values()) == size
    assert flows.get("activation_up", 50) == 50
