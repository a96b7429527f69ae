"""Bounds of one update: what stays below is left to the bit, what is above moves the mean by no more than its cap."""

import logging

import pytest
import torch

from splitcom.aggregation import Update, parse
from splitcom.aggregation.bounds import clipped, weighed

SHARED = {"a": torch.zeros(4)}


def update(client, value, num_labels=10):
    return Update({"a": torch.full((4,), value)}, num_labels, 1, client=client)


def test_updates_like_the_others_are_left_to_the_bit(caplog):
    honest = [update("a", 1.0), update("b", -0.3), update("c", 4.9)]
    assert clipped(SHARED, honest, 5.0) == honest
    assert weighed(honest, 10.0) == honest
    assert not caplog.records


@pytest.mark.parametrize("poison", [1000.0, -65000.0, 5.1])
def test_an_outlier_is_named_and_moves_the_mean_by_its_cap_at_most(poison, caplog):
    with caplog.at_level(logging.WARNING):
        merged = parse("fedavg").merge(
            SHARED, clipped(SHARED, [update("a", 1.0), update("b", 1.0), update("mallory", poison)], 5.0)
        )
    assert merged["a"].abs().max() <= (1.0 + 1.0 + 5.0) / 3 + 1e-6
    assert len(caplog.records) == 1
    assert (
        caplog.records[0]
        .getMessage()
        .startswith(f"mallory: its update changes the adapter {abs(poison):.1f} times")
    )


def test_of_two_nobody_can_tell_which_is_the_outlier():
    two = [update("a", 1.0), update("b", 1000.0)]
    assert clipped(SHARED, two, 5.0) == two


def test_updates_that_change_nothing_clip_nobody():
    three = [update("a", 0.0), update("b", 0.0), update("c", 1.0)]
    assert clipped(SHARED, three, 5.0) == three


@pytest.mark.parametrize("claim", [2**32 - 1, 101])
def test_a_claim_of_many_labels_weighs_no_more_than_its_cap(claim, caplog):
    with caplog.at_level(logging.WARNING):
        bounded = weighed([update("a", 0.0), update("b", 0.0), update("mallory", 1.0, claim)], 10.0)
    assert [each.num_labels for each in bounded] == [10, 10, 100]
    assert caplog.records[0].getMessage().startswith(f"mallory: it claims {claim} labels")
