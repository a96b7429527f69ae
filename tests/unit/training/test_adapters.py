"""Adapters through codecs: the same at both ends, of any shape, and refused if they are not the model's."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitcom.codecs import Ragged, parse
from splitcom.errors import NonFiniteError, PacketError
from splitcom.training.adapters import AdapterCodec, uncompressed_adapter_size

CODECS = ["none", "fp16", "bf16", "int8", "int4", "topk(0.1) > int8", "delta > topk(0.1) > int8 > zstd"]
CODECS += [
    "temporal(0.999) > delta > int4 > zstd",
    "delta > grid(1.5)",
    "randtopk(0.2) > fp16",
    "delta > int8(rounding=stochastic)",
]
SHAPES = {"b.lora_A": (4, 33), "a.lora_B": (64, 4), "scale": (), "none": (0, 3), "bias": (129,)}


def adapter(seed, scale=0.1):
    generator = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("text", CODECS)
def test_the_sender_knows_to_the_bit_what_the_receiver_has(text):
    base = adapter(0)
    new = {name: tensor + 0.01 * adapter(1)[name] for name, tensor in base.items()}
    packet, expected = AdapterCodec(text).encode(new, base, seed=7)
    received = AdapterCodec(text).decode(packet, base)
    assert same(received, expected)
    assert {name: tensor.shape for name, tensor in received.items()} == {n: t.shape for n, t in base.items()}
    assert all(tensor.dtype == torch.float32 for tensor in received.values())
    error = torch.cat([(received[name] - new[name]).flatten() for name in new]).abs().max()
    assert error < (0.4 if "topk" in text else 0.04)


def test_without_loss_nothing_changes_and_fp16_rounds_once():
    state = adapter(3)
    assert same(AdapterCodec("none").encode(state, state)[1], dict(sorted(state.items())))
    rounded = AdapterCodec("fp16").encode(state, state)[1]
    assert all(torch.equal(rounded[name], state[name].half().float()) for name in state)
    packet, again = AdapterCodec("fp16").encode(rounded, state)
    assert same(again, rounded) and len(packet) == uncompressed_adapter_size(state)


def test_order_and_dtype_of_what_is_given_do_not_matter():
    state = adapter(3)
    shuffled = {name: state[name].double() for name in reversed(state)}
    assert AdapterCodec("int8").encode(state, state)[0] == AdapterCodec("int8").encode(shuffled, state)[0]


def test_an_empty_adapter_is_no_bytes():
    codec = AdapterCodec("fp16")
    assert codec.encode({}, {}) == (b"", {}) and codec.decode(b"", {}) == {}
    assert uncompressed_adapter_size({}) == 0
    with pytest.raises(PacketError, match="an adapter of 0 bytes; the model's has 5 tensors"):
        codec.decode(b"", adapter(0))
    with pytest.raises(PacketError, match="an adapter of 1 bytes; the model's has 0 tensors"):
        codec.decode(b"x", {})


def test_another_base_than_the_sender_s_is_noticed():
    codec, base = AdapterCodec("delta > int8"), adapter(0)
    packet, _ = codec.encode(adapter(1), base)
    other = base | {"bias": base["bias"] + 1e-7}
    with pytest.raises(PacketError, match="builds on another one than is held here"):
        codec.decode(packet, other)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -65504.0, 1e30])
@pytest.mark.parametrize("text", ["none", "fp16", "delta > int8"])
def test_numbers_that_have_diverged_are_neither_sent_nor_taken(text, value):
    base = adapter(0)
    wrong = base | {"bias": torch.full((129,), value)}
    with pytest.raises(NonFiniteError, match="not below 65504; training has diverged"):
        AdapterCodec(text).encode(wrong, base)
    if np.isfinite(value):
        batch = Ragged(torch.full((1, 64), value), torch.tensor([1]))
        packet = parse("none").encode(batch, [0]).packet
        with pytest.raises(PacketError, match="numbers that are not below 65504"):
            AdapterCodec("none").decode(packet, {"a": torch.zeros(8, 8)})


@pytest.mark.parametrize(
    ("ids", "lengths", "width"),
    [([0], [2], 64), ([1, 0], [2, 1], 64), ([0, 1], [1, 2], 64), ([0, 1], [2, 1], 63)],
)
def test_an_adapter_of_another_model_is_refused(ids, lengths, width):
    model = {"a": torch.zeros(100), "b": torch.zeros(64)}
    batch = Ragged(torch.ones(sum(lengths), width), torch.tensor(lengths))
    packet = parse("none").encode(batch, ids).packet
    with pytest.raises(PacketError, match="whose sizes are not the model's"):
        AdapterCodec("none").decode(packet, model)


def test_a_packet_that_claims_more_than_the_model_has_is_refused_before_it_is_unpacked():
    batch = Ragged(torch.ones(4096, 64), torch.tensor([4096]))
    packet = parse("int8 > zstd").encode(batch, [0]).packet
    assert len(packet) < 4096
    with pytest.raises(PacketError):
        AdapterCodec("int8 > zstd").decode(packet, {"a": torch.zeros(64)})


@settings(deadline=None, max_examples=150)
@given(data=st.data(), text=st.sampled_from(["fp16", "int8", "delta > topk(0.1) > int8 > zstd"]))
def test_mutated_adapters_are_read_or_refused(data, text):
    base = adapter(0)
    packet = bytearray(AdapterCodec(text).encode(adapter(1), base)[0])
    for _ in range(data.draw(st.integers(1, 4))):
        packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
    packet = packet[: data.draw(st.integers(0, len(packet)))]
    try:
        received = AdapterCodec(text).decode(bytes(packet), base)
    except PacketError:
        return
    assert all((tensor.abs() < 65504).all() for tensor in received.values())
