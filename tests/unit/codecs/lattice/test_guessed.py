"""Guesses of new samples: both ends round them alike although their floats differ, or notice that they do not."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitcom.codecs import Context, MemoryReferences, Ragged, parse
from splitcom.codecs.lattice.basis import Basis
from splitcom.codecs.lattice.coder import Reader, Writer
from splitcom.codecs.lattice.guessed import _LONGEST, _MARGIN, _shifts_of, code_guessed, new_model
from splitcom.errors import PacketError, UnknownReference

from ....guesses import Told

CODEC = "predict(guess=labels) > klt > uniform(0.3) > range"
PLAIN = "predict > klt > uniform(0.3) > range"
LENGTHS = torch.tensor([7, 1, 12, 9])
IDS = [4, 9, 2, 70_000]
TOKENS = int(LENGTHS.sum())


def values_of(seed: int, hidden: int = 24) -> torch.Tensor:
    return torch.randn(TOKENS, hidden, generator=torch.Generator().manual_seed(seed))


def told(values: torch.Tensor, share: float = 0.7, seed: int = 0) -> Told:
    return Told(IDS, LENGTHS, values, np.random.default_rng(seed).random(TOKENS) < share)


def differs(values: torch.Tensor, most: float, seed: int) -> torch.Tensor:
    return values * (
        1 + most * (2 * torch.rand(values.shape, generator=torch.Generator().manual_seed(seed)) - 1)
    )


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.floats(0, 1), st.sampled_from([0.0, 1e-7, 1e-6]), st.floats(1e-3, 1e3))
def test_ends_whose_guesses_differ_by_rounding_hold_the_same(
    seed: int, share: float, most: float, scale: float
) -> None:
    codec, there, here = parse(CODEC), MemoryReferences(), MemoryReferences()
    for visit in range(2):
        exact = scale * values_of(seed + visit)
        near = exact + 0.05 * scale * values_of(seed + 10)
        guess = told(near, share, seed)
        encoded = codec.encode(Ragged(exact, LENGTHS), IDS, Context(there, guess=guess))
        other = told(differs(near, most, seed), share, seed)
        decoded = codec.decode(encoded.packet, here, guess=other)
        assert torch.equal(decoded.batch.values, encoded.reconstruction.values)
        assert [one and one.checksum for one in there.peek(IDS)] == [
            one and one.checksum for one in here.peek(IDS)
        ]


def test_a_good_guess_spares_bytes_and_a_bad_one_costs_few() -> None:
    exact, lengths = torch.cat([values_of(seed) for seed in range(20)]), LENGTHS * 20
    all_of_it, sizes = np.ones(len(exact), np.bool_), {}
    for name, guess in {
        "none": None,
        "good": Told(IDS, lengths, exact + 0.05 * exact.roll(1, 0), all_of_it),
        "bad": Told(IDS, lengths, exact.roll(1, 0), all_of_it),
    }.items():
        context = Context(MemoryReferences(), guess=guess)
        sizes[name] = len(parse(CODEC).encode(Ragged(exact, lengths), IDS, context).packet)
    assert sizes["good"] < 0.5 * sizes["none"]
    assert sizes["bad"] < 1.05 * sizes["none"]


def test_guesses_spare_as_much_beside_samples_that_are_known() -> None:
    exact, lengths = torch.cat([values_of(seed) for seed in range(20)]), LENGTHS * 20
    some, sizes = int(lengths[:2].sum()), {}
    for guessed in (False, True):
        codec, store = parse(CODEC), MemoryReferences()
        told_of_all = Told(IDS, lengths, exact + 0.05 * exact.roll(1, 0), np.full(len(exact), guessed))
        codec.encode(Ragged(exact[:some], lengths[:2]), IDS[:2], Context(store))
        context = Context(store, guess=told_of_all)
        sizes[guessed] = len(codec.encode(Ragged(exact, lengths), IDS, context).packet)
    assert sizes[True] < 0.5 * sizes[False]


@pytest.mark.parametrize("theirs", [None, "another"])
def test_who_cannot_guess_the_same_says_so_and_is_sent_all_of_it(theirs) -> None:
    codec, there, here, exact = parse(CODEC), MemoryReferences(), MemoryReferences(), values_of(0)
    batch = Ragged(exact, LENGTHS)
    packet = codec.encode(batch, IDS, Context(there, guess=told(exact))).packet
    other = None if theirs is None else told(exact + 0.5)
    with pytest.raises(UnknownReference) as lost:
        codec.decode(packet, here, guess=other)
    assert sorted(lost.value.sample_ids) == sorted(IDS)
    assert not len(here) and here.flow is None
    again = codec.encode(batch, IDS, Context(there, guess=told(exact), self_contained=True))
    decoded = codec.decode(again.packet, here, guess=other)
    assert torch.equal(decoded.batch.values, again.reconstruction.values)


def test_a_packet_of_another_width_than_the_model_is_refused() -> None:
    guess = told(values_of(0))
    packet = (
        parse(CODEC)
        .encode(Ragged(values_of(0), LENGTHS), IDS, Context(MemoryReferences(), guess=guess))
        .packet
    )
    with pytest.raises(PacketError, match="packet of width 24 of tokens of width 30"):
        parse(CODEC).decode(packet, MemoryReferences(), guess=told(values_of(0, 30)))


def test_only_samples_without_a_reference_are_guessed() -> None:
    codec, there, here, exact = parse(CODEC), MemoryReferences(), MemoryReferences(), values_of(0)
    some = int(LENGTHS[:2].sum())
    first = codec.encode(Ragged(exact[:some], LENGTHS[:2]), IDS[:2], Context(there))
    codec.decode(first.packet, here)
    asked = []

    class Asked(Told):
        def of(self, ids, lengths):
            asked.append(list(ids))
            return super().of(ids, lengths)

    guess = Asked(IDS, LENGTHS, exact, np.ones(TOKENS, np.bool_))
    encoded = codec.encode(Ragged(exact, LENGTHS), IDS, Context(there, guess=guess))
    decoded = codec.decode(encoded.packet, here, guess=guess)
    assert asked == [IDS[2:], IDS[2:]]
    assert torch.equal(decoded.batch.values, encoded.reconstruction.values)
    assert encoded.guessed and not first.guessed
    known = codec.encode(Ragged(exact, LENGTHS), IDS, Context(there, guess=guess))
    assert not known.guessed
    codec.decode(known.packet, here, guess=guess)
    assert len(asked) == 2


def test_a_codec_that_wants_no_guess_takes_none() -> None:
    batch = Ragged(values_of(0), LENGTHS)
    packets = [
        parse(PLAIN).encode(batch, IDS, Context(MemoryReferences(), guess=guess)).packet
        for guess in (None, told(values_of(0)))
    ]
    assert packets[0] == packets[1]
    assert not parse(PLAIN).wants_guess and parse(CODEC).wants_guess


@pytest.mark.parametrize("directions", [1, 40, 600, 1300])
def test_shifts_keep_coordinates_away_from_borders(directions: int) -> None:
    draws = np.random.default_rng(directions)
    basis = Basis(
        np.zeros(1400, np.int64), np.rint(300 * draws.standard_normal((directions, 1400))).astype(int)
    )
    values = torch.from_numpy(draws.standard_normal((60, 1400))).float()
    writer = Writer()
    kept, coordinates = code_guessed(writer, new_model(), basis, 0.05, values, sends=True)
    assert kept.mean() > 0.95
    moved = differs(values, 1e-7, 1)
    reader = Reader(writer.finish())
    read, again = code_guessed(reader, new_model(), basis, 0.05, moved, sends=False)
    assert np.array_equal(read, kept) and np.array_equal(again, coordinates)
    exact = basis.exact_coordinates(values, 0.05).numpy()[kept]
    assert np.abs(exact - coordinates).max() <= 1 + 7 / 32  # half of a quarter of a step, and the shift


def test_what_has_no_safe_shift_is_no_guess() -> None:
    far = np.array([[_LONGEST + 1.0], [np.nan], [1.0], [0.25]])
    assert _shifts_of(far).tolist() == [15, 15, 1, 0]  # a border lies at 1, and 1/32 beside it is safe
    near = np.linspace(1 - _MARGIN, 1 + _MARGIN, 5)[:, None]
    assert (_shifts_of(near) > 0).all()
