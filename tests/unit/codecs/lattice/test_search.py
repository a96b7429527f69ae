"""Long samples with references are searched for similar tokens only if an eighth of their tokens finds some."""

import numpy as np
import pytest

from splitcom.codecs.lattice import predict
from splitcom.codecs.lattice.predict import Window, _choose


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


def test_what_is_nowhere_is_searched_for_by_an_eighth(searched):
    coordinates = tokens(0)
    own = coordinates + 12 * np.sign(tokens(1))  # a step and a half off: its codes cost more than a pointer
    modes = _choose(coordinates, own, Window(tokens(2), 0), UNITS)
    assert searched == [256 // predict._TRIED]
    assert not modes.jump.any()


def test_where_some_jump_all_are_searched_for(searched):
    window = tokens(0)
    coordinates = window[::-1].copy()  # so that no run goes on
    modes = _choose(coordinates, tokens(1), Window(window, 0), UNITS)
    assert searched == [32, 224]
    assert modes.jump.sum() > 250


def test_short_samples_are_searched_for_at_once(searched):
    coordinates, few = tokens(0), predict._MANY - 1
    _choose(coordinates[:few], tokens(1)[:few], Window(tokens(2), 0), UNITS[:few])
    assert searched == [few]
