"""The weighted average."""

import pytest
import torch

from splitcom.aggregation.average import weighted_average


def test_the_average_is_weighted_and_independent_of_scale():
    states = [{"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([5.0, 6.0])}]
    expected = torch.tensor([2.0, 3.0])
    assert torch.equal(weighted_average(states, [3, 1])["a"], expected)
    assert torch.equal(weighted_average(states, [300, 100])["a"], expected)
    with pytest.raises(ValueError, match="nothing to average"):
        weighted_average([], [])
