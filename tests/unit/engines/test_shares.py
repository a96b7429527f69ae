"""What one client's part in a step's gradients may be, by hand."""

import pytest
import torch
from torch import nn

from splitcom.engines.shares import Shares


def summed(max_ratio, parts, num_labels):
    parameter = nn.Parameter(torch.zeros(1))
    shares = Shares([parameter], max_ratio)
    for client, values in parts.items():
        for value in values:  # of several passes
            parameter.grad = torch.tensor([value])
            shares.take(client)
            assert parameter.grad is None
    shares.give(num_labels)
    return None if parameter.grad is None else parameter.grad.item()


def test_a_part_far_above_the_others_is_clipped_by_its_mean_over_labels():
    labels = {"a": 10, "b": 10, "c": 40}
    parts = {"a": [0.5, 0.5], "b": [1.0], "c": [-3.0, -1.0]}  # a tenth per label, each
    assert summed(1.0, parts, labels) == pytest.approx(-2.0)
    assert summed(2.0, parts | {"c": [-400.0]}, labels) == pytest.approx(1.0 + 1.0 - 2 * 0.1 * 40)


def test_of_two_nobody_can_tell_which_is_the_outlier_and_who_is_gone_has_no_part():
    parts = {"a": [1.0], "b": [1.0], "c": [900.0]}
    assert summed(1.0, parts, {"a": 1, "c": 1}) == 901.0
    assert summed(1.0, parts, {"a": 1, "b": 1, "c": 1}) == 3.0
    assert summed(1.0, parts, {}) is None


def test_what_a_step_has_left_that_was_not_taken_is_forgotten():
    parameter = nn.Parameter(torch.zeros(1))
    shares = Shares([parameter], 1.0)
    for value in (5.0, 2.0):
        shares.begin()
        parameter.grad = torch.tensor([value])
        shares.take("a")
    shares.give({"a": 1})
    assert parameter.grad.item() == 2.0
