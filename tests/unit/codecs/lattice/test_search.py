"""The sender's choices: what is searched for, what is read for it, and where pointers go."""

import numpy as np
import pytest
import torch

from splitcom.codecs import Context, MemoryReferences, Ragged, parse
from splitcom.codecs.lattice import predict
from splitcom.codecs.lattice.predict import Window, _choose, spent
from splitcom.codecs.lattice.tokens import Recent

from .kept import window_of


@pytest.fixture
def searched(monkeypatch):
    """How many tokens each search was for."""
    counts = []
    nearest = Window.nearest

    def counting(self, coordinates, *arguments):
        counts.append(len(coordinates))
        return nearest(self, coordinates, *arguments)

    monkeypatch.setattr(Window, "nearest", counting)
    return counts


def tokens(seed, count=256):
    return (100 * np.random.default_rng(seed).standard_normal((count, 16))).round().astype(np.float32)


UNITS = np.full((256, 1), 8, np.float32)
ALL = np.ones(256, np.bool_)  # tokens have a prediction of their own


def test_what_is_nowhere_is_searched_for_by_an_eighth(searched):
    coordinates = tokens(0)
    own = coordinates + 12 * np.sign(tokens(1))  # a step and a half off: its codes cost more than a pointer
    modes = _choose(coordinates, own, ALL, window_of(tokens(2)), UNITS)
    assert searched == [256 // predict._TRIED]
    assert not modes.jump.any()


def test_where_some_jump_all_are_searched_for(searched):
    window = tokens(0)
    coordinates = window[::-1].copy()  # so that no run goes on
    modes = _choose(coordinates, tokens(1), ALL, window_of(window), UNITS)
    assert searched == [32, 224]
    assert modes.jump.sum() > 250


def test_short_samples_are_searched_for_at_once(searched):
    coordinates, few = tokens(0), predict._MANY - 1
    _choose(coordinates[:few], tokens(1)[:few], ALL[:few], window_of(tokens(2)), UNITS[:few])
    assert searched == [few]


@pytest.mark.parametrize("predicted", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("repeats", [0.1, 0.5, 0.95])
def test_choices_are_those_of_one_token_after_the_other(repeats, predicted):
    draws = np.random.default_rng(3)
    window, num_tokens = tokens(0), 200
    # runs of tokens of the window, which are broken off now and then, and some that nothing is like
    places = np.zeros(num_tokens, np.int64)
    for index in range(1, num_tokens):
        goes_on = draws.random() < repeats
        places[index] = min(places[index - 1] + 1, 255) if goes_on else draws.integers(256)
    coordinates = window[places] + 2 * tokens(1)[:num_tokens] / 100
    coordinates[draws.random(num_tokens) < 0.1] *= 0.05
    own = coordinates + tokens(2)[:num_tokens] * (draws.random((num_tokens, 1)) < 0.4)
    has_own = draws.random(num_tokens) < predicted
    units = UNITS[:num_tokens]
    modes = _choose(coordinates, own, has_own, window_of(window), units)

    plain = window_of(window)
    zero = spent(coordinates, units) + predict._FLAG_BITS
    owns = np.where(has_own, spent(coordinates - own, units), np.float32(np.inf))
    jumps, best = predict._jumps(coordinates, own, has_own, plain, units, owns)
    pointer, chosen = 255, []
    for index in range(num_tokens):
        pointed = spent(coordinates[index] - plain.at(np.array([pointer]))[0], units[index])
        costs = [owns[index] if has_own[index] else pointed, jumps[index], zero[index], pointed + 4]
        chosen.append(int(np.argmin(costs)))
        pointer = (best[index] if chosen[-1] == 1 else pointer) + 1
    chosen = np.array(chosen)
    assert {0, 1, 2} <= set(chosen.tolist())
    assert np.array_equal(modes.usual, chosen == 0)
    assert np.array_equal(modes.jump, chosen == 1)
    assert np.array_equal(modes.zero, chosen == 2)
    assert np.array_equal(modes.distances, 255 - best[chosen == 1])


def test_a_receiver_reads_recent_tokens_only_if_they_are_named(monkeypatch):
    reads, read = [], Recent.read

    def counting(self, rows):
        reads.append(self.size)
        read(self, rows)

    monkeypatch.setattr(Recent, "read", counting)
    codec = parse("predict > klt > uniform(0.3) > range")
    sender, receiver = MemoryReferences(), MemoryReferences()
    first = np.random.default_rng(0).standard_normal((80, 16)).astype(np.float32)
    counts = []
    for values, ids in ((first, [1, 2]), (first, [1, 2]), (first[::-1].copy(), [3, 4])):
        batch = Ragged(torch.from_numpy(values), torch.tensor([40, 40]))
        encoded = codec.encode(batch, ids, Context(sender))
        reads.clear()
        decoded = codec.decode(encoded.packet, receiver)
        assert torch.equal(decoded.batch.values, encoded.reconstruction.values)
        counts.append(list(reads))
    # what is visited again needs none; the tokens of the third packet are those of the first backwards
    assert counts[1:] == [[], [80]]


class Counting(MemoryReferences):
    """Counts how many of its samples are looked at one after the other."""

    looked_at = 0

    def __iter__(self):
        return self.counted(super().__iter__())

    def newest(self):
        return self.counted(super().newest())

    def counted(self, samples):
        for sample in samples:
            self.looked_at += 1
            yield sample


@pytest.mark.parametrize(("window", "num_found"), [(0, 0), (4, 1), (5, 1), (11, 2), (12, 3), (999, 18)])
def test_of_many_samples_held_no_more_are_looked_at_than_the_window_holds(window, num_found):
    codec, store = parse(f"predict(window={window}) > klt > uniform(0.3) > range"), Counting()
    lengths = torch.tensor([3] * 15 + [4] * 3)
    values = torch.randn(int(lengths.sum()), 8, generator=torch.Generator().manual_seed(0))
    codec.encode(Ragged(values, lengths), range(18), Context(store))
    recent = Recent.of(store, window)
    assert list(recent.ids) == [*range(18)][18 - num_found :]
    assert recent.lengths.tolist() == lengths[18 - num_found :].tolist()
    store.looked_at = 0
    codec.encode(Ragged(values[:2], torch.tensor([2])), [99], Context(store))
    assert store.looked_at <= num_found + 1
