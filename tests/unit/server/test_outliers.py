"""Who is unlike the others, by what has come of a round."""

import logging

import pytest
import torch

from splitcom.aggregation.comparison import Compared
from splitcom.server.outliers import Brought, Seen, told


def seen(*batches):
    one = Seen()
    for values in batches:
        one.add(values)
    return one


def tokens(seed, scale=1.0, mean=2.0):
    return scale * (mean + torch.randn(40, 8, generator=torch.Generator().manual_seed(seed)))


def round_of(**changed):
    others = {f"client-{i}": Brought(seen(tokens(i)), seen(tokens(i)), 3.0 + i / 10) for i in range(4)}
    return others | changed


def test_what_comes_in_several_batches_is_what_comes_in_one_and_padding_says_nothing():
    values = tokens(1)
    one, many = seen(values), seen(values[:7], torch.zeros(3, 8), values[7:])
    assert many.tokens == one.tokens == 40
    assert many.norm == pytest.approx(one.norm) == pytest.approx(float(values.norm(dim=1).log().mean().exp()))
    assert torch.allclose(many.total, one.total, atol=1e-4)


def test_clients_that_are_alike_are_not_spoken_of(caplog):
    lines = told(1, round_of(), {})
    assert all(line["unlike"] == [] for line in lines.values()) and not caplog.records
    assert lines["client-0"]["against_others"].keys() == {
        "activation_norm", "gradient_norm", "loss", "activation_cosine",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("hostile", "kinds"),
    [
        (Brought(seen(tokens(9, 1000.0)), seen(), 3.0), ["activation_norm"]),
        (Brought(seen(tokens(9, 0.1)), seen(), 3.0), ["activation_norm"]),
        (Brought(seen(tokens(9, mean=0.0)), seen(), 3.0), ["activation_cosine"]),
        (Brought(seen(tokens(9)), seen(tokens(9, 50.0)), 3.0), ["gradient_norm"]),
        (Brought(seen(tokens(9)), seen(), 9.0), ["loss"]),
        (Brought(seen(tokens(9, 4.0)), seen(), 5.0), []),
    ],
)
def test_one_that_is_unlike_the_others_is_named_once_with_the_number(hostile, kinds, caplog):
    with caplog.at_level(logging.WARNING):
        lines = told(4, round_of(mallory=hostile), {})
    named = {client: line["unlike"] for client, line in lines.items() if line["unlike"]}
    assert named == ({"mallory": kinds} if kinds else {})
    if not kinds:
        return
    [record] = caplog.records
    assert record.getMessage().startswith(f"mallory, round 4: unlike the others: {kinds[0]} ")


def test_updates_are_told_of_with_their_norm(caplog):
    updates = {"client-0": Compared(0.5, 1.0, 0.6), "client-1": Compared(2.0, 6.0, -0.2)}
    lines = told(2, round_of(), updates)
    assert lines["client-0"]["update_norm"] == 0.5 and lines["client-2"]["update_norm"] is None
    assert lines["client-1"]["unlike"] == ["update_norm", "update_cosine"]
    assert "update_norm 6 times theirs; update_cosine -0.2" in caplog.text


def test_among_small_losses_none_is_far_from_the_others(caplog):
    small = {
        name: Brought(seen(tokens(1)), seen(), loss)
        for name, loss in zip("abc", (0.1, 0.1, 0.9), strict=True)
    }
    assert all(line["unlike"] == [] for line in told(1, small, {}).values()) and not caplog.records


def test_of_two_nobody_can_tell_which_is_the_outlier(caplog):
    two = {"a": Brought(seen(tokens(1)), seen(), 3.0), "b": Brought(seen(tokens(2, 1000.0)), seen(), 90.0)}
    assert all(line["against_others"] == {} for line in told(1, two, {}).values()) and not caplog.records
