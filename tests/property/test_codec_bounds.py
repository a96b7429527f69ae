"""Each stage keeps the error bound of its docstring, for any shape and any finite values."""

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from splitcom.codecs import Context, MemoryReferences, Ragged, parse
from splitcom.codecs.chain.projection import Projection
from splitcom.codecs.chain.temporal import Temporal
from splitcom.errors import OutOfRangeError

few = settings(deadline=None, max_examples=60)
magnitudes = st.one_of(
    st.floats(-4, 4, width=32),
    st.floats(-(2.0**-126), 2.0**-126, width=32),  # subnormal
    st.floats(-float(np.float32(1e34)), float(np.float32(1e34)), width=32),
    st.just(0.0),
)
patterns = st.sampled_from(["free", "constant", "zeros", "one outlier"])


@st.composite
def batches(draw: st.DrawFn, max_hidden: int = 70) -> Ragged:
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=4))
    shape = (sum(lengths), draw(st.integers(1, max_hidden)))
    pattern = draw(patterns)
    if pattern == "free":
        values = draw(arrays.arrays(np.float32, shape, elements=magnitudes, fill=st.just(0.5)))
    else:
        values = np.full(shape, 0.0 if pattern == "zeros" else draw(magnitudes), np.float32)
        if pattern == "one outlier":
            values[-1, -1] = draw(magnitudes)
    return Ragged(torch.from_numpy(values), torch.tensor(lengths))


def round_trip(text: str, batch: Ragged, seed: int = 0) -> torch.Tensor:
    codec, ids = parse(text), list(range(len(batch.lengths)))
    encoded = codec.encode(batch, ids, Context(MemoryReferences(), seed=seed))
    decoded = codec.decode(encoded.packet, MemoryReferences()).batch
    assert torch.equal(
        decoded.values.view(torch.int32), encoded.reconstruction.values.contiguous().view(torch.int32)
    )
    assert decoded.values.isfinite().all()
    return decoded.values


@few
@given(batches())
def test_none_is_exact(batch: Ragged) -> None:
    assert torch.equal(round_trip("none", batch), batch.values)
    assert torch.equal(round_trip("none > zstd", batch), batch.values)


@few
@given(batches())
def test_fp16(batch: Ragged) -> None:
    if (batch.values.abs() > 65504).any():  # would arrive as another number
        with pytest.raises(OutOfRangeError, match="65,504"):
            round_trip("fp16", batch)
        return
    exact = batch.values.double()
    error = (round_trip("fp16", batch).double() - exact).abs()
    assert (error <= 2**-11 * exact.abs() + 2**-25).all()


@few
@given(batches())
def test_bf16(batch: Ragged) -> None:
    exact = batch.values.double()
    error = (round_trip("bf16", batch).double() - exact).abs()
    assert (error <= 2**-8 * exact.abs() + 2.0**-134).all()


@few
@given(
    batches(),
    st.sampled_from([2, 4, 8]),
    st.sampled_from([1, 3, 64]),
    st.sampled_from(["nearest", "stochastic"]),
    st.integers(0, 99),
)
def test_integers(batch: Ragged, bits: int, group: int, rounding: str, seed: int) -> None:
    restored = round_trip(f"int{bits}(group={group}, rounding={rounding})", batch, seed)
    for start in range(0, batch.hidden, group):
        exact = batch.values[:, start : start + group].double()
        error = (restored[:, start : start + group].double() - exact).abs()
        high, low = exact.amax(1, keepdim=True), exact.amin(1, keepdim=True)
        extreme = exact.abs().amax(1, keepdim=True)
        step = extreme / 2 ** (bits - 1)
        assert (error <= 1.01 * step + 1e-38).all()
        if rounding == "nearest":
            same_sign = exact.sign() == torch.where(high > -low, 1.0, -1.0)
            far = exact.abs() <= extreme - 1.5 * step
            assert (error <= 0.51 * step + 1e-38)[same_sign | far].all()


@few
@given(batches(), st.sampled_from([0.01, 0.5, 2.8, 50]), st.sampled_from([-0.4, 0.05, 0.5]))
def test_what_a_grid_gives_is_as_long_as_the_numbers_along_them(
    batch: Ragged, step: float, dead_zone: float
) -> None:
    exact, restored = (
        batch.values.double(),
        round_trip(f"grid({step}, dead_zone={dead_zone})", batch).double(),
    )
    energy = exact.square().sum()
    if exact.abs().max() < 1e-30:  # the gain, which is fp32, is not exact any more
        return
    assert float((restored * exact).sum() / energy) == pytest.approx(1, rel=1e-5)
    assert ((restored == 0) | (restored.sign() == exact.sign())).all()
    assert restored.abs().max() <= 10 * max(1, step) * exact.abs().max()


def test_a_grid_sends_numbers_that_all_have_one_magnitude_exactly() -> None:
    signs = torch.randn(40, 64, generator=torch.Generator().manual_seed(0)).sign()
    restored = round_trip("grid(2.8)", Ragged(0.003 * signs, torch.tensor([40])))
    assert torch.allclose(restored, 0.003 * signs, rtol=1e-6)


@pytest.mark.parametrize("step", [0.03, 4.0])
def test_errors_under_dither_are_uniform_and_say_nothing_of_the_numbers(step: float) -> None:
    """Also if the numbers are few and all on the step's multiples, where rounding alone errs not at all."""
    exact = torch.tensor([0.0, step, -7 * step, 0.4 * step]).repeat(100, 64)
    restored = round_trip(f"dither({step})", Ragged(exact, torch.tensor([100])))
    error = ((restored - exact) / step).flatten(0).reshape(-1, 4).double()
    assert error.abs().max() <= 0.5 + 1e-5
    for column in range(4):  # a number each
        counts = torch.histc(error[:, column], 8, -0.5, 0.5)
        assert abs(float(error[:, column].mean())) < 0.03 and counts.min() > 650 and counts.max() < 950  # 800
    assert torch.corrcoef(error.T).sub(torch.eye(4)).abs().max() < 0.1


def test_dither_refuses_what_its_integers_do_not_hold() -> None:
    with pytest.raises(OutOfRangeError, match="take a larger step"):
        round_trip("dither(0.001)", Ragged(torch.tensor([[1e3]]), torch.tensor([1])))


@few
@given(batches(), st.floats(0.01, 1), st.sampled_from(["topk", "randtopk"]))
def test_sparse_elements_are_exact_or_zero(batch: Ragged, ratio: float, name: str) -> None:
    restored = round_trip(f"{name}({ratio}) > none", batch)
    kept = restored == batch.values
    assert (kept | (restored == 0)).all()
    assert (kept.sum(1) >= max(1, np.ceil(ratio * batch.hidden))).all()
    if name == "topk":
        count = max(1, int(np.ceil(ratio * batch.hidden)))
        assert torch.equal(restored.abs().topk(count).values, batch.values.abs().topk(count).values)


@few
@given(batches(max_hidden=12), st.integers(1, 8))
def test_svd_is_as_good_as_the_best_of_its_rank(batch: Ragged, rank: int) -> None:
    restored = round_trip(f"svd({rank}) > none", batch)
    lengths = batch.lengths.tolist()
    for exact, found in zip(batch.values.split(lengths), restored.split(lengths), strict=True):
        scale = max(float(exact.abs().max()), 1e-30)
        singular = torch.linalg.svdvals(exact.double() / scale)
        error = ((found.double() - exact.double()) / scale).norm()
        smallest = 1e-38 / scale  # fp32 has no precision below
        assert error <= singular[rank:].norm() + 1e-5 * singular.norm() + smallest


@few
@given(batches(), st.sampled_from(["cosine", "relative_l2"]), st.sampled_from(["sample", "token"]), st.data())
def test_what_is_skipped_is_similar(batch: Ragged, metric: str, per: str, data: st.DataObject) -> None:
    threshold = data.draw(st.floats(0.5, 1) if metric == "cosine" else st.just(0.0) | st.floats(1e-36, 0.5))
    codec = parse(f"temporal({threshold}, metric={metric}, per={per}) > none")
    store, ids = MemoryReferences("fp32"), list(range(len(batch.lengths)))
    codec.encode(batch, ids, Context(store))
    share = data.draw(st.sampled_from([0.0, 0.01, 0.3, 1.0]))
    noise = torch.randn(
        batch.values.shape, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 9)))
    )
    moved = Ragged((batch.values * (1 + share * noise)).clamp(-1e34, 1e34), batch.lengths)
    encoded = codec.encode(moved, ids, Context(store))
    old, new = batch.values.double(), moved.values.double()
    found = encoded.reconstruction.values.double()
    lengths = [1] * len(new) if per == "token" else batch.lengths.tolist()
    for before, after, received in zip(*(x.split(lengths) for x in (old, new, found)), strict=True):
        if torch.equal(received, after):
            continue  # sent, or unchanged
        assert torch.equal(received, before)
        if after.norm() < 1e-18:
            continue  # below what fp32 can square
        if metric == "cosine":
            assert (
                torch.cosine_similarity(before.flatten(), after.flatten(), dim=0, eps=0) >= threshold - 1e-5
            )
        else:
            assert (after - before).norm() <= (threshold + 1e-5) * after.norm()


@few
@given(
    batches(),
    st.sampled_from(["cosine", "relative_l2"]),
    st.integers(0, 2**63 - 1),
    st.floats(0, 0.5),
    st.data(),
)
def test_a_projection_that_loses_nothing_measures_what_whole_references_do(
    batch: Ragged, metric: Literal["cosine", "relative_l2"], seed: int, share: float, data: st.DataObject
) -> None:
    width = 1 << (batch.hidden - 1).bit_length()
    values = torch.nn.functional.pad(batch.values.clamp(-1e4, 1e4), (0, width - batch.hidden))
    noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 9))))
    moved = values * (1 + share * noise)
    lengths, units = batch.lengths.numpy(), batch.lengths.tolist()
    projection = Projection(width, "hadamard")
    reduced = [projection.reduce(rows, lengths, seed) for rows in (moved, values)]
    measured = Temporal(0.5, metric).measure(*reduced, lengths, moved)
    for index, (new, old) in enumerate(
        zip(moved.double().split(units), values.double().split(units), strict=True)
    ):
        if new.norm() < 1e-15 or old.norm() < 1e-15:
            continue  # below what fp32 can square
        cosine = float(torch.cosine_similarity(new.flatten(), old.flatten(), dim=0, eps=0))
        true = cosine if metric == "cosine" else float((new - old).norm() / new.norm())
        assert measured[index] == pytest.approx(true, abs=1e-4)


@few
@given(
    st.integers(1, 40), st.integers(1, 32), st.sampled_from(["random", "hadamard"]), st.integers(0, 2**63 - 1)
)
def test_every_column_of_a_projection_is_of_one_length(
    hidden: int, dim: int, kind: Literal["random", "hadamard"], seed: int
) -> None:
    """Unit vectors keep their norm exactly, and with it every token the diagonal part of its squared norm."""
    dim = min(dim, hidden)
    reduced = Projection(dim, kind).reduce(torch.eye(hidden), np.array([hidden]), seed)
    torch.testing.assert_close(reduced.norm(dim=1), torch.ones(hidden))


CHAINS = st.sampled_from(
    [
        "temporal(0.9) > delta > int4 > zstd",
        "temporal(0.3, metric=relative_l2, per=token) > delta > topk(0.2) > int8(group=7)",
        "delta > svd(2) > int4 > zstd",
        "delta > int2(rounding=stochastic)",
        "temporal(0.5, per=token)",
        "temporal(0.9) > projection(1) > int8",
        "temporal(0.3, metric=relative_l2) > projection(1, kind=pca) > fp16",
        "klt(5, centre=sum) > uniform(0.5) > range",
        "predict(window=9, gain=fitted) > klt(20) > uniform(0.2) > range",
    ]
)


@few
@given(
    CHAINS, st.sampled_from(["fp16", "bf16", "fp32"]), st.lists(batches(max_hidden=1), max_size=3), st.data()
)
def test_both_sides_agree_whatever_comes(
    text: str, precision: str, shapes: list[Ragged], data: st.DataObject
) -> None:
    codec, hidden = parse(text), data.draw(st.integers(1, 20))
    sender, receiver = MemoryReferences(precision, 4000), MemoryReferences(precision, 4000)
    for step, shape in enumerate(shapes):
        tokens = len(shape.values)
        values = data.draw(
            arrays.arrays(np.float32, (tokens, hidden), elements=magnitudes, fill=st.just(1.0))
        )
        ids = data.draw(st.permutations(range(5)))[: len(shape.lengths)]
        batch = Ragged(torch.from_numpy(values), shape.lengths)
        context = Context(sender, seed=step, self_contained=data.draw(st.integers(0, 4)) == 0)
        if codec.knob is not None and data.draw(st.booleans()):
            context = replace(context, **{codec.knob.name: data.draw(st.floats(*codec.knob.limits))})
        try:
            encoded = codec.encode(batch, ids, context)
        except OutOfRangeError:  # nothing is sent, and both sides go on as they were
            assert "fp16" in str(codec) and (batch.values.abs() > 65504 / 2).any()
            continue
        decoded = codec.decode(encoded.packet, receiver).batch.values
        sent = encoded.reconstruction.values
        known = ~sent.isnan()  # a sender that keeps projections does not know what it skips
        assert torch.equal(decoded[known].view(torch.int32), sent[known].view(torch.int32))
        assert decoded.isfinite().all()
        assert list(sender) == list(receiver) and sender.peek(sender) == receiver.peek(receiver)
        if sender.flow is not None and receiver.flow is not None:
            theirs = receiver.flow.flat()
            assert all(np.array_equal(array, theirs[name]) for name, array in sender.flow.flat().items())
