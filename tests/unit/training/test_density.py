"""How dense adapters are sent, by the training loss."""

from math import exp

import pytest

from splitcom.training.density import Density


@pytest.mark.parametrize(
    ("last", "share"), [(2.5, exp(-1.0)), (3.0, 1.0), (3.5, 1.0), (5000.0, 1.0), (-5000.0, 0.0)]
)
def test_it_falls_with_the_loss_and_is_the_most_where_that_rises(last: float, share: float) -> None:
    density = Density(2.0)
    for loss in (3.0, last):
        density.observe([{"loss": loss, "labels": 4}])
    assert density.share == share
