"""Clipping, noise, and the texts that name them."""

import pytest
import torch

from splitcom.errors import SpecError
from splitcom.privacy import Gaussian, parse
from splitcom.privacy.draws import normal


def test_what_is_larger_than_the_clipping_norm_is_scaled_down_before_noise_comes_to_it():
    values = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])

    released = Gaussian(noise=1e-9, clip=1.0).released(values, 1.0)

    torch.testing.assert_close(released, torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))


@pytest.mark.parametrize("seed", [None, 7, b"key"])
def test_noise_is_normal_and_of_the_deviation_that_is_asked_for(seed):
    drawn = normal((200, 501), seed)

    assert abs(float(drawn.mean())) < 0.02 and abs(float(drawn.std()) - 1) < 0.02
    for bound, part in ((1, 0.6827), (2, 0.9545), (3, 0.9973)):
        assert float((drawn.abs() < bound).double().mean()) == pytest.approx(part, abs=0.01)
    noise = Gaussian(noise=0.5, clip=2.0, seed=seed if isinstance(seed, int) else -1).released(
        torch.zeros(300, 300), 2.0, seed
    )
    assert float(noise.std()) == pytest.approx(1.0, rel=0.02)


def test_noise_is_the_same_again_only_if_a_seed_or_a_key_is_given():
    values = torch.zeros(4, 8)

    assert not Gaussian(1.0, 1.0).released(values, 1.0, 3).equal(Gaussian(1.0, 1.0).released(values, 1.0, 3))
    assert (
        Gaussian(1.0, 1.0, seed=0)
        .released(values, 1.0, 3)
        .equal(Gaussian(1.0, 1.0, seed=0).released(values, 1.0, 3))
    )
    keyed = [Gaussian(1.0, 1.0).released(values, 1.0, key) for key in (b"one", b"one", b"other")]
    assert keyed[0].equal(keyed[1]) and not keyed[0].equal(keyed[2])


def test_a_key_is_a_folders_or_a_seeds_or_new(tmp_path):
    of_folder = [Gaussian(1.0, 1.0).key("a", tmp_path) for _ in range(2)]
    of_seed = [Gaussian(1.0, 1.0, seed=3).key("a", folder) for folder in (tmp_path, None)]

    assert of_folder[0] == of_folder[1] and of_seed[0] == of_seed[1]
    assert len({*of_folder, *of_seed, *(Gaussian(1.0, 1.0).key("a") for _ in range(2))}) == 4


@pytest.mark.parametrize(
    "text",
    [
        "gaussian(0, clip=1)",
        "gaussian(1, clip=0)",
        "gaussian(1, 1, delta=1)",
        "gaussian(1, 1, seed=-2)",
        "laplace(1)",
    ],
)
def test_what_is_no_mechanism_is_refused(text):
    with pytest.raises(SpecError):
        parse(text)
