"""What single stages do, beyond what every codec promises."""

import numpy as np
import pytest
import torch

from splitcom.codecs import Context, MemoryReferences, Ragged, parse
from splitcom.codecs.chain.quantize import Int2, Int4, Int8, Quantize
from splitcom.codecs.chain.sparsify import RandTopK, TopK
from splitcom.codecs.chain.svd import Svd
from splitcom.codecs.chain.temporal import Temporal


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("stage", [Int8(), Int4(), Int2()])
def test_all_codes_are_in_use(stage: Quantize) -> None:
    extreme = 2 ** (stage.bits - 1)
    codes = torch.arange(-extreme, extreme).float()[None]
    restored = type(stage)(group=256).encode(codes, None)[1]
    assert torch.equal(restored, codes)


def test_zero_and_the_extreme_are_exact_in_every_group() -> None:
    values = torch.randn(50, 128, generator=generator()).bfloat16().float()
    values[:, 5] = 0.0
    restored = Int4().encode(values, None)[1]
    assert (restored[:, 5] == 0).all()
    magnitude = values.view(50, 2, 64).abs()
    exact = (restored == values).view(50, 2, 64)
    assert (exact & (magnitude == magnitude.amax(-1, keepdim=True))).any(-1).all()


def test_stochastic_rounding_is_unbiased() -> None:
    values = torch.full((4000, 4), 0.3)
    values[:, 0] = -4.0  # step 0.5
    restored = Int4(rounding="stochastic").encode(values, generator())[1]
    assert restored[:, 1:].unique().tolist() == [0.0, 0.5]
    assert restored[:, 1:].mean().item() == pytest.approx(0.3, abs=0.01)


def test_topk_keeps_the_largest() -> None:
    values = torch.randn(20, 50, generator=generator())
    side, parts = TopK(0.1).forward(values, np.array([20]), None)
    restored = TopK(0.1).inverse(side, parts, np.array([20]), 50)
    assert ((restored != 0).sum(1) == 5).all()
    dropped = values.masked_fill(restored != 0, 0.0).abs().amax(1)
    kept = values.abs().masked_fill(restored == 0, 9.0).amin(1)
    assert torch.equal(restored[restored != 0], values[restored != 0]) and (dropped <= kept).all()


def test_randtopk_leaves_the_top_in_a_share_alpha_of_the_draws() -> None:
    values = torch.arange(1.0, 101.0).repeat(2000, 1)
    stage = RandTopK(0.1, alpha=0.2)
    side, parts = stage.forward(values, np.array([2000]), generator())
    restored = stage.inverse(side, parts, np.array([2000]), 100)
    assert ((restored != 0).sum(1) == 10).all()
    # without replacement the top ten run short, so that others are drawn more often than alpha
    first_draws = RandTopK(0.01, alpha=0.2).forward(values, np.array([2000]), generator())[1][0]
    assert (first_draws < 100).float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert 0.2 < (restored[:, :90] != 0).sum().item() / 20_000 < 0.5


def test_randtopk_without_chance_is_topk() -> None:
    values = torch.randn(20, 50, generator=generator())
    expected = TopK(0.1).forward(values, np.array([20]), None)
    assert RandTopK(0.1, alpha=0.0).forward(values, np.array([20]), generator())[0] == expected[0]
    assert torch.equal(RandTopK(1.0).forward(values, np.array([20]), generator())[1][0], values)


@pytest.mark.parametrize("hidden", [6, 40])
def test_svd_is_the_truncated_one(hidden: int) -> None:
    lengths = np.array([20, 3, 1])
    values = torch.randn(24, hidden, generator=generator())
    side, parts = Svd(4).forward(values, lengths, None)
    assert [tuple(part.shape) for part in parts] == Svd(4).shapes(lengths, hidden)
    restored = Svd(4).inverse(side, parts, lengths, hidden)
    for sample, found in zip(values.split(lengths.tolist()), restored.split(lengths.tolist()), strict=True):
        left, singular, right = torch.linalg.svd(sample.double(), full_matrices=False)
        best = (left[:, :4] * singular[:4]) @ right[:4]
        torch.testing.assert_close(found.double(), best, atol=1e-5, rtol=1e-5)


def test_svd_of_zeros_is_zeros() -> None:
    lengths = np.array([5, 2])
    side, parts = Svd(3).forward(torch.zeros(7, 4), lengths, None)
    assert torch.equal(Svd(3).inverse(side, parts, lengths, 4), torch.zeros(7, 4))


def test_cosine_of_a_whole_sample_is_that_of_its_flattened_tokens() -> None:
    old, new = torch.randn(2, 7, 5, generator=generator()).unbind()
    new = old + new
    lengths = np.array([3, 4])
    for low, high in ((0, 3), (3, 7)):
        cosine = torch.cosine_similarity(old[low:high].flatten(), new[low:high].flatten(), dim=0).item()
        sample = 0 if low == 0 else 1
        assert Temporal(0.5).measure(new, old, lengths)[sample] == pytest.approx(cosine, abs=1e-6)


@pytest.mark.parametrize(("metric", "threshold"), [("cosine", 0.9), ("relative_l2", 0.1)])
@pytest.mark.parametrize(
    ("old", "new", "similar"),
    [(0.0, 0.0, True), (0.0, 1.0, False), (1.0, 0.0, False), (1.0, 1.0, True), (1.0, -1.0, False)],
)
def test_zero_vectors_are_like_zero_vectors_only(
    metric: str, threshold: float, old: float, new: float, similar: bool
) -> None:
    stage = Temporal(threshold, metric=metric, per="token")
    measured = stage.measure(torch.full((1, 3), new), torch.full((1, 3), old), np.array([1]))
    assert stage.similar(measured, threshold).tolist() == [similar]


@pytest.mark.parametrize("metric", ["cosine", "relative_l2"])
def test_what_is_too_large_to_compare_is_sent(metric: str) -> None:
    huge = torch.full((1, 3), 1e30)
    stage = Temporal(0.5, metric=metric, per="token")
    for other in (huge, -huge):
        measured = stage.measure(huge, other, np.array([1]))
        assert np.isnan(measured[0]) and not stage.similar(measured, 0.5)[0]


def test_relative_l2_sees_a_change_of_length_and_cosine_does_not() -> None:
    old, new = torch.ones(1, 8), torch.full((1, 8), 2.0)
    lengths = np.array([1])
    assert Temporal(0.9).measure(new, old, lengths)[0] == pytest.approx(1)
    assert Temporal(0.4, metric="relative_l2").measure(new, old, lengths)[0] == pytest.approx(0.5)


def test_with_first_fp16_new_samples_are_whole_and_known_ones_coded_right_on_average() -> None:
    codec = parse("delta(first=fp16) > int4(rounding=stochastic)")
    generator = torch.Generator().manual_seed(0)
    old, change, new = (torch.randn(3, 64, generator=generator) for _ in range(3))
    whole = old.half().float()
    moved = torch.cat([whole + 0.01 * change, new])
    arrived = []
    for seed in range(200):
        stores = [MemoryReferences(), MemoryReferences()]
        first = codec.encode(Ragged(old, torch.tensor([3])), [7], Context(stores[0]))
        assert torch.equal(codec.decode(first.packet, stores[1]).batch.values, whole)
        second = codec.encode(Ragged(moved, torch.tensor([3, 3])), [7, 8], Context(stores[0], seed=seed))
        values = codec.decode(second.packet, stores[1]).batch.values
        assert torch.equal(values[3:], new.half().float())
        arrived.append(values[:3])
    step = float(change.abs().max()) * 0.01 / 8
    error = torch.stack(arrived).mean(0) - moved[:3]
    inner = change.abs() < 0.8 * change.abs().amax(1, keepdim=True)  # what lies further out may be cut off
    assert error[inner].abs().max() < 4.5 * step / 2 / 200**0.5 + 1e-3 * step
