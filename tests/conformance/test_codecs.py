"""What every codec promises, over every registered stage alone and over chains of them."""

from dataclasses import replace
from typing import Literal

import pytest
import torch

from splitcom.codecs import ELEMENTS, Codec, Context, MemoryReferences, Ragged, parse
from splitcom.codecs.lattice import LatticeCodec
from splitcom.errors import CodecError, NonFiniteError, PacketError, UnknownReference

EXAMPLES = {
    "none": "none",
    "fp16": "fp16",
    "bf16": "bf16",
    "int8": "int8(group=5)",
    "int4": "int4(rounding=stochastic)",
    "int2": "int2",
    "grid": "grid(0.5)",
    "golomb": "golomb(0.1)",
    "dither": "dither(0.01)",
    "topk": "topk(0.2)",
    "randtopk": "randtopk(0.3)",
    "svd": "svd(2)",
    "zstd": "zstd(level=1)",
    "delta": "delta",
    "temporal": "temporal(0.98)",
    "projection": "temporal(0.98) > projection(8)",
    "predict": "predict > klt(40) > uniform(0.2) > range",
    "klt": "klt(33, centre=sum) > uniform(0.05) > range",
    "uniform": "klt(6) > uniform(4, dead_zone=0.2, prompt=2) > range",
    "range": "predict(window=5, rank=0) > klt(40) > uniform(1) > range",
}
CHAINS = [
    "predict(gain=fitted) > klt(40) > uniform(0.2) > range",
    "temporal(0.98) > delta > int4(group=64) > zstd",
    "temporal(0.05, metric=relative_l2, per=token) > delta > svd(3) > int8 > zstd",
    "delta(first=fp16) > svd(3) > int4(rounding=stochastic)",
    "temporal(0.9, per=token) > delta(first=fp16) > int4(rounding=stochastic) > zstd",
    "temporal(0.999, per=token) > topk(0.25) > bf16",
    "temporal(0.99) > delta > svd(2) > grid(2.8) > zstd",
    "temporal(0.99) > delta > dither(0.1)",
    "delta > randtopk(0.1) > int2 > zstd(level=9)",
    "temporal(0.99) > delta > golomb(0.6, least=0.2) > zstd",
    "temporal(0.05, metric=relative_l2) > projection(6, kind=hadamard) > int4 > zstd",
    "temporal(0.99) > projection(5, kind=pca) > svd(2)",
]
ALL = [*EXAMPLES.values(), *CHAINS]
LENGTHS = [3, 1, 7, 4]
IDS = [5, 300, 2, 70_000]


def test_every_stage_has_an_example() -> None:
    assert set(EXAMPLES) == set(ELEMENTS)


@pytest.fixture(params=ALL)
def codec(request: pytest.FixtureRequest) -> Codec:
    return parse(request.param)


@pytest.fixture(params=[text for text in ALL if parse(text).needs_references])
def referring(request: pytest.FixtureRequest) -> Codec:
    return parse(request.param)


def visits(count: int, hidden: int = 33) -> list[Ragged]:
    """The same samples again and again: the first hardly moves, the last moves a lot."""
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(sum(LENGTHS), hidden, generator=generator)
    lengths = torch.tensor(LENGTHS)
    step = torch.tensor([0.001, 0.02, 0.05, 1.0]).repeat_interleave(lengths)[:, None]
    batches = []
    for _ in range(count):
        batches.append(Ragged(values, lengths))
        values = values + step * torch.randn(values.shape, generator=generator)
    return batches


def assert_same(received: Ragged, sent: Ragged) -> None:
    """Equal bit for bit, -0.0 is not 0.0; but for what the sender cannot know."""
    assert torch.equal(received.lengths, sent.lengths)
    assert received.values.isfinite().all()
    known = ~sent.values.isnan()
    assert torch.equal(received.values[known].view(torch.int32), sent.values[known].view(torch.int32))


def state(store: MemoryReferences) -> list[object]:
    ids = list(store)
    flow = {} if store.flow is None else {name: array.tolist() for name, array in store.flow.flat().items()}
    return [flow, ids, store.peek(ids), store.num_bytes, [bytes(kept) for kept in store.read_kept(ids)]]


def assert_same_state(sender: MemoryReferences, receiver: MemoryReferences) -> None:
    """Equal in everything, or in everything but the values where the sender keeps projections."""
    end = None if sender.reduced == receiver.reduced else -1
    assert state(sender)[:end] == state(receiver)[:end]


def test_text_round_trip(codec: Codec) -> None:
    assert parse(str(codec)) == codec
    assert parse(str(codec)).fingerprint == codec.fingerprint


def test_closed_loop(codec: Codec) -> None:
    sender, receiver = MemoryReferences(), MemoryReferences()
    for seed, batch in enumerate(visits(4)):
        encoded = codec.encode(batch, IDS, Context(sender, seed=seed))
        decoded = codec.decode(encoded.packet, receiver)
        assert_same(decoded.batch, encoded.reconstruction)
        assert decoded.ids == IDS
        assert_same_state(sender, receiver)
    assert (len(sender) > 0 or sender.flow is not None) == codec.needs_references


def test_reference_is_the_rounded_reconstruction(referring: Codec) -> None:
    if isinstance(referring, LatticeCodec):
        pytest.skip("its references are integers in another basis")
    sender, receiver = MemoryReferences(), MemoryReferences()
    for batch in visits(3):
        decoded = referring.decode(referring.encode(batch, IDS, Context(sender)).packet, receiver)
        assert torch.equal(receiver.read(IDS), decoded.batch.values.half().float())
        assert_same_state(sender, receiver)


def test_samples_without_a_reference_join_those_with_one(codec: Codec) -> None:
    sender, receiver = MemoryReferences(), MemoryReferences()
    first, second = visits(2)
    part = Ragged(first.values[:4], first.lengths[:2])
    codec.decode(codec.encode(part, IDS[:2], Context(sender)).packet, receiver)
    encoded = codec.encode(second, IDS, Context(sender))
    assert_same(codec.decode(encoded.packet, receiver).batch, encoded.reconstruction)
    assert not encoded.skipped[2:].any()
    assert_same_state(sender, receiver)


def test_a_sample_that_changed_its_length_is_coded_anew(codec: Codec) -> None:
    sender, receiver = MemoryReferences(), MemoryReferences()
    first, second = visits(2)
    codec.decode(codec.encode(first, IDS, Context(sender)).packet, receiver)
    longer = Ragged(torch.cat([second.values[:1], second.values]), second.lengths + torch.eye(4)[0].long())
    encoded = codec.encode(longer, IDS, Context(sender))
    assert_same(codec.decode(encoded.packet, receiver).batch, encoded.reconstruction)
    assert not encoded.skipped[0]
    if len(sender):
        (reference,) = sender.peek([IDS[0]])
        assert reference is not None and reference.length == 4 and reference.version == 1


def test_unknown_reference_then_self_contained(referring: Codec) -> None:
    sender, receiver = MemoryReferences(), MemoryReferences()
    first, second = visits(2)
    referring.encode(first, IDS, Context(sender))  # lost on its way
    packet = referring.encode(second, IDS, Context(sender)).packet
    with pytest.raises(UnknownReference) as caught:
        referring.decode(packet, receiver)
    assert caught.value.sample_ids == IDS and len(receiver) == 0
    encoded = referring.encode(second, IDS, Context(sender, self_contained=True))
    assert not encoded.skipped.any()
    assert_same(referring.decode(encoded.packet, receiver).batch, encoded.reconstruction)
    assert_same_state(sender, receiver)


def test_another_reference_than_the_senders_is_refused(referring: Codec) -> None:
    sender, receiver = MemoryReferences(), MemoryReferences()
    first, second = visits(2)
    referring.encode(first, IDS, Context(sender))
    referring.encode(Ragged(first.values + 1.0, first.lengths), IDS, Context(receiver))
    before = state(receiver)
    with pytest.raises(UnknownReference):
        referring.decode(referring.encode(second, IDS, Context(sender)).packet, receiver)
    assert state(receiver) == before


def test_same_seed_same_packet(codec: Codec) -> None:
    (batch,) = visits(1)
    packets = [codec.encode(batch, IDS, Context(MemoryReferences(), seed=3)).packet for _ in range(2)]
    assert packets[0] == packets[1]


@pytest.mark.parametrize("name", ["threshold", "step"])
def test_what_can_be_set_is_the_knob_and_nothing_else(
    codec: Codec, name: Literal["threshold", "step"]
) -> None:
    """The value in the text makes the packets of the text; what a codec does not have is refused, not ignored."""
    plain, steered = MemoryReferences(), MemoryReferences()
    value = 0.5 if codec.knob is None else codec.knob.value
    for batch in visits(2):
        context = replace(Context(steered), **{name: value})
        if codec.knob is not None and codec.knob.name == name:
            packet = codec.encode(batch, IDS, context).packet
            assert packet == codec.encode(batch, IDS, Context(plain)).packet
        else:
            with pytest.raises(CodecError, match=f'{name} .* is given, but "'):
                codec.encode(batch, IDS, context)
            assert state(steered) == state(MemoryReferences())


def test_threads_do_not_matter_to_the_receiver(codec: Codec) -> None:
    (batch,) = visits(1, hidden=4096)
    encoded = codec.encode(batch, IDS, Context(MemoryReferences()))
    threads = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            assert_same(codec.decode(encoded.packet, MemoryReferences()).batch, encoded.reconstruction)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 2e34])
def test_what_is_not_finite_names_its_sample_and_changes_nothing(
    codec: Codec, value: float, dtype: torch.dtype
) -> None:
    store = MemoryReferences()
    first, second = (Ragged(batch.values.to(dtype), batch.lengths) for batch in visits(2))
    codec.encode(first, IDS, Context(store))
    before = state(store)
    second.values[5, 3] = value  # in fp16 the last of them is infinite, too
    with pytest.raises(NonFiniteError, match=r"sample ids \[2\]"):
        codec.encode(second, IDS, Context(store))
    assert state(store) == before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_any_float_type_is_taken(codec: Codec, dtype: torch.dtype) -> None:
    (batch,) = visits(1)
    given = Ragged(batch.values.to(dtype), batch.lengths)
    encoded = codec.encode(given, IDS, Context(MemoryReferences()))
    assert encoded.reconstruction.values.dtype == torch.float32
    assert_same(codec.decode(encoded.packet, MemoryReferences()).batch, encoded.reconstruction)


def test_the_batch_is_left_alone(codec: Codec) -> None:
    store = MemoryReferences()
    for batch in visits(2):
        copy = batch.values.clone()
        codec.encode(batch, IDS, Context(store))
        assert torch.equal(batch.values, copy)


def test_every_truncation_is_a_packet_error(codec: Codec) -> None:
    sender, receiver = MemoryReferences(), MemoryReferences()
    first, second = visits(2)
    codec.decode(codec.encode(first, IDS, Context(sender)).packet, receiver)
    packet = codec.encode(second, IDS, Context(sender)).packet
    before = state(receiver)
    for size in [*range(min(len(packet), 60)), len(packet) - 1]:
        with pytest.raises(PacketError):
            codec.decode(packet[:size], receiver)
    with pytest.raises(PacketError):
        codec.decode(packet + b"\0", receiver)
    assert state(receiver) == before


def test_a_batch_beyond_the_limit_is_refused(codec: Codec) -> None:
    (batch,) = visits(1)
    packet = codec.encode(batch, IDS, Context(MemoryReferences())).packet
    size_bytes = batch.values.nbytes
    codec.decode(packet, MemoryReferences(), limit_bytes=size_bytes)
    with pytest.raises(PacketError, match="at most"):
        codec.decode(packet, MemoryReferences(), limit_bytes=size_bytes - 1)


def test_a_missing_store_is_named(codec: Codec) -> None:
    (batch,) = visits(1)
    if codec.needs_references:
        with pytest.raises(CodecError, match="needs a reference store"):
            codec.encode(batch, IDS)
    else:
        assert_same(
            codec.decode(codec.encode(batch, IDS).packet).batch, codec.encode(batch, IDS).reconstruction
        )
