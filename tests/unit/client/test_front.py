"""A front's conversation: what it sends, what it learns from a gradient, where it pauses."""

import pytest
import torch

from splitcom.client.front import FrontTrainer
from splitcom.client.packets import RoundAborted
from splitcom.codecs import Ragged
from splitcom.errors import PacketError, RemoteProtocolError
from splitcom.protocol.labels import unpack_labels
from splitcom.protocol.messages_pb2 import Gradient, Message, ReferenceLost, RoundAbort
from splitcom.training.optimize import Optimizer
from splitcom.training.plan import LocalRound, progress_of, round_batches

from .trainers import CONFIG, SAMPLES, Front, channels

FIRST = LocalRound(1, 1.0)


@pytest.fixture
def trainer():
    return FrontTrainer("c", Front(), SAMPLES, [], channels(), CONFIG)


def answer(server, decoded, value, *, pause=False):
    """A gradient of one number everywhere."""
    batch = decoded.batch
    gradient = Ragged(torch.full_like(batch.values, value), batch.lengths)
    packet = server["gradient_down"].encode(gradient, decoded.ids, (1, 0))
    return Message(gradient=Gradient(gradient=packet, pause=pause))


def test_a_round_sends_every_token_once_and_steps_by_the_gradient_that_comes_back(trainer):
    server, twin = channels(), Front()
    optimizer = Optimizer([twin.scale], CONFIG.training)
    plan = round_batches(SAMPLES, CONFIG, "c", 1)
    steps = trainer.train(FIRST)
    message = next(steps)
    for step, batch in enumerate(plan):
        decoded = server["activation_up"].decode(message.activation.activation, 1 << 20)
        hidden = twin(batch.input_ids, batch.attention_mask)
        assert message.activation.step == step and decoded.ids == batch.sample_ids
        assert torch.equal(decoded.batch.values, hidden[batch.attention_mask.bool()].detach())
        labels = unpack_labels(message.activation.labels, 10)
        assert {one: row.tolist() for one, row in labels.items()} == {
            one.sample_id: one.labels.tolist() for one in SAMPLES if one.sample_id in batch.sample_ids
        }
        hidden.backward(torch.full_like(hidden, 0.1) * batch.attention_mask[..., None])
        optimizer.step(progress_of(CONFIG, 1.0, step, len(plan)))
        try:
            message = steps.send(answer(server, decoded, 0.1))
        except StopIteration as end:
            summary = end.value
        assert torch.equal(trainer._front.scale, twin.scale)
    assert (summary.num_tokens, summary.num_steps, summary.num_labels) == (9, 2, 0)


def test_labels_are_sent_once_and_again_if_they_are_lost(trainer):
    server = channels()
    ids = []
    for index in (1, 2):
        steps = trainer.train(LocalRound(index, float(index)))
        message = next(steps)
        while True:
            decoded = server["activation_up"].decode(message.activation.activation, 1 << 20)
            ids.append(set(unpack_labels(message.activation.labels, 10)))
            try:
                message = steps.send(answer(server, decoded, 0.1))
            except StopIteration:
                break
    assert ids[0] | ids[1] == {3, 5, 8} and ids[2:] == [set(), set()]
    again = trainer.train(LocalRound(3, 3.0))
    first = next(again)
    decoded = server["activation_up"].decode(first.activation.activation, 1 << 20)
    repeated = again.send(Message(reference_lost=ReferenceLost(step=0, sample_ids=decoded.ids[:1])))
    assert set(unpack_labels(repeated.activation.labels, 10)) == set(decoded.ids[:1])
    assert repeated.activation.activation == first.activation.activation


def test_a_pause_ends_the_round_between_two_steps_and_the_rest_is_trained_later(trainer):
    server = channels()
    steps = trainer.train(FIRST)
    decoded = server["activation_up"].decode(next(steps).activation.activation, 1 << 20)
    with pytest.raises(StopIteration) as paused:
        steps.send(answer(server, decoded, 0.1, pause=True))
    assert paused.value.value is None
    rest = trainer.train(LocalRound(1, 1.0, first_step=1))
    message = next(rest)
    assert message.activation.step == 1
    decoded = server["activation_up"].decode(message.activation.activation, 1 << 20)
    with pytest.raises(StopIteration) as ended:  # after the last step there is nothing to pause
        rest.send(answer(server, decoded, 0.1, pause=True))
    assert ended.value.value.num_steps == 2


def test_a_frozen_front_sends_and_does_not_learn(trainer):
    before = trainer._front.scale.clone()
    steps = trainer.train(LocalRound(1, 1.0, is_frozen=True))
    next(steps)
    assert steps.send(Message(gradient=Gradient())).activation.step == 1
    with pytest.raises(StopIteration):
        steps.send(Message(gradient=Gradient()))
    assert torch.equal(trainer._front.scale, before) and not trainer._front.training


def test_a_round_that_the_server_ends_is_left(trainer):
    steps = trainer.train(FIRST)
    next(steps)
    with pytest.raises(RoundAborted):
        steps.send(Message(round_abort=RoundAbort()))


def test_which_labels_are_there_is_kept_beside_the_moments(trainer):
    server = channels()
    steps = trainer.train(FIRST)
    decoded = server["activation_up"].decode(next(steps).activation.activation, 1 << 20)
    steps.send(answer(server, decoded, 0.1))
    other = FrontTrainer("c", Front(), SAMPLES, [], channels(), CONFIG)
    other.load_state(trainer.state())
    kept = other.state()
    assert kept["labels_sent"].tolist() == [3, 5, 8]
    assert all(torch.equal(kept[name], tensor) for name, tensor in trainer.state().items())


@pytest.mark.parametrize("what", ["other samples", "fewer tokens", "another width", "more tokens"])
def test_a_gradient_of_anything_else_than_what_was_sent_is_not_believed(trainer, what):
    server = channels()
    steps = trainer.train(FIRST)
    decoded = server["activation_up"].decode(next(steps).activation.activation, 1 << 20)
    batch, ids = decoded.batch, decoded.ids
    lengths, width = batch.lengths.clone(), batch.hidden
    if what == "other samples":
        ids = [one + 100 for one in ids]
    elif what == "another width":
        width += 1
    else:
        lengths[0] += 1 if what == "more tokens" else -1
    gradient = Ragged(torch.zeros(int(lengths.sum()), width), lengths)
    packet = server["gradient_down"].encode(gradient, ids, (1, 0))
    with pytest.raises((PacketError, RemoteProtocolError), match=r"the server has sent|are believed"):
        steps.send(Message(gradient=Gradient(gradient=packet)))
