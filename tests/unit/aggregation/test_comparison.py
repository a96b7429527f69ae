"""How updates lie among the others, by hand."""

import pytest
import torch

from splitcom.aggregation import Update
from splitcom.aggregation.comparison import compared

SHARED = {"a": torch.tensor([1.0, 1.0]), "b": torch.tensor([5.0])}


def update(client, x, y):
    return Update({"a": SHARED["a"] + torch.tensor([x, y])}, 10, 1, client=client)


def test_norms_are_beside_the_median_of_the_others_and_directions_count_alike():
    found = compared(SHARED, [update("a", 3.0, 4.0), update("b", 3.0, 4.0), update("x", -3000.0, -4000.0)])
    assert found["x"].norm == pytest.approx(5000.0) and found["x"].ratio == pytest.approx(1000.0)
    assert found["x"].cosine == pytest.approx(-1.0)
    assert found["a"].ratio == pytest.approx(5.0 / 2502.5)
    # Of b and x, which point against one another, nothing is left to compare a with.
    assert abs(found["a"].cosine) < 1e-6


def test_one_that_goes_another_way_is_seen_whatever_its_size():
    others = [update("a", 1.0, 0.1), update("b", 1.0, 0.0), update("c", 1.0, -0.1)]
    for size in (0.01, 1.0, 1e6):
        found = compared(SHARED, [*others, update("x", 0.0, size)])
        assert abs(found["x"].cosine) < 1e-3 and found["a"].cosine > 0.8


def test_what_changes_nothing_has_no_direction_and_of_two_nothing_is_said():
    none = Update({"b": SHARED["b"]}, 10, 1, client="none")
    found = compared(SHARED, [none, update("a", 1.0, 0.0), update("b", 1.0, 0.0)])
    assert found["none"] == (0.0, 0.0, 0.0) and found["a"].cosine == pytest.approx(1.0)
    assert compared(SHARED, [none, update("a", 1.0, 0.0)]) == {}
