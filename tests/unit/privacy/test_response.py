"""Classes under randomised response: how often they are kept, and that nothing draws them twice."""

from collections import Counter
from math import exp, log

import pytest

from splitcom.errors import SpecError
from splitcom.privacy import Randomised, parse_response


@pytest.mark.parametrize("num_classes", [2, 5])
@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_two_classes_lead_to_any_drawn_one_with_probabilities_that_differ_by_epsilon(epsilon, num_classes):
    response, count = Randomised(epsilon), 40_000
    found = [
        Counter(response.drawn([label] * count, range(count), num_classes, key=bytes([label])))
        for label in (0, 1)
    ]

    for drawn in range(num_classes):
        ratio = log(found[0][drawn] / found[1][drawn])
        assert ratio == pytest.approx(epsilon * ((drawn == 0) - (drawn == 1)), abs=0.06)
    assert found[0][0] / count == pytest.approx(response.kept(num_classes), abs=0.01)
    assert response.kept(num_classes) == pytest.approx(exp(epsilon) / (exp(epsilon) + num_classes - 1))


def test_a_sample_has_the_same_class_at_each_visit_also_after_a_crash_and_each_client_others(tmp_path):
    response, samples = Randomised(0.1), range(200)
    one = response.drawn([0] * 200, samples, 3, response.key(tmp_path / "a", "a"))
    again = response.drawn([0] * 200, reversed(samples), 3, response.key(tmp_path / "a", "a"))
    other = response.drawn([0] * 200, samples, 3, response.key(tmp_path / "b", "b"))

    assert one == again[::-1] and one != other
    assert (tmp_path / "a" / "labels.key").stat().st_mode & 0o077 == 0


def test_of_a_seed_the_classes_are_the_same_anywhere(tmp_path):
    keys = [Randomised(1.0, seed=3).key(tmp_path / name, "a") for name in ("one", "other")]

    assert keys[0] == keys[1] != Randomised(1.0, seed=3).key(tmp_path, "b") and not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text", ["randomised(0)", "randomised(31)", "randomised(1, seed=-2)", "gaussian(1, 2)"]
)
def test_what_is_no_noise_of_labels_is_refused(text):
    with pytest.raises(SpecError):
        parse_response(text)
