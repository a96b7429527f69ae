"""Which evaluation was the best, over the same rows, and when there has been none for too long."""

import torch

from splitcom.config import TrainingConfig
from splitcom.server.best import Best
from splitcom.server.evaluation import HeldOut

ROWS = {"a": 4, "b": 4}


def observed(losses, rows=None, by_client=None, **settings):
    best = Best(TrainingConfig(**settings))
    for index, loss in enumerate(losses):
        found = HeldOut(loss, 0.0, ROWS if rows is None else rows[index])
        each = dict.fromkeys(found.rows, loss) if by_client is None else by_client[index]
        best.observe(index, found, each, lambda index=index: {"x": torch.full((2,), float(index))})
    return best


def test_the_lowest_loss_is_kept_and_of_equal_ones_the_first():
    best = observed([3.0, 2.0, 1.5, 1.5, 2.5], keep="best")
    assert best.round == 2 and best.adapter["x"].tolist() == [2.0, 2.0]
    assert observed([3.0, 2.0], keep="last").adapter == {}


def test_patience_counts_evaluations_since_the_best():
    assert not observed([3.0, 2.0, 2.5], patience=2).is_given_up
    assert observed([3.0, 2.0, 2.5, 2.0], patience=2).is_given_up
    assert not observed([3.0, 2.0, 2.5, 1.9], patience=2).is_given_up
    assert not observed([3.0, 4.0, 5.0], patience=0).is_given_up


def test_losses_over_other_rows_are_not_compared():
    best = observed([1.0, 3.0, 2.9], [{"a": 3}, ROWS, ROWS], keep="best", patience=1)
    assert best.round == 2 and not best.is_given_up


def test_where_clients_come_and_go_the_others_losses_are_compared():
    """The mean falls when b is gone, whose loss is high, though a learns nothing more."""
    alone, by_client = {"a": 4}, [{"a": 2.0, "b": 4.0}, {"a": 2.1}, {"a": 2.1, "b": 3.9}]
    best = observed([3.0, 2.1, 2.9], [ROWS, alone, ROWS], by_client, patience=2, keep="best")
    assert best.round == 2 and best.adapter["x"].tolist() == [2.0, 2.0]  # lower over the same rows
    best = observed([3.0, 2.1, 3.1], [ROWS, alone, ROWS], [*by_client[:2], {"a": 2.1, "b": 4.1}], patience=2)
    assert best.round == 0 and best.is_given_up
    assert observed([3.0, 1.9], [ROWS, alone], [by_client[0], {"a": 1.9}]).round == 1
    again = Best(TrainingConfig(patience=2))
    again.load_state(best.state())
    again.observe(3, HeldOut(1.9, 0.0, alone), {"a": 1.9}, dict)
    assert again.round == 3 and not again.is_given_up


def test_a_checkpoint_keeps_all_of_it():
    best, again = (
        observed([3.0, 2.0, 2.5], keep="best", patience=1),
        Best(TrainingConfig(keep="best", patience=1)),
    )
    again.load_state(best.state())
    assert again.round == 1 and again.is_given_up and torch.equal(again.adapter["x"], best.adapter["x"])
    again.observe(3, HeldOut(1.0, 0.0, ROWS), dict.fromkeys(ROWS, 1.0), lambda: {"x": torch.ones(2)})
    assert again.round == 3 and not again.is_given_up
