"""Discounting what comes late, and merging it with any aggregator."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitcom.aggregation import Discount, FedAvg, Update
from splitcom.aggregation.median import Median


def update(value, num_labels=10, version=5, client=""):
    return Update({"a": torch.tensor([value])}, num_labels, version, client=client)


def merge(aggregator, value, version, updates, discount):
    shared = {"a": torch.tensor([value])}
    return aggregator.merge(shared, [discount.apply(one, shared, version) for one in updates])["a"].item()


def test_one_update_alone_is_fedasync():
    discount = Discount(0.6, 1.0)
    assert merge(FedAvg(), 1.0, 5, [update(2.0)], discount) == pytest.approx(1 + 0.6)
    assert merge(FedAvg(), 1.0, 7, [update(2.0)], discount) == pytest.approx(1 + 0.6 / 3)
    assert merge(FedAvg(), 1.0, 7, [update(2.0, num_labels=999)], discount) == pytest.approx(1 + 0.2)
    assert merge(FedAvg(), 1.1, 5, [update(2.7)], Discount(1.0, 0.5)) == torch.tensor(2.7).item()


def test_a_buffer_is_weighted_by_tokens_and_staleness():
    updates = [update(1.0, 30, 8), update(4.0, 10, 5)]
    merged = merge(FedAvg(), 0.0, 8, updates, Discount(1.0, 0.5))
    assert merged == pytest.approx(0.75 * 1.0 + 0.25 * 0.5 * 4.0)


def test_a_robust_aggregator_gets_what_staleness_has_left():
    updates = [update(8.0, version=4), update(4.0, version=1), update(3.0, version=4)]
    assert merge(Median(), 0.0, 4, updates, Discount(1.0, 0.5)) == 3.0  # of 8, 2 and 3


@settings(deadline=None, max_examples=60)
@given(
    values=st.lists(
        st.tuples(st.floats(-9, 9), st.integers(1, 10**6), st.integers(0, 50)), min_size=1, max_size=5
    ),
    mixing=st.floats(0.01, 1.0),
    exponent=st.floats(0.0, 3.0),
)
def test_a_merged_adapter_lies_between_its_parts_and_older_updates_weigh_less(values, mixing, exponent):
    discount = Discount(mixing, exponent)
    updates = [update(value, tokens, 50 - age) for value, tokens, age in values]
    merged = merge(FedAvg(), 0.0, 50, updates, discount)
    parts = [0.0, *(value for value, _, _ in values)]
    assert min(parts) - 1e-4 <= merged <= max(parts) + 1e-4
    assert 0 < discount.part_of(4) <= discount.part_of(3) <= mixing
