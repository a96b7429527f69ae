"""Laws of every kind of partition, on any data."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitcom.data import Row, Sample, partition
from splitcom.errors import DataError

KINDS = ["iid", "dirichlet_label", "dirichlet_length", "column"]


@st.composite
def samples(draw: st.DrawFn) -> list[Sample]:
    shapes = draw(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(1, 40)), min_size=1, max_size=60))
    made = []
    for index, (label, length) in enumerate(shapes):
        ids = torch.full((length,), index)
        made.append(Sample(7 * index, ids, ids, Row(7 * index, "", "", {"label": label})))
    return made


def split(data, clients, kind, seed, alpha=1.0):
    return partition(data, clients, kind, column="label", alpha=alpha, seed=seed)


@settings(deadline=None, max_examples=60)
@given(
    samples(),
    st.integers(1, 6),
    st.sampled_from(KINDS),
    st.integers(0, 2**32),
    st.sampled_from([0.1, 1.0, 100.0]),
)
def test_every_sample_is_at_exactly_one_client(data, clients, kind, seed, alpha):
    try:
        result = split(data, clients, kind, seed, alpha)
    except DataError:
        # Only too little data for the clients, or too skewed a draw, may be refused.
        assert kind != "iid" or len(data) < clients
        return
    ids = [sample.sample_id for part in result.parts for sample in part]
    assert sorted(ids) == [sample.sample_id for sample in data]
    assert len(result.parts) == clients
    assert all(result.parts)
    for part, summary in zip(result.parts, result.summary, strict=True):
        assert [s.sample_id for s in part] == sorted(s.sample_id for s in part)
        assert summary.num_samples == len(part) == summary.groups.total()
        assert summary.num_tokens == sum(s.num_tokens for s in part)
    again = split(data, clients, kind, seed, alpha)
    assert [[s.sample_id for s in part] for part in again.parts] == [
        [s.sample_id for s in p] for p in result.parts
    ]
    assert str(again) == str(result)


@settings(deadline=None, max_examples=30)
@given(samples(), st.sampled_from(KINDS), st.integers(0, 99))
def test_more_clients_than_samples_is_an_error(data, kind, seed):
    with pytest.raises(
        DataError, match=f"{len(data)} samples? to train on, too few for {len(data) + 1} clients"
    ):
        split(data, len(data) + 1, kind, seed)
