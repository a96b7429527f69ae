"""What predict > klt > uniform > range promises: the same integers at both ends, and few of them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitcom.codecs import Codec, Context, MemoryReferences, Ragged, parse
from splitcom.codecs.lattice.basis import UNIT, Basis, exact_product
from splitcom.codecs.lattice.coder import (
    MAX_MAGNITUDE,
    Coder,
    MatrixModel,
    Reader,
    Writer,
    code_uints,
    levels,
)
from splitcom.codecs.lattice.drift import code_update, fit, moved, predicted, updated
from splitcom.codecs.lattice.flow import Flow
from splitcom.codecs.lattice.predict import LIMIT, ModeModel, plan, replay, restore
from splitcom.errors import CodecError, PacketError

from .kept import window_of

STEP = 0.037109375  # a bfloat16, as all steps are

few = settings(deadline=None, max_examples=40)


def draws(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def plainly(target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Units of the usual step and weights of 1."""
    return np.full((len(target), 1), UNIT, np.float32), np.ones(len(target), np.float32)


def coordinates_of(seed: int, tokens: int, directions: int, scale: float = 40.0) -> np.ndarray:
    return (draws(seed).normal(size=(tokens, directions)) * scale / np.arange(1, directions + 1)).astype(
        np.float32
    )


def random_basis(seed: int, directions: int, hidden: int) -> Basis:
    rows = np.rint(draws(seed).normal(size=(directions, hidden)) * 300).astype(np.int64)
    return Basis(np.rint(draws(seed + 1).normal(size=hidden) * 1000).astype(np.int64), rows)


@pytest.mark.parametrize("scale", [100, LIMIT])
@pytest.mark.parametrize("onednn", [True, False])
def test_values_do_not_depend_on_threads_batch_splits_library_or_the_order_of_additions(
    scale: int, onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In fp32, and beyond what it holds."""
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", onednn)
    basis = random_basis(0, 48, 300)
    coordinates = draws(2).integers(-scale, scale, (257, 48)).astype(np.float32)
    values = basis.inverse(coordinates, STEP, "cpu")
    threads = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            assert torch.equal(basis.inverse(coordinates, STEP, "cpu"), values)
    finally:
        torch.set_num_threads(threads)
    for size in (1, 7, 100):
        parts = [basis.inverse(coordinates[i : i + size], STEP, "cpu") for i in range(0, 257, size)]
        assert torch.equal(torch.cat(parts), values)
    order = draws(3).permutation(48)
    shuffled = Basis(basis.mean, basis.rows[order])
    assert torch.equal(shuffled.inverse(coordinates[:, order], STEP, "cpu"), values)
    exact = coordinates.astype(int).astype(object) @ basis.directions.astype(int).astype(object)
    exact += basis.mean.astype(object) * (1 << 10)
    assert torch.equal(torch.from_numpy(exact.astype(np.float64) * (STEP / (1 << 15))).float(), values)


@pytest.mark.parametrize("scale", [3, 1000, LIMIT])
def test_products_of_integers_are_exact_in_the_precision_that_is_chosen(scale: int) -> None:
    """Rows of all lengths, among them some that are just as long as fp32 bears, and some far longer."""
    left = draws(0).integers(-scale, scale + 1, (300, 70)).astype(np.float32)
    left[0] = scale
    right = draws(1).integers(-4096, 4097, (70, 90)).astype(np.float32)
    exact = left.astype(int).astype(object) @ right.astype(int).astype(object)
    for order in (np.arange(70), draws(2).permutation(70)):
        product = exact_product(left[:, order], right[order])
        assert (product.double().numpy() == exact.astype(np.float64)).all()
    assert (product.dtype == torch.float32) == (scale == 3)


def test_both_ends_hold_the_same_whatever_the_sender_computes_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coordinates that another library or device would round otherwise make another packet, no other loop."""
    codec, exact, coordinates = (
        parse("predict > klt(24) > uniform(0.3, dead_zone=0.3) > range"),
        [],
        Basis.coordinates,
    )
    plain = MemoryReferences()
    for visit in range(3):
        batch = batch_of(low_rank_tokens(0, 80) + 0.1 * low_rank_tokens(visit, 80), [20] * 4)
        exact.append(codec.encode(batch, [1, 2, 3, 4], Context(plain)).reconstruction.values)

    def perturbed(basis: Basis, values: torch.Tensor, step: float) -> torch.Tensor:
        noise = torch.from_numpy(draws(1).normal(size=(80, len(basis.rows)))).float()
        return coordinates(basis, values, step) * (1 + 1e-6 * noise)

    monkeypatch.setattr(Basis, "coordinates", perturbed)
    sender, receiver = MemoryReferences(), MemoryReferences()
    for visit in range(3):
        batch = batch_of(low_rank_tokens(0, 80) + 0.1 * low_rank_tokens(visit, 80), [20] * 4)
        encoded = codec.encode(batch, [1, 2, 3, 4], Context(sender))
        decoded = codec.decode(encoded.packet, receiver)
        assert torch.equal(decoded.batch.values, encoded.reconstruction.values)
        assert sender.flow is not None and receiver.flow is not None
        assert sender.read_kept([1, 2, 3, 4]) == receiver.read_kept([1, 2, 3, 4])
        assert all(
            np.array_equal(array, receiver.flow.arrays[name]) for name, array in sender.flow.arrays.items()
        )
        assert (decoded.batch.values - exact[visit]).norm() < 0.02 * exact[visit].norm()


@few
@given(
    st.lists(
        st.lists(st.lists(st.integers(-20, 20), min_size=4, max_size=4), max_size=6), min_size=1, max_size=4
    ),
    st.integers(-MAX_MAGNITUDE, MAX_MAGNITUDE),
)
def test_matrices_come_back_and_models_agree(matrices: list[list[list[int]]], extreme: int) -> None:
    given_matrices = [np.array(matrix, np.int64).reshape(-1, 4) for matrix in matrices]
    given_matrices.append(np.array([[extreme, 0, 0, 1]]))
    writer, sender, receiver = Writer(), MatrixModel.new(4), MatrixModel.new(4)
    for matrix in given_matrices:
        sender.code(writer, matrix, len(matrix), 4)
    reader = Reader(writer.finish())
    for matrix in given_matrices:
        assert np.array_equal(receiver.code(reader, None, len(matrix), 4), matrix)
    reader.finish()
    assert np.array_equal(sender.bits.counts, receiver.bits.counts)
    assert np.array_equal(sender.means, receiver.means)


def test_coding_comes_within_eight_percent_of_the_empirical_entropy() -> None:
    matrices = [
        np.rint(draws(i).laplace(size=(600, 12)) * 3 / np.arange(1, 13)).astype(np.int64) for i in range(8)
    ]
    model, sizes = MatrixModel.new(12), []
    for matrix in matrices:
        writer = Writer()
        model.code(writer, matrix, 600, 12)
        sizes.append(8 * len(writer.finish()))
    whole = np.concatenate(matrices)
    entropy = 0.0
    for column in whole.T:
        share = np.unique(column, return_counts=True)[1] / len(column)
        entropy -= len(column) * float((share * np.log2(share)).sum())
    assert sum(sizes) < 1.08 * entropy
    assert np.mean(sizes[4:]) < np.mean(sizes[:1])


def test_levels_are_half_octaves_of_the_exact_quotient() -> None:
    """Beside each power of the root of 2, and just below and above it, for divisors of all sizes."""
    roots = [int(np.sqrt(np.float64(2**k))) for k in range(1, 48)]
    divisors = np.rint(2 ** draws(0).uniform(16, 24, (3, 48)).cumsum(1).clip(16, 24)).astype(np.int64)
    for near in (-1, 0, 1):
        quotients = np.array([*roots, 1 << 28]) + near
        for rest in (-1, 0, 1):
            numbers = quotients * divisors + rest
            assert np.array_equal(
                levels(numbers, divisors), np.searchsorted(roots, (numbers // divisors).reshape(-1))
            )


def test_what_is_left_over_or_ends_in_zero_is_refused() -> None:
    writer = Writer()
    code_uints(writer, np.array([77]), 1, 30)
    data = writer.finish()
    with pytest.raises(PacketError, match="zero byte"):
        Reader(data + b"\0")
    reader = Reader(data + b"12345678")
    code_uints(reader, None, 1, 30)
    with pytest.raises(PacketError, match="left over"):
        reader.finish()


@few
@given(
    st.integers(0, 1000),
    st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1, max_size=5),
    st.integers(1, 255),
    st.integers(1, 3),
)
def test_the_receiver_replays_what_the_sender_planned(
    seed: int, samples: list[tuple[int, bool]], units_of_all: int, factor: int
) -> None:
    lengths, known = np.array([n for n, _ in samples]), np.array([flag for _, flag in samples])
    tokens = int(lengths.sum())
    units = np.float32(units_of_all) * np.where(
        draws(seed).random((tokens, 1)) < 0.5, np.float32(1), np.float32(factor)
    )
    recent = np.rint(coordinates_of(seed, 12, 5))
    coordinates = recent[draws(seed).integers(0, 12, tokens)] + coordinates_of(seed + 1, tokens, 5, 8.0)
    of_known = np.repeat(known, lengths)
    guessed = ~of_known & (draws(seed + 2).random(tokens) < 0.5)
    has_own = of_known | guessed
    own = np.where(has_own[:, None], np.rint(coordinates) + 3, np.float32(0))
    modes, codes, planned = plan(
        coordinates, own, has_own, known, lengths, window_of(recent, tokens), np.zeros(len(known)), units
    )
    writer, width = Writer(), int(12 + tokens).bit_length()
    ModeModel.new().code(writer, modes, known, lengths, guessed, width)
    read = ModeModel.new().code(Reader(writer.finish()), None, known, lengths, guessed, width)
    assert np.array_equal(read.usual, modes.usual) and np.array_equal(read.distances, modes.distances)
    restored = replay(read, codes, own, has_own, lengths, window_of(recent, tokens), units)
    assert (np.abs(restored - coordinates) <= units / 2).all()
    again = replay(modes, codes, own, has_own, lengths, window_of(recent, tokens), units)
    assert np.array_equal(restored, again) and np.array_equal(restored, planned)


def test_coordinates_stay_within_their_limit() -> None:
    far = restore(np.array([[LIMIT, -LIMIT]]), np.array([[MAX_MAGNITUDE, -MAX_MAGNITUDE]]), np.array([[255]]))
    assert far.tolist() == [[LIMIT, -LIMIT]]


def test_a_drift_that_all_tokens_share_is_predicted() -> None:
    reference = np.rint(coordinates_of(0, 400, 12, 200.0))
    change = draws(1).normal(size=(12, 2)) @ draws(2).normal(size=(2, 12)) * 0.05
    target = reference + reference @ change + UNIT
    start = np.zeros((13, 12), np.int64)
    update = fit(target, reference, start, 4, *plainly(target))
    writer = Writer()
    code_update(writer, update, 12)
    data = writer.finish()
    matrix = updated(start, code_update(Reader(data), None, 12), reference)
    before, after = np.abs(target - reference), np.abs(target - predicted(reference, matrix, update))
    assert after.mean() < 0.2 * before.mean()
    assert len(data) < 120
    # a map that has proved itself is only scaled
    assert fit(moved(reference, matrix, 1), reference, matrix, 4, *plainly(target)).gain == 1


def test_a_map_moves_the_first_directions_and_says_so_in_its_size() -> None:
    reference = np.rint(coordinates_of(0, 600, 400, 60.0))
    change = np.zeros((400, 400))
    change[:280, :280] = 0.3 * np.outer(draws(1).normal(size=280), draws(2).normal(size=280)) / 280**0.5
    target = (reference + reference @ change).astype(np.float32)
    start = np.zeros((1, 0), np.int64)
    update = fit(target, reference, start, 4, *plainly(target))
    matrix = updated(start, update, reference)
    assert 230 < len(matrix) <= 257 and 230 < matrix.shape[1] <= 256  # without the zeros at its ends
    again = fit(target[:, ::-1].copy(), reference, matrix, 4, *plainly(target))
    for gain, other in ((1, matrix), (2, updated(matrix, again, reference))):
        padded = np.zeros((401, 400), np.int64)
        padded[: len(other), : other.shape[1]] = other
        assert np.array_equal(moved(reference, other, gain), moved(reference, padded, gain))
    error, before = (np.linalg.norm(target - found) for found in (moved(reference, matrix, 2), reference))
    assert error < 0.8 * before
    assert np.array_equal(moved(reference, matrix, 2)[:, 256:], reference[:, 256:])


def test_no_map_is_sent_where_it_does_not_pay() -> None:
    reference = np.rint(coordinates_of(0, 60, 12))
    target = reference + coordinates_of(1, 60, 12, 8.0)
    update = fit(target, reference, np.zeros((13, 12), np.int64), 4, *plainly(target))
    assert update.left.shape == (13, 0)


def batch_of(values: np.ndarray, lengths: list[int]) -> Ragged:
    return Ragged(torch.from_numpy(values.astype(np.float32)), torch.tensor(lengths))


def low_rank_tokens(seed: int, tokens: int) -> np.ndarray:
    mixing = draws(99).normal(size=(16, 64)) / np.arange(1, 17)[:, None]
    return draws(seed).normal(size=(tokens, 16)) @ mixing + 0.5


CODEC = "predict > klt(24) > uniform(0.3) > range"


def size_of_second(second: Callable[[np.ndarray], np.ndarray], ids: list[int], text: str = CODEC) -> int:
    """Bytes of the packet that follows one of four samples of 20 tokens."""
    codec, store = parse(text), MemoryReferences()
    first = low_rank_tokens(0, 80)
    codec.encode(batch_of(first, [20] * 4), [1, 2, 3, 4], Context(store))
    return len(codec.encode(batch_of(second(first), [20] * 4), ids, Context(store)).packet)


def test_what_a_recent_sample_had_is_not_sent_again() -> None:
    anew = size_of_second(lambda first: low_rank_tokens(5, 80), [5, 6, 7, 8])
    repeated = size_of_second(lambda first: np.concatenate([first[33:], first[:33]]), [5, 6, 7, 8])
    without = size_of_second(
        lambda first: np.concatenate([first[33:], first[:33]]),
        [5, 6, 7, 8],
        CODEC.replace("predict", "predict(0)"),
    )
    assert repeated < 0.25 * anew
    assert without > 0.8 * anew


def test_of_a_similar_token_weak_directions_count_less() -> None:
    """Tokens that are alike in 8 directions and not in 56 others."""
    strong, chosen = draws(1).normal(size=(40, 64)), draws(2).integers(40, size=900)
    strong[:, 8:] = 0
    tokens = 6 * strong[chosen] + draws(3).normal(size=(900, 64))
    sizes, errors = [], []
    for text in ("predict > klt > uniform(0.2) > range", "predict(gain=fitted) > klt > uniform(0.2) > range"):
        codec, store, receiver = parse(text), MemoryReferences(), MemoryReferences()
        for number, values in enumerate(np.split(tokens, 3)):
            batch = batch_of(values, [30] * 10)
            encoded = codec.encode(batch, range(10 * number, 10 * number + 10), Context(store))
            decoded = codec.decode(encoded.packet, receiver)
            assert torch.equal(decoded.batch.values, encoded.reconstruction.values)
        sizes.append(len(encoded.packet))
        errors.append(float((decoded.batch.values - batch.values).norm()))
    assert sizes[1] < 0.9 * sizes[0] and errors[1] < 1.02 * errors[0]


def test_gains_are_fitted_only_if_there_is_something_to_point_at() -> None:
    batch = batch_of(low_rank_tokens(0, 200), [50] * 4)
    packets = [
        parse(f"predict(window=0, gain={gain}) > klt > uniform(0.2) > range").encode(
            batch, [1, 2, 3, 4], Context(MemoryReferences())
        )
        for gain in ("one", "fitted")
    ]
    assert abs(len(packets[0].packet) - len(packets[1].packet)) < 40
    assert torch.equal(packets[0].reconstruction.values, packets[1].reconstruction.values)


@pytest.mark.parametrize("tokens", [1, 7, 300])
def test_the_sum_of_a_packets_tokens_arrives(tokens: int) -> None:
    values = low_rank_tokens(0, tokens) + np.linspace(-1, 1, 64)
    step = 2 * float((values - values.mean(0)).std() or 1)
    codec = parse("klt(4) > uniform(2) > range" if tokens > 1 else "klt(4) > uniform(1) > range")
    errors = {}
    for centre in ("mean", "sum"):
        chain = parse(str(codec).replace("klt(4)", f"klt(4, centre={centre})"))
        encoded = chain.encode(batch_of(values, [tokens]), [1], Context(MemoryReferences()))
        errors[centre] = np.abs(encoded.reconstruction.values.numpy().mean(0) - values.mean(0)).max()
    # half of a unit, an eighth of a step over the root of the number of tokens, at most twice that
    assert errors["sum"] <= step / 8 / np.sqrt(tokens)
    if tokens == 300:
        assert errors["sum"] < errors["mean"]


def test_an_unchanged_sample_soon_costs_little_more_than_its_header() -> None:
    codec, store = parse(CODEC), MemoryReferences()
    batch = batch_of(low_rank_tokens(0, 80), [20] * 4)
    sizes = [len(codec.encode(batch, [1, 2, 3, 4], Context(store)).packet) for _ in range(4)]
    assert sizes[-1] < 40 < sizes[0] / 20


def visits_of(codec: Codec, steps: Sequence[float | None]) -> list[tuple[int, float]]:
    """Bytes and relative error of slowly moving samples, one packet for each step."""
    sender, receiver = MemoryReferences(), MemoryReferences()
    seen = []
    for visit, step in enumerate(steps):
        values = low_rank_tokens(0, 200) + 0.05 * low_rank_tokens(1 + visit, 200)
        encoded = codec.encode(batch_of(values, [50] * 4), [1, 2, 3, 4], Context(sender, step=step))
        decoded = codec.decode(encoded.packet, receiver).batch.values
        assert torch.equal(decoded, encoded.reconstruction.values)
        error = float(np.linalg.norm(decoded.numpy() - values) / np.linalg.norm(values))
        seen.append((len(encoded.packet), error))
    return seen


@pytest.mark.parametrize("step", [0.15, 0.6])
@pytest.mark.parametrize("text", [CODEC, CODEC.replace("klt(24)", "klt(24, centre=sum)")])
def test_a_step_that_is_set_is_as_good_as_one_in_the_text(text: str, step: float) -> None:
    steered = visits_of(parse(text), [step] * 4)
    written = visits_of(parse(text.replace("uniform(0.3)", f"uniform({step})")), [None] * 4)
    for (size, error), (size_of_text, error_of_text) in zip(steered, written, strict=True):
        assert size <= 1.05 * size_of_text + 4
        assert error <= 1.02 * error_of_text


def test_a_step_that_stays_costs_nothing_and_a_change_of_it_next_to_nothing() -> None:
    codec, batch = parse(CODEC), batch_of(low_rank_tokens(0, 80), [20] * 4)
    plain, steered = MemoryReferences(), MemoryReferences()
    for _ in range(3):
        packet = codec.encode(batch, [1, 2, 3, 4], Context(plain)).packet
        assert codec.encode(batch, [1, 2, 3, 4], Context(steered, step=0.3)).packet == packet
    unchanged = codec.encode(
        batch, [1, 2, 3, 4], Context(plain)
    ).packet  # all of it is predicted, at any step
    changed = codec.encode(batch, [1, 2, 3, 4], Context(steered, step=0.6)).packet
    assert len(changed) <= len(unchanged) + 4  # the coder writes words of four bytes


def test_a_step_changes_from_packet_to_packet_and_references_stay() -> None:
    sizes, errors = zip(*visits_of(parse(CODEC), [0.3, 0.3, 1.2, 0.1, 0.1, 0.3]), strict=True)
    assert sizes[2] < sizes[1] < sizes[4] < sizes[3] < sizes[0]
    assert errors[3] < errors[1] < errors[2] and errors[4] < errors[1]


def test_a_step_is_a_whole_number_of_units_within_its_limits() -> None:
    codec = parse(CODEC)
    assert codec.knob is not None
    assert (codec.knob.name, codec.knob.value) == ("step", 0.3)
    assert codec.knob.limits == pytest.approx((0.3 / 8, 0.3 * 255 / 8))
    for step, units in ((0.3, 8), (0.31, 8), (0.35, 9), (1e-9, 1), (float("inf"), 255)):
        store = MemoryReferences()
        codec.encode(batch_of(low_rank_tokens(0, 8), [8]), [0], Context(store, step=step))
        assert store.flow is not None and store.flow.arrays["units"] == units
    for step in (0.0, -1.0, float("nan")):
        with pytest.raises(CodecError, match="must be above 0"):
            codec.encode(batch_of(low_rank_tokens(0, 8), [8]), [0], Context(MemoryReferences(), step=step))


@pytest.mark.parametrize("units", [0, UNIT])
def test_a_step_that_no_sender_would_send_is_refused(monkeypatch: pytest.MonkeyPatch, units: int) -> None:
    """Nothing, and what it is already."""
    codec, store = parse(CODEC), MemoryReferences()

    def hostile(flow: Flow, coder: Coder, _: int | None) -> None:
        code_uints(coder, np.array([units]), 1, 8)

    with monkeypatch.context() as patch:
        patch.setattr(Flow, "code_units", hostile)
        batch = batch_of(low_rank_tokens(0, 8), [8])
        packet = codec.encode(batch, [0], Context(MemoryReferences(), step=0.6)).packet
    with pytest.raises(PacketError, match=f"a step of {units} units after one of 8"):
        codec.decode(packet, store)
    assert store.flow is None


@few
@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=12), min_size=1, max_size=4), st.integers(0, 99))
def test_the_receiver_learns_which_tokens_are_a_prompt_s(samples: list[list[bool]], seed: int) -> None:
    codec = parse("predict > klt(8) > uniform(0.3, prompt=3) > range")
    sender, receiver = MemoryReferences(), MemoryReferences()
    learnt = torch.tensor([flag for sample in samples for flag in sample])
    for visit in range(3):
        values = low_rank_tokens(seed, len(learnt)) + 0.1 * low_rank_tokens(seed + visit, len(learnt))
        batch = Ragged(
            torch.from_numpy(values).float(), torch.tensor([len(sample) for sample in samples]), learnt
        )
        encoded = codec.encode(batch, range(len(samples)), Context(sender))
        decoded = codec.decode(encoded.packet, receiver).batch
        for batch in (encoded.reconstruction, decoded):
            assert batch.learnt is not None and torch.equal(batch.learnt, learnt)
        assert torch.equal(decoded.values, encoded.reconstruction.values)


def test_a_prompt_has_the_larger_error_of_the_larger_step_and_that_saves_bytes() -> None:
    lengths, is_text = torch.tensor([40] * 8), torch.arange(40).repeat(8) >= 20
    values = torch.from_numpy(low_rank_tokens(0, 320)).float()

    def coded(stage: str, learnt: torch.Tensor | None) -> tuple[int, np.ndarray]:
        codec = parse(f"predict > klt(24) > {stage} > range")
        encoded = codec.encode(Ragged(values, lengths, learnt), range(8), Context(MemoryReferences()))
        errors = (encoded.reconstruction.values - values).square().mean(1)
        return len(encoded.packet), np.array(
            [float(errors[rows].mean().sqrt()) for rows in (~is_text, is_text)]
        )

    size, errors = coded("uniform(0.2)", None)
    half_size, of_parts = coded("uniform(0.2, prompt=2)", is_text)
    all_text_size, same = coded("uniform(0.2, prompt=2)", None)
    assert half_size < 0.95 * size
    assert of_parts[0] == pytest.approx(2 * errors[0], rel=0.2)
    assert of_parts[1] == pytest.approx(errors[1], rel=0.1)
    assert same == pytest.approx(errors) and all_text_size <= size + 8


@pytest.mark.parametrize(("first", "restored"), [(0, [0.0, 1.0, 1.0]), (1, [0.0, 0.0, 1.0])])
def test_a_dead_zone_may_begin_with_the_second_visit(first: int, restored: list[float]) -> None:
    """In one direction and steps: 0.6 is 1 without a dead zone, and 0 with one of 0.3."""
    values = torch.tensor([0.0, 0.6, 1.0, -0.6, -1.0, 3.0, -3.0])[:, None] * torch.ones(1, 4)
    spread = float(values.square().mean().sqrt())
    # along (1, 1, 1, 1) / 2 these are twice as long
    codec = parse(
        f"predict(window=0, rank=0) > klt(1) > uniform({2 / spread}, dead_zone=0.3, first={first}) > range"
    )
    store, lengths = MemoryReferences(), torch.tensor([7])
    for change in (0.0, 0.6):  # what is within the dead zone on the second visit
        changed = values + change * torch.eye(7)[:, :1]
        batch = codec.encode(Ragged(changed, lengths), [1], Context(store)).reconstruction
        assert batch.values[:3, 0].tolist() == pytest.approx(restored, abs=0.1)


def test_the_mean_stays_where_it_is_when_the_spread_changes() -> None:
    codec, store = parse("klt(4) > uniform(1) > range"), MemoryReferences()
    mean, directions = (torch.from_numpy(draws(seed).normal(size=(4, 32))).float() for seed in (0, 1))
    for scale in (1.0, 1.0, 3.0, 0.5):  # no direction is left that could make up for a wrong mean
        varying = scale * torch.from_numpy(draws(2).normal(size=(40, 4))).float() @ directions
        batch = Ragged(5 * mean[0] + varying, torch.tensor([20, 20]))
        error = codec.encode(batch, [0, 1], Context(store)).reconstruction.values - batch.values
        assert error.norm() < 0.3 * varying.norm()


def test_directions_are_added_when_they_are_needed() -> None:
    codec, sender, receiver = (
        parse("predict > klt(24) > uniform(0.3) > range"),
        MemoryReferences(),
        MemoryReferences(),
    )
    values = low_rank_tokens(0, 40)
    other = values + draws(7).normal(size=(40, 1)) * draws(8).normal(size=64)
    counts, errors = [], []
    for step, content in enumerate((values, other, other)):
        batch = batch_of(content, [40])
        decoded = codec.decode(codec.encode(batch, [step], Context(sender)).packet, receiver)
        assert receiver.flow is not None
        counts.append(len(receiver.flow.arrays["rows"]))
        errors.append(float((decoded.batch.values - batch.values).norm() / batch.values.norm()))
    assert counts[0] < counts[1] == counts[2] <= 24
    assert max(errors) < 0.25


def test_a_flow_goes_on_from_its_checkpoint_with_the_same_bytes(tmp_path: Path) -> None:
    codec, sender, receiver = parse(CODEC), MemoryReferences(), MemoryReferences()
    for step in range(3):
        packet = codec.encode(
            batch_of(low_rank_tokens(step, 40), [30, 10]), [step, 9], Context(sender)
        ).packet
        codec.decode(packet, receiver)
    sender.save(tmp_path / "sender")
    receiver.save(tmp_path / "receiver")
    resumed_sender, resumed_receiver = MemoryReferences(), MemoryReferences()
    resumed_sender.load(tmp_path / "sender")
    resumed_receiver.load(tmp_path / "receiver")
    for step in range(3, 5):
        batch = batch_of(low_rank_tokens(step, 40), [30, 10])
        packet = codec.encode(batch, [step, 9], Context(sender)).packet
        assert codec.encode(batch, [step, 9], Context(resumed_sender)).packet == packet
        assert torch.equal(
            codec.decode(packet, resumed_receiver).batch.values, codec.decode(packet, receiver).batch.values
        )


def test_a_store_that_is_cleared_or_loads_older_state_begins_a_new_flow(tmp_path: Path) -> None:
    store = MemoryReferences()
    store.save(tmp_path / "empty")
    parse(CODEC).encode(batch_of(low_rank_tokens(0, 8), [8]), [0], Context(store))
    assert store.flow is not None
    store.load(tmp_path / "empty")
    assert store.flow is None


@few
@given(st.integers(0, 99), st.integers(1, 12), st.floats(0.05, 2.0), st.integers(1, 5))
def test_error_is_bounded_by_step_and_threshold(seed: int, hidden: int, step: float, visits: int) -> None:
    codec = parse(f"predict > klt({hidden}, threshold=0.1) > uniform({step:g}) > range")
    store = MemoryReferences("fp32")
    first = draws(seed).normal(size=(30, hidden))
    spread = float(np.sqrt(((first - first.mean(0)) ** 2).mean()))
    for visit in range(visits):
        values = first + draws(seed + visit).normal(size=first.shape) * 0.1
        found = codec.encode(batch_of(values, [30]), [0], Context(store)).reconstruction.values.numpy()
        error = np.sqrt(((found - values) ** 2).sum(1).mean() / hidden)
        assert error <= 0.62 * step * spread + 1e-4


@pytest.mark.parametrize("norm", [1e2, 1e4])
def test_a_few_tokens_far_longer_than_the_others_change_nothing_for_these(norm: float) -> None:
    codec = parse("predict > klt > uniform(0.5, dead_zone=0.3) > range")
    store, usual_store = MemoryReferences(), MemoryReferences()
    lengths, first = torch.full((10,), 30), np.arange(0, 300, 30)
    massive = torch.zeros(48)
    massive[5] = norm
    others = np.ones(300, np.bool_)
    others[first] = False
    for visit in range(3):
        values = torch.from_numpy(coordinates_of(visit, 1, 48, 0.3) + coordinates_of(9, 300, 48, 1.0)).float()
        usual = values.clone()
        values[first] += massive
        encoded = codec.encode(Ragged(values, lengths), list(range(10)), Context(store))
        same = codec.encode(Ragged(usual, lengths), list(range(10)), Context(usual_store))
        errors = encoded.reconstruction.values - values
        assert errors[others].norm() < 1.1 * (same.reconstruction.values - usual)[others].norm()
        assert errors[first].norm() < 0.05 * values[first].norm()
        assert len(encoded.packet) < 1.3 * len(same.packet) + 200


def test_directions_of_many_and_wide_tokens_are_about_the_principal_ones() -> None:
    """Few or many of them are beyond the threshold; of these, and of no others, there are rows."""
    tokens = draws(0).normal(size=(1100, 1030)) * (np.arange(1, 1031) ** -0.7)
    _, lengths, exact = np.linalg.svd(tokens, full_matrices=False)
    basis = Basis(np.zeros(1030, np.int64), np.zeros((0, 1030), np.int64))
    step = 0.001  # rows are rounded to a part of it
    for count in (0, 3, 100, 400):
        threshold = (lengths[count - 1] if count else 1.1 * lengths[0]) / 1100**0.5 / step / 1.001
        rows = basis.missing(
            torch.from_numpy(tokens).float(), torch.zeros(1100, 0), step, 1030, threshold, np.ones(1100)
        )
        assert 0.95 * count <= len(rows) <= count
        if count:
            spread = np.sqrt((rows.astype(np.float64) ** 2).sum(1))
            assert np.allclose(spread / 32 * step, lengths[: len(rows)] / 1100**0.5, rtol=0.02)
            assert (((rows / spread[:, None] @ exact[: len(rows) + 20].T) ** 2).sum(1) > 0.9).all()


def test_what_a_basis_holds_already_is_not_missing() -> None:
    mixing = draws(3).normal(size=(40, 400))
    values = torch.from_numpy(
        draws(4).normal(size=(500, 40)) @ mixing + 5 * draws(5).normal(size=400)
    ).float()
    mean = np.rint(values.double().mean(0).numpy() * 32).astype(np.int64)
    basis = Basis(mean, np.rint(mixing * 1000).astype(np.int64))
    coordinates = basis.coordinates(values, 1.0)
    assert not len(basis.missing(values, coordinates, 1.0, 400, 0.5, np.ones(500)))
    part = Basis(mean, basis.rows[:38])
    rows = part.missing(values, part.coordinates(values, 1.0), 1.0, 400, 0.5, np.ones(500))
    assert len(rows) == 2
    whole = part.extended(rows)
    extended, coordinates = part.extended_with(rows, values, part.coordinates(values, 1.0), 1.0)
    for found in (coordinates, extended.coordinates(values, 1.0)):
        assert (found - whole.coordinates(values, 1.0)).abs().max() < 0.01  # of an eighth of a step
    error = whole.inverse(whole.coordinates(values, 1.0).round().numpy(), 1.0, "cpu")
    assert float((error - values).square().mean().sqrt()) < 0.1


def test_tokens_most_of_which_are_zero_have_a_step() -> None:
    values = torch.zeros(40, 16)
    values[7] = torch.randn(16, generator=torch.Generator().manual_seed(0))
    encoded = parse("klt > uniform(0.5) > range").encode(
        Ragged(values, torch.tensor([40])), [1], Context(MemoryReferences())
    )
    assert len(encoded.packet) < 200 and (encoded.reconstruction.values - values).norm() < 0.2 * values.norm()


@pytest.mark.parametrize("width", [1, 33, 4096])
@pytest.mark.parametrize(
    "text", ["klt(4) > uniform(0.2) > range", "predict > klt(9) > uniform(0.2, prompt=3) > range"]
)
def test_tokens_that_are_all_alike_arrive_as_they_are(text: str, width: int) -> None:
    values, codec = torch.full((5, width), -3.0), parse(text)

    packet = codec.encode(Ragged(values, torch.tensor([2, 3])), [0, 1], Context(MemoryReferences())).packet

    torch.testing.assert_close(
        codec.decode(packet, MemoryReferences()).batch.values, values, rtol=1e-4, atol=0
    )


def test_a_map_that_no_packet_can_hold_is_not_sent():
    reference = np.clip(np.rint(coordinates_of(0, 60, 4, 1e6)), -LIMIT, LIMIT).astype(np.float32)
    target = (reference @ draws(1).normal(size=(4, 4)) * 4).astype(
        np.float32
    )  # grown as in a training that diverges
    update = fit(target, reference, np.zeros((5, 4), np.int64), 4, *plainly(target))
    writer = Writer()
    code_update(writer, update, 4)
    found = code_update(Reader(writer.finish()), None, 4)
    assert found.gain == update.gain
    assert np.array_equal(found.left, update.left) and np.array_equal(found.right, update.right)


def test_a_first_packet_may_be_made_with_several_threads() -> None:
    """It has no directions yet, and so wide a batch that they are sought in a part of it."""
    values = torch.from_numpy(draws(0).normal(size=(600, 640)) * np.geomspace(10, 0.01, 640)).float()
    batch, threads = Ragged(values, torch.tensor([300, 300])), torch.get_num_threads()
    codec = parse("klt > uniform(0.3) > range")
    try:
        torch.set_num_threads(2)
        packet = codec.encode(batch, [0, 1], Context(references=MemoryReferences())).packet
    finally:
        torch.set_num_threads(threads)
    arrived = codec.decode(packet, MemoryReferences()).batch.values
    assert (arrived - values).norm() < 0.2 * values.norm()
