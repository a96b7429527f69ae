"""Each aggregator's formula, by hand."""

import pytest
import torch

from splitcom.aggregation import FedAvg, Update, parse
from splitcom.aggregation.fedadam import FedAdam
from splitcom.aggregation.fedavgm import FedAvgM
from splitcom.aggregation.median import Median
from splitcom.aggregation.trimmed_mean import TrimmedMean
from splitcom.errors import SpecError


def merged(aggregator, old, *new):
    """One number, of updates `(value, tokens)`."""
    updates = [
        Update({"a": torch.tensor([value])}, tokens, 1, client=str(index))
        for index, (value, tokens) in enumerate(new)
    ]
    return aggregator.merge({"a": torch.tensor([old])}, updates)["a"].item()


def test_fedavg_weighs_tokens_whatever_their_scale():
    assert merged(FedAvg(), 9.0, (1.0, 3), (5.0, 1)) == 2.0
    assert merged(FedAvg(), 9.0, (1.0, 3000), (5.0, 1000)) == 2.0


def test_fedavgm_goes_on_in_the_direction_it_went():
    aggregator = FedAvgM(momentum=0.5, lr=2.0)
    assert merged(aggregator, 1.0, (2.0, 10)) == 3.0  # v = 1
    assert merged(aggregator, 3.0, (3.0, 10)) == 4.0  # v = 0.5
    assert merged(FedAvgM(momentum=0.0), 1.0, (2.0, 3), (6.0, 1)) == 3.0


def test_fedadam_is_the_paper_s():
    aggregator = FedAdam(lr=0.1, beta1=0.5, beta2=0.75, tau=0.5)
    first = 0.1 * 0.5 / ((0.75 * 0.25 + 0.25) ** 0.5 + 0.5)
    assert merged(aggregator, 0.0, (1.0, 10)) == pytest.approx(first)
    second = 0.1 * (0.25 + 0.5 * 2) / ((0.75 * 0.4375 + 0.25 * 4) ** 0.5 + 0.5)
    assert merged(aggregator, 1.0, (3.0, 10)) == pytest.approx(1 + second)


def test_the_median_of_an_even_number_lies_between_the_two_in_the_middle():
    assert merged(Median(), 9.0, (5.0, 1), (1.0, 99), (3.0, 1)) == 3.0
    assert merged(Median(), 9.0, (5.0, 1), (1.0, 99), (3.0, 1), (100.0, 1)) == 4.0


@pytest.mark.parametrize(
    ("part", "count", "expected", "least"),
    [(0.2, 5, 14 / 3, 5), (0.4, 5, 4.0, 3), (0.2, 4, 15 / 4, 5), (0.3, 10, 120 / 4, 4)],
)
def test_the_trimmed_mean_leaves_out_a_part_at_either_end(part, count, expected, least):
    values = [(float(2**i), 1) for i in reversed(range(count))]
    assert merged(TrimmedMean(part), 0.0, *values) == pytest.approx(expected)
    assert TrimmedMean(part).min_updates == least


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("fedavgm(momentum=1.0)", 17, "momentum must lie in 0 to 1, without 1; it is 1.0"),
        ("fedavgm(0.9, 0)", 13, "lr must be above 0; it is 0.0"),
        ("fedadam(tau=0)", 12, "tau must be above 0; it is 0.0"),
        ("fedadam(beta1=-0.1)", 14, "beta1 must lie in 0 to 1, without 1; it is -0.1"),
        ("fedadam(beta2=1)", 14, "beta2 must lie in 0 to 1, without 1; it is 1.0"),
        ("trimmed_mean(0.5)", 13, "part must lie between 0 and 0.5; it is 0.5"),
        ("trimmed_mean", 0, "trimmed_mean needs part: trimmed_mean(part)"),
        ("fedavg(0.9)", 7, "too many arguments: fedavg()"),
        ("medain", 0, "no aggregator 'medain'; did you mean 'median'?"),
        ("fedavg > median", 7, "expected the end, found '>'"),
    ],
)
def test_errors_point_at_the_place(text, place, message):
    with pytest.raises(SpecError) as caught:
        parse(text)
    assert message in str(caught.value) and caught.value.position == place


def test_the_canonical_text_leaves_defaults_out():
    assert str(parse("fedavgm( lr=1, momentum = 0.9 )")) == "fedavgm"
    assert str(parse("fedadam(0.02, tau=0.5)")) == "fedadam(lr=0.02, tau=0.5)"
