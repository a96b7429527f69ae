"""A whole model at one client: the steps are those of plain training."""

import pytest
import torch

from splitcom.client.whole import WholeTrainer
from splitcom.training.loss import losses_through
from splitcom.training.optimize import Optimizer
from splitcom.training.plan import LocalRound, progress_of, round_batches

from .trainers import CONFIG, SAMPLES, Front, Last


def test_a_round_says_nothing_and_takes_the_steps_of_plain_training():
    trainer = WholeTrainer("c", Front(), Last(), SAMPLES, [], CONFIG)
    with pytest.raises(StopIteration) as ended:
        next(trainer.train(LocalRound(2, 2.0)))
    summary = ended.value.value

    front, body = Front(), Last()
    optimizer = Optimizer([front.scale, body.scale], CONFIG.training)
    plan, loss_sum = round_batches(SAMPLES, CONFIG, "c", 2), 0.0
    for step, batch in enumerate(plan):
        hidden = front(batch.input_ids, batch.attention_mask)
        losses = losses_through(body, hidden, batch.attention_mask, batch.labels).losses
        losses.mean().backward()
        loss_sum += float(losses.detach().sum())
        optimizer.step(progress_of(CONFIG, 2.0, step, len(plan)))
    assert torch.equal(trainer._front.scale, front.scale) and torch.equal(trainer._body.scale, body.scale)
    assert not torch.equal(front.scale, Front().scale)
    assert (summary.num_tokens, summary.num_steps, summary.num_labels) == (9, 2, 6)
    assert summary.loss_sum == pytest.approx(loss_sum)
