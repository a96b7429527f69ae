"""Projections: what the sender keeps, what it decides, and that the receiver does not notice."""

import numpy as np
import pytest
import torch

from splitcom.codecs import Context, MemoryReferences, Ragged, parse
from splitcom.codecs.chain.projection import Projection
from splitcom.codecs.wire import tensor_bytes
from splitcom.errors import CodecError

KINDS = ["random", "hadamard", "pca"]
IDS = [4, 9, 2]
LENGTHS = torch.tensor([20, 7, 13])


def visits(hidden: int = 64) -> tuple[Ragged, Ragged]:
    """Three samples twice; the first is still, the second moves a little, the third a lot, all in few directions."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(40, hidden, generator=generator)
    drift = torch.randn(40, 3, generator=generator) @ torch.randn(3, hidden, generator=generator) / 3**0.5
    size = torch.tensor([0.0, 0.02, 1.0]).repeat_interleave(LENGTHS)[:, None]
    return Ragged(first, LENGTHS), Ragged(first + size * drift, LENGTHS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", ["none", "int4 > zstd"])
def test_the_receiver_gets_the_packets_of_whole_references(kind: str, number: str) -> None:
    reduced, whole = (
        parse(f"temporal(0.98) > projection(8, kind={kind}) > {number}"),
        parse(f"temporal(0.98) > {number}"),
    )
    senders, receivers = [[MemoryReferences(), MemoryReferences()] for _ in range(2)]
    for visit, batch in enumerate(visits()):
        packets = [
            codec.encode(batch, IDS, Context(sender)).packet
            for codec, sender in zip((reduced, whole), senders, strict=True)
        ]
        masked = [
            packet.replace(codec.fingerprint.to_bytes(2, "little"), b"..", 1)
            for codec, packet in zip((reduced, whole), packets, strict=True)
        ]
        assert masked[0] == masked[1]
        decoded = [
            codec.decode(packet, receiver)
            for codec, packet, receiver in zip((reduced, whole), packets, receivers, strict=True)
        ]
        assert torch.equal(decoded[0].batch.values, decoded[1].batch.values)
        assert decoded[0].skipped.tolist() == [visit == 1, visit == 1, False]
    assert senders[0].kept_bytes == 40 * (8 + 2)
    assert senders[1].kept_bytes == senders[0].num_bytes == 40 * 64 * 2


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_sender_cannot_know_is_nan(kind: str) -> None:
    codec, store = parse(f"temporal(0.98) > projection(8, kind={kind}) > none"), MemoryReferences()
    first, second = visits()
    assert torch.equal(codec.encode(first, IDS, Context(store)).reconstruction.values, first.values)
    encoded = codec.encode(second, IDS, Context(store))
    assert encoded.reconstruction.values[:27].isnan().all()
    assert torch.equal(encoded.reconstruction.values[27:], second.values[27:])


@pytest.mark.parametrize("kind", ["random", "hadamard"])
def test_another_seed_is_another_projection_and_the_same_seed_the_same(kind: str) -> None:
    projection, (batch, _) = Projection(8, kind), visits()
    one, again, other = (projection.reduce(batch.values, LENGTHS.numpy(), seed) for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_is_reduced_alike_in_any_batch(kind: str) -> None:
    projection, (batch, _) = Projection(8, kind), visits()
    basis = projection.fit(batch.values)
    whole = projection.reduce(batch.values, LENGTHS.numpy(), 5, basis)
    alone = projection.reduce(batch.values[20:27], np.array([7]), 5, basis)
    torch.testing.assert_close(whole[20:27], alone)


@pytest.mark.parametrize("dim", [40, 41])
def test_what_is_kept_is_rounded_to_a_127th_of_the_largest(dim: int) -> None:
    values = torch.randn(50, dim, generator=torch.Generator().manual_seed(0))
    values *= torch.logspace(-30, 30, 50)[:, None]
    values[3] = 0
    kept = Projection.pack(values)
    items = [tensor_bytes(kept[:20]), tensor_bytes(kept[20:])]
    restored = Projection.unpack(items, 50)
    assert kept.dtype == torch.uint8 and kept.shape == (50, dim + 2)
    assert ((restored - values).abs() <= values.abs().amax(1, keepdim=True) / 127 * 0.76).all()
    assert torch.equal(Projection.unpack(items[1:], 30), restored[20:])
    assert Projection.pack(values[:0]).shape == (0, dim + 2)


def test_positions_have_signs_of_their_own_so_that_the_errors_of_tokens_average() -> None:
    """All tokens drift in the same direction: the worst case of one matrix for all, harmless with signs."""
    drift = torch.randn(1, 64, generator=torch.Generator().manual_seed(0)).expand(100, 64)
    ratios = {
        tokens: torch.tensor(
            [
                float(Projection(4).reduce(drift[:tokens], np.array([tokens]), seed).square().sum())
                for seed in range(200)
            ]
        )
        / float(drift[:tokens].square().sum())
        for tokens in (1, 100)
    }
    assert ratios[1].std() == pytest.approx((2 / 4) ** 0.5, rel=0.25)
    assert ratios[100].std() == pytest.approx((2 / 400) ** 0.5, rel=0.25)
    assert ratios[100].mean() == pytest.approx(1, abs=0.02)


def test_a_hadamard_projection_onto_all_dimensions_loses_nothing() -> None:
    first, second = visits()
    projection = Projection(64, "hadamard")
    reduced = [projection.reduce(batch.values, LENGTHS.numpy(), 3) for batch in (first, second)]
    torch.testing.assert_close(
        (reduced[0] - reduced[1]).norm(dim=1), (first.values - second.values).norm(dim=1)
    )


def test_pca_keeps_the_leading_directions_and_goes_with_the_references() -> None:
    basis = torch.linalg.qr(torch.randn(64, 3, generator=torch.Generator().manual_seed(0))).Q
    values = torch.randn(40, 3, generator=torch.Generator().manual_seed(1)) @ basis.T
    codec, store = parse("temporal(0.98) > projection(3, kind=pca)"), MemoryReferences()
    codec.encode(Ragged(values, LENGTHS), IDS, Context(store))
    assert store.basis is not None and store.basis.shape == (64, 3)
    torch.testing.assert_close(values @ store.basis @ store.basis.T, values, atol=1e-4, rtol=0)
    kept = store.basis
    codec.encode(visits()[1], IDS, Context(store))
    assert store.basis is kept
    store.clear()
    assert store.basis is None


def test_more_dimensions_than_there_are_is_refused() -> None:
    with pytest.raises(CodecError, match="take a dim of at most 64"):
        parse("temporal(0.98) > projection(65)").encode(visits()[0], IDS, Context(MemoryReferences()))


def test_references_of_another_codec_are_refused() -> None:
    first, second = visits()
    store, reduced = MemoryReferences(), parse("temporal(0.98) > projection(8)")
    reduced.encode(first, IDS, Context(store))
    for text, kept in (
        ("temporal(0.98) > projection(9)", "keeps 8 numbers per token, 9 are needed"),
        ("temporal(0.98)", "keeps no whole references"),
    ):
        with pytest.raises(CodecError, match=kept):
            parse(text).encode(second, IDS, Context(store))
    sender = MemoryReferences()
    packets = [reduced.encode(batch, IDS, Context(sender)).packet for batch in (first, second)]
    with pytest.raises(CodecError, match="keeps no whole references"):
        reduced.decode(packets[1], store)


@pytest.mark.parametrize("metric", ["cosine", "relative_l2"])
def test_what_overflows_is_sent(metric: str) -> None:
    codec, store = parse(f"temporal(0.5, metric={metric}) > projection(4) > none"), MemoryReferences("fp32")
    batch = Ragged(torch.full((40, 64), 1e25), LENGTHS)
    codec.encode(batch, IDS, Context(store))
    assert not codec.encode(batch, IDS, Context(store)).skipped.any()


@pytest.mark.parametrize(("tokens", "hidden"), [(40, 64), (64, 40)])
@pytest.mark.parametrize("rank", [3, 20])
def test_a_basis_is_that_of_the_leading_directions(tokens: int, hidden: int, rank: int) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(tokens, rank, generator=generator) @ torch.randn(rank, hidden, generator=generator)
    basis = Projection(8, "pca").fit(values)
    assert basis is not None and basis.shape == (hidden, 8)
    torch.testing.assert_close(basis.T @ basis, torch.eye(8))
    singular = torch.linalg.svdvals(values)
    assert float((values @ basis).norm()) == pytest.approx(float(singular[:8].norm()), rel=1e-5)
