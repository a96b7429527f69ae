"""Which evaluation was the best, over the same rows, and when there has been none for too long."""

import torch

from splitcom.config import TrainingConfig
from splitcom.server.best import Best
from splitcom.server.evaluation import HeldOut

ROWS = {"a": 4, "b": 4}


def observed(losses, rows=None, **settings):
    best = Best(TrainingConfig(**settings))
    for index, loss in enumerate(losses):
        found = HeldOut(loss, 0.0, ROWS if rows is None else rows[index])
        best.observe(index, found, lambda index=index: {"x": torch.full((2,), float(index))})
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
    best = observed([1.0, 3.0, 2.9], [{"a": 4}, ROWS, ROWS], keep="best", patience=1)
    assert best.round == 2 and not best.is_given_up


def test_a_checkpoint_keeps_all_of_it():
    best, again = (
        observed([3.0, 2.0, 2.5], keep="best", patience=1),
        Best(TrainingConfig(keep="best", patience=1)),
    )
    again.load_state(best.state())
    assert again.round == 1 and again.is_given_up and torch.equal(again.adapter["x"], best.adapter["x"])
    again.observe(3, HeldOut(1.0, 0.0, ROWS), lambda: {"x": torch.ones(2)})
    assert again.round == 3 and not again.is_given_up
