"""Merging what comes late."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitcom.aggregation.staleness import merge, part_of
from splitcom.aggregation.update import Update
from splitcom.config import AsynchronousConfig


def update(value, num_tokens=10, version=5):
    return Update({"a": torch.tensor([value])}, num_tokens, version)


def test_one_update_alone_is_fedasync():
    settings_ = AsynchronousConfig(mixing=0.6, staleness=1.0)
    state = {"a": torch.tensor([1.0])}
    assert merge(state, 5, [update(2.0)], settings_)["a"].item() == pytest.approx(1 + 0.6)
    assert merge(state, 7, [update(2.0)], settings_)["a"].item() == pytest.approx(1 + 0.6 / 3)
    assert merge(state, 7, [update(2.0, num_tokens=999)], settings_)["a"].item() == pytest.approx(1 + 0.2)


def test_a_buffer_is_weighted_by_tokens_and_staleness():
    settings_ = AsynchronousConfig(buffer=2, mixing=1.0, staleness=0.5)
    merged = merge({"a": torch.tensor([0.0])}, 8, [update(1.0, 30, 8), update(4.0, 10, 5)], settings_)
    assert merged["a"].item() == pytest.approx(0.75 * 1.0 + 0.25 * 0.5 * 4.0)


@settings(deadline=None, max_examples=60)
@given(
    values=st.lists(
        st.tuples(st.floats(-9, 9), st.integers(1, 10**6), st.integers(0, 50)), min_size=1, max_size=5
    ),
    mixing=st.floats(0.01, 1.0),
    exponent=st.floats(0.0, 3.0),
)
def test_a_merged_adapter_lies_between_its_parts_and_older_updates_weigh_less(values, mixing, exponent):
    settings_ = AsynchronousConfig(mixing=mixing, staleness=exponent)
    updates = [update(value, tokens, 50 - age) for value, tokens, age in values]
    merged = merge({"a": torch.tensor([0.0])}, 50, updates, settings_)["a"].item()
    parts = [0.0, *(value for value, _, _ in values)]
    assert min(parts) - 1e-4 <= merged <= max(parts) + 1e-4
    assert 0 < part_of(4, settings_) <= part_of(3, settings_) <= mixing
