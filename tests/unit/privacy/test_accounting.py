"""Epsilon: the library's own, on worked examples."""

from math import exp, inf, log, sqrt
from statistics import NormalDist

import pytest

from splitcom.privacy import epsilon

dp_accounting = pytest.importorskip("dp_accounting")
CASES = [(1.0, 1, 1e-5), (4.0, 100, 1e-5), (0.5, 10, 1e-6), (20.0, 5000, 1e-7), (0.05, 3, 1e-6)]


@pytest.mark.parametrize(("multiplier", "releases", "delta"), CASES)
def test_epsilon_is_what_the_library_says(multiplier, releases, delta):
    from dp_accounting import rdp

    accountant = rdp.RdpAccountant()
    for _ in range(releases):
        accountant.compose(dp_accounting.GaussianDpEvent(multiplier))

    assert epsilon(multiplier, releases, delta) == pytest.approx(accountant.get_epsilon(delta), rel=1e-9)


@pytest.mark.parametrize(("multiplier", "releases", "delta"), CASES)
def test_epsilon_is_no_lower_than_the_exact_one_and_not_far_above(multiplier, releases, delta):
    """So many releases of one multiplier are one of multiplier / sqrt(releases): Balle and Wang 2018, theorem 8."""
    one, normal = multiplier / sqrt(releases), NormalDist().cdf

    def holds(value):
        return normal(0.5 / one - value * one) - exp(value + _log_normal(-0.5 / one - value * one)) <= delta

    low, high = 0.0, 1e6
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)

    assert high <= epsilon(multiplier, releases, delta) * (1 + 1e-6)
    assert epsilon(multiplier, releases, delta) < 1.25 * high + 0.1


def test_nothing_released_costs_nothing():
    assert epsilon(1.0, 0, 1e-6) == 0.0


def _log_normal(value):
    """The logarithm of the normal distribution's function, also far out, where it is too small for a float."""
    if value > -30:
        return log(NormalDist().cdf(value)) if value > -8 else _tail(value)
    return _tail(value)


def _tail(value):
    return -value * value / 2 - log(-value) - log(2 * 3.141592653589793) / 2 if value < 0 else -inf
