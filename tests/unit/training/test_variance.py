"""How far clients are apart, from few numbers of each: never less than it is, and nearly that where it can be."""

import numpy as np
import pytest
import torch

from splitcom.config.federation import VarianceConfig
from splitcom.errors import PacketError
from splitcom.training.variance import (
    Ams,
    Linear,
    Naive,
    estimate_of,
    exact_variance,
    flat_of,
    num_sketch_bytes,
)


def changes(num_clients=4, count=20_000, shared=3.0):
    """What clients that mostly move together make of an adapter; squared norms of about shared ** 2 + 1."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(count, generator=generator, dtype=torch.float64)
    own = torch.randn(num_clients, count, generator=generator, dtype=torch.float64)
    return list((shared * common + own) / count**0.5)


def estimated(estimate, found):
    sent = [estimate.pack(change) for change in found]
    assert {len(data) for data in sent} == {estimate.num_bytes}
    return estimate.variance([estimate.unpack(data) for data in sent])


def test_the_variance_is_that_of_the_mean_square_less_the_square_of_the_mean():
    found = changes()
    mean = torch.stack(found).mean(0)
    by_definition = sum(float(change.square().sum()) for change in found) / 4 - float(mean.square().sum())
    assert exact_variance(found) == pytest.approx(by_definition, rel=1e-9)
    assert exact_variance(found) == pytest.approx(0.75, rel=0.05)  # of four with a variance of 1


def test_a_sketch_of_6_kb_comes_near_the_exact_variance_and_one_number_along_the_mean_to_it():
    found = changes()
    mean = torch.stack(found).mean(0)
    exact, square = exact_variance(found), float(mean.square().sum())
    sketch = Ams(3, 500, seed=1)
    assert sketch.num_bytes == 4 + 6000
    around = estimated(sketch, found)
    # off by no more than a row of the sketch is in three standard deviations, and what the divisor takes
    assert abs(around - exact - square * (1 - 1 / (1 + 500**-0.5))) < 3 * (2 / 500) ** 0.5 * square
    along = Linear(mean / mean.norm())
    assert along.num_bytes == 8
    assert estimated(along, found) == pytest.approx(exact, rel=1e-5)
    assert estimated(Naive(), found) == pytest.approx(exact + square, rel=1e-6)
    assert Naive().num_bytes == 4


def test_a_row_of_the_sketch_is_an_unbiased_estimate_of_the_square():
    change = changes()[0]
    rows = np.array(
        [Ams(1, 20, seed)._square(Ams(1, 20, seed)._linear(change).numpy()) for seed in range(200)]
    )
    found = rows * (1 + 20**-0.5)
    assert found.mean() == pytest.approx(float(change.square().sum()), rel=4 * (2 / 20 / 200) ** 0.5)


def test_a_sketch_is_linear_so_the_mean_of_sketches_is_that_of_the_mean():
    found, sketch = changes(), Ams(2, 50, seed=3)
    of_each = torch.stack([sketch._linear(change) for change in found]).mean(0)
    assert torch.allclose(of_each, sketch._linear(torch.stack(found).mean(0)), atol=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_along_any_direction_the_estimate_is_no_less_than_the_variance(seed):
    found = changes()
    direction = torch.randn(20_000, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert estimated(Linear(direction / direction.norm()), found) >= exact_variance(found)


def test_one_client_is_not_apart_from_itself():
    (change,) = changes(1)
    assert exact_variance([change]) == 0
    assert estimated(Linear(change / change.norm()), [change]) == pytest.approx(0, abs=1e-5)


def test_the_direction_is_the_last_move_or_else_one_that_all_draw_alike():
    settings = VarianceConfig(estimate="linear")
    before, now = (
        {"b": torch.zeros(2), "a": torch.zeros(1)},
        {"b": torch.tensor([0.0, 4.0]), "a": torch.tensor([3.0])},
    )
    along = estimate_of(settings, 0, 2, now, before)
    assert along.unpack(along.pack(torch.tensor([3.0, 0.0, 4.0], dtype=torch.float64))).tolist() == [
        25.0,
        5.0,
    ]
    drawn = [
        estimate_of(settings, seed, index, now, None)._direction
        for seed, index in ((0, 2), (0, 2), (0, 3), (1, 2))
    ]
    assert all(float(direction.norm()) == pytest.approx(1) for direction in drawn)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2]) and not torch.equal(drawn[0], drawn[3])
    still = estimate_of(settings, 0, 2, now, now)  # nothing has moved: as if nothing were known
    assert estimated(still, [flat_of(now)]) == 25.0


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([1.0], "4 bytes that tell of a change; 8 are due"),
        ([-1.0, 0.0], "norm is -1"),
        ([1.0, float("nan")], "finite"),
    ],
)
def test_numbers_that_cannot_be_are_refused(numbers, message):
    with pytest.raises(PacketError, match=message):
        Linear(torch.ones(1)).unpack(np.array(numbers, "<f4").tobytes())


def test_no_sketch_is_larger_than_is_believed():
    for estimate in (Naive(), Linear(torch.ones(3)), Ams(3, 500, 0)):
        assert estimate.num_bytes <= num_sketch_bytes(VarianceConfig())
    assert Linear(torch.ones(3)).num_bytes <= num_sketch_bytes(VarianceConfig(depth=1, width=1))
