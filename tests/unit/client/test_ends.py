"""Front and tail at one client: four messages a step, and no label in any of them."""

import pytest
import torch

from splitcom.client.ends import EndsTrainer
from splitcom.codecs import Ragged
from splitcom.protocol.messages_pb2 import ActivationDown, Gradient, Message
from splitcom.training.loss import losses_through
from splitcom.training.plan import LocalRound, round_batches

from .trainers import CONFIG, SAMPLES, Front, Last, channels


@pytest.fixture
def trainer():
    return EndsTrainer("c", Front(), Last(), SAMPLES, [], channels(), CONFIG)


def run_round(trainer, local, body):
    """Answer as a server whose body is `body`, a number; the gradients that came up, and the summary."""
    server, gradients = channels(), []
    steps = trainer.train(local)
    message = next(steps)
    while True:
        assert message.WhichOneof("kind") == "activation_up"
        decoded = server["activation_up"].decode(message.activation_up.activation, 1 << 20)
        passed = Ragged(decoded.batch.values * body, decoded.batch.lengths)
        down = server["activation_down"].encode(passed, decoded.ids, (1, 0))
        message = steps.send(Message(activation_down=ActivationDown(activation=down)))
        assert message.WhichOneof("kind") == "gradient_up"
        gradients.append(message.gradient_up)
        data = message.gradient_up.gradient
        packet = b""
        if data:
            back = server["gradient_up"].decode(data, 1 << 20)
            returned = Ragged(back.batch.values * body, back.batch.lengths)
            packet = server["gradient_down"].encode(returned, back.ids, (1, 0))
        try:
            message = steps.send(Message(gradient=Gradient(gradient=packet)))
        except StopIteration as end:
            return gradients, end.value


def test_front_and_tail_learn_what_they_would_learn_uncut(trainer):
    front, tail = Front(), Last()
    plan = round_batches(SAMPLES, CONFIG, "c", 1)
    hidden = front(plan[0].input_ids, plan[0].attention_mask) * 3.0
    scored = losses_through(tail, hidden, plan[0].attention_mask, plan[0].labels)
    hidden.retain_grad()
    scored.losses.mean().backward()
    taken = []
    step = trainer._optimizer.step

    def noted(progress):
        taken.append([parameter.grad.clone() for parameter in trainer._optimizer.parameters])
        step(progress)

    trainer._optimizer.step = noted
    gradients, summary = run_round(trainer, LocalRound(1, 1.0), 3.0)
    torch.testing.assert_close(taken[0], [front.scale.grad, tail.scale.grad])
    up = channels()["gradient_up"].decode(gradients[0].gradient, 1 << 20)
    assert torch.equal(up.batch.values, hidden.grad[plan[0].attention_mask.bool()])
    assert [one.num_labels for one in gradients] == [
        int((batch.labels != -100).sum()) for batch in plan
    ] and sum(one.num_labels for one in gradients) == summary.num_labels == 6
    assert (summary.num_tokens, summary.num_steps) == (9, 2) and summary.loss_sum > 0


def test_a_frozen_round_trains_the_tail_alone_and_sends_no_gradient(trainer):
    gradients, _ = run_round(trainer, LocalRound(1, 1.0, is_frozen=True), 1.0)
    assert all(one.gradient == b"" and one.num_labels for one in gradients)
    assert torch.equal(trainer._front.scale, Front().scale)
    assert not torch.equal(trainer._tail.scale, Last().scale)
