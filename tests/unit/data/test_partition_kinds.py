"""What a partition's kinds promise, its table and its errors. The laws of all kinds: tests/property."""

from collections import Counter

import pytest
import torch

from splitcom.data import Row, Sample, partition
from splitcom.errors import DataError


def make(labels: str, lengths: list[int] | None = None) -> list[Sample]:
    """One sample per letter, with that letter as its column "label"."""
    sizes = lengths or [3] * len(labels)
    return [
        Sample(
            i,
            torch.zeros(n, dtype=torch.int64),
            torch.zeros(n, dtype=torch.int64),
            Row(i, "", "", {"label": c}),
        )
        for i, (c, n) in enumerate(zip(labels, sizes, strict=True))
    ]


def test_iid_sizes_differ_by_one_at_most():
    sizes = [len(part) for part in partition(make("a" * 11), 4).parts]
    assert sorted(sizes) == [2, 3, 3, 3]


def test_a_column_value_lives_at_one_client_and_sizes_stay_close():
    split = partition(make("a" * 5 + "b" * 4 + "c" * 3 + "d" * 2), 2, "column", column="label")
    owners = {label: {s.client for s in split.summary if s.groups[label]} for label in "abcd"}
    assert all(len(clients) == 1 for clients in owners.values())
    assert [s.num_samples for s in split.summary] == [7, 7]


def skew(alpha: float) -> float:
    """Mean share of the most frequent label at a client."""
    split = partition(make("abcd" * 100), 4, "dirichlet_label", column="label", alpha=alpha, seed=1)
    return sum(max(s.groups.values()) / s.num_samples for s in split.summary) / 4


def test_a_small_alpha_is_more_skewed_than_a_large_one():
    assert skew(0.1) > 0.6
    assert skew(1000) < 0.3


def test_length_skew_goes_by_length():
    lengths = [5 + 10 * (i % 4) for i in range(400)]
    split = partition(make("a" * 400, lengths), 4, "dirichlet_length", alpha=0.1, seed=1)
    means = [s.num_tokens / s.num_samples for s in split.summary]
    assert max(means) > 1.5 * min(means)
    assert set(Counter(g for s in split.summary for g in s.groups)) == {
        "5 tokens", "6-15 tokens", "16-25 tokens", "26-35 tokens",
    }  # fmt: skip


def test_the_table_counts_samples_tokens_and_groups():
    split = partition(make("abbb", [1, 2, 3, 4]), 2, "column", column="label")
    assert str(split).splitlines() == [
        "client  samples  tokens  a  b",
        "     0        3       9  0  3",
        "     1        1       1  1  0",
    ]


def test_a_table_of_many_values_stays_narrow():
    split = partition(make("aabbccddeeffghi"), 1, column="label")
    assert str(split).splitlines()[0].split() == ["client", "samples", "tokens", *"abcdef", "other"]
    assert str(split).splitlines()[1].split()[-1] == "3"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clients": 5}, "4 samples to train on, too few for 5 clients with at least 1 each"),
        ({"clients": 2, "min_per_client": 3}, "at least 3 each"),
        ({"clients": 0}, "clients=0"),
        ({"clients": 2, "alpha": 0.0}, "alpha=0"),
        ({"clients": 2, "kind": "column"}, "needs a column"),
        (
            {"clients": 2, "kind": "dirichlet_label", "column": "lable"},
            "no column 'lable'.*did you mean 'label'",
        ),
        ({"clients": 3, "kind": "column", "column": "label"}, "has 2 values, too few for 3 clients"),
        (
            {"clients": 2, "kind": "column", "column": "label", "min_per_client": 2},
            "a client would have 1 sample,",
        ),
        ({"clients": 2, "kind": "random"}, "unknown partition.kind 'random'; choose iid"),
    ],
)
def test_what_cannot_be_split_is_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        partition(make("abbb"), **arguments)


def test_draws_that_leave_a_client_empty_end_in_an_error():
    with pytest.raises(DataError, match=r"100 draws with alpha=0\.001.*raise partition.alpha"):
        partition(make("a" * 40), 4, "dirichlet_label", column="label", alpha=0.001, min_per_client=10)
