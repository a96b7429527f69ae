"""Losses of tokens and of classes."""

import torch
from torch import nn

from splitcom.data import IGNORED
from splitcom.training.loss import learnt_at, losses_of


def test_token_losses_are_those_of_transformers():
    logits, labels = torch.randn(2, 5, 7), torch.randint(0, 7, (2, 5))
    labels[0, :3] = IGNORED
    labels[1, 4:] = IGNORED
    losses, rows, correct = losses_of(logits, labels)
    expected = nn.functional.cross_entropy(logits[:, :-1].reshape(-1, 7), labels[:, 1:].reshape(-1))
    assert torch.allclose(losses.mean(), expected)
    assert rows.tolist() == [0, 0, 1, 1, 1] and not correct.any()
    assert torch.equal(losses_of(logits[learnt_at(labels)], labels).losses, losses)


def test_class_losses_are_those_of_transformers_and_count_what_is_right():
    logits = torch.tensor([[0.5, 2.0, 0.0], [3.0, 1.0, 2.0], [0.0, 0.0, 1.0]])
    losses, rows, correct = losses_of(logits, torch.tensor([[1], [2], [2]]))
    assert torch.allclose(losses.mean(), nn.functional.cross_entropy(logits, torch.tensor([1, 2, 2])))
    assert rows.tolist() == [0, 1, 2]
    assert correct.tolist() == [True, False, True]
