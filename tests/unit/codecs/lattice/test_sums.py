"""Sums over a packet's tokens are right along what both ends have of these tokens already, and only then."""

import pytest
import torch

from splitcom.codecs import Along, Context, MemoryReferences, Ragged, parse
from splitcom.codecs.along import columns_of
from splitcom.errors import PacketError, SpecError

CODEC = "predict(window=0, rank=0) > klt(threshold=0.7, centre=sum, along=8) > uniform(1.7) > range"
IDS = [4, 1, 7]
LENGTHS = torch.tensor([60, 40, 28])


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def passed(seed: int = 0) -> Ragged:
    """Activations of which a few directions are strong."""
    return Ragged(drawn(seed, 128, 24) @ torch.diag(torch.linspace(4, 0.2, 24)) + 1.0, LENGTHS)


def answer() -> Ragged:
    """Gradients that have something to do with them, and much that has not."""
    return Ragged(0.01 * drawn(1, 128, 24) + 0.001 * passed().values @ drawn(2, 24, 24), LENGTHS)


def test_what_a_packet_misses_is_orthogonal_to_the_columns_but_for_rounding():
    along, plain, coded = Along.kept(passed(), IDS, 8), parse(CODEC.replace(", along=8", "")), parse(CODEC)
    assert along.columns.shape == (128, 8)
    sender, receiver = MemoryReferences(), MemoryReferences()
    batch = answer()
    for _ in range(2):
        encoded = coded.encode(batch, IDS, Context(sender, along=along))
        decoded = coded.decode(encoded.packet, receiver, along=along).batch
        assert torch.equal(decoded.values, encoded.reconstruction.values)
        missed = along.columns.mT @ (decoded.values - batch.values)
        unit = 1.7 * float(batch.values.square().mean().sqrt()) / 4
        assert missed.abs().max() <= 0.51 * unit
    without = plain.encode(batch, IDS, Context(MemoryReferences())).reconstruction.values
    assert (along.columns.mT @ (without - batch.values)).norm() > 5 * missed.norm()


def test_columns_are_orthonormal_and_leave_the_tokens_sum_alone():
    columns = columns_of(passed().values, 8).double()
    assert torch.allclose(columns.mT @ columns, torch.eye(8, dtype=torch.float64), atol=1e-5)
    assert columns.sum(0).abs().max() < 1e-4


def test_columns_hardly_move_with_the_last_bits_of_values_and_not_with_tokens_lengths():
    values = passed().values
    columns = columns_of(values, 8)
    assert (columns_of(values * (1 + 1e-6 * drawn(3, 128, 24)), 8) - columns).norm() < 1e-3
    longer = torch.cat([1000 * values[:1], values[1:]])
    assert (columns_of(longer, 8) - columns).norm() < 1e-4


def test_of_few_tokens_or_few_that_differ_there_are_few_columns():
    assert Along.kept(Ragged(drawn(0, 40, 24), torch.tensor([40])), [1], 8).columns.shape == (40, 2)
    assert Along.kept(Ragged(drawn(0, 10, 24), torch.tensor([10])), [1], 8).columns.shape == (10, 0)
    alike = columns_of(torch.ones(64, 5), 3)
    assert torch.equal(alike, torch.zeros(64, 3))


@pytest.mark.parametrize(
    "known", [None, Along.kept(passed(), [4, 1, 8], 8)], ids=["nothing", "other samples"]
)
def test_a_receiver_without_the_columns_refuses_and_a_sender_without_them_sends_none(known):
    codec, along = parse(CODEC), Along.kept(passed(), IDS, 8)
    packet = codec.encode(answer(), IDS, Context(MemoryReferences(), along=along)).packet
    with pytest.raises(PacketError, match="8 columns of what has passed of its tokens, and 0 are known"):
        codec.decode(packet, MemoryReferences(), along=known)
    short = codec.encode(answer(), IDS, Context(MemoryReferences(), along=known)).packet
    assert len(short) < len(packet)
    codec.decode(short, MemoryReferences(), along=along)


def test_columns_belong_to_sums():
    with pytest.raises(SpecError, match="centre=sum"):
        parse("klt(along=4) > uniform(1) > range")
    with pytest.raises(SpecError, match="0 to 255, not 256"):
        parse("klt(centre=sum, along=256) > uniform(1) > range")
