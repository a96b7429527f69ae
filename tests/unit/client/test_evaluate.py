"""What the three trainers do with held-out samples: what they send, what they sum up, and that they learn nothing."""

import pytest
import torch

from splitcom.client.ends import EndsTrainer
from splitcom.client.front import FrontTrainer
from splitcom.client.whole import WholeTrainer
from splitcom.codecs import MemoryReferences, Ragged, parse
from splitcom.protocol.labels import unpack_labels
from splitcom.protocol.messages_pb2 import EvaluationDown, EvaluationNext, Message, ReferenceLost, RoundStart
from splitcom.settings.presets import EVALUATION
from splitcom.training import channel
from splitcom.training.channel import Channel, RestChannel, finer_if_few, passing_held_out
from splitcom.training.loss import losses_through
from splitcom.training.plan import held_out_batches
from splitcom.training.steering import follow

from .trainers import CONFIG, SAMPLES, Front, Last, channels

BODY = 3.0  # what the server's part multiplies hidden states by
BATCHES = CONFIG.override({"evaluation.batch_size": 2})
CODED = "delta > int8 > zstd"
NEXT = Message(evaluation_next=EvaluationNext())


def sides(codec):
    """One side's channels for training and, with this codec, for held-out samples; two calls give both."""
    made = channels()
    for flow in ("evaluation_up", "evaluation_down"):
        references = MemoryReferences() if parse(codec).needs_references else None
        made[flow] = Channel(flow, "c", parse(codec), references, 0)
        made[f"{flow}_exact"] = RestChannel(made[flow])
    return made


def front_trainer(codec="none"):
    return FrontTrainer("c", Front(), [], SAMPLES, sides(codec), BATCHES)


def ends_trainer(codec="none"):
    return EndsTrainer("c", Front(), Last(), [], SAMPLES, sides(codec), BATCHES)


def lost(*ids):
    return Message(reference_lost=ReferenceLost(step=0, sample_ids=ids))


def evaluate(trainer, answer, round_index=0, exact=False, most=0):
    """All that is sent, and what the trainer returns; `answer` is given each message."""
    sent, steps = [], trainer.evaluate(round_index, exact=exact, most=most)
    try:
        message = next(steps)
        while True:
            sent.append(message)
            message = steps.send(answer(message))
    except StopIteration as end:
        return sent, end.value


class Server:
    """Multiplies what comes by `BODY` and sends it back."""

    def __init__(self, codec, exact=False):
        suffix = "_exact" if exact else ""
        mine = sides(codec)
        self._up, self._down = mine[f"evaluation_up{suffix}"], mine[f"evaluation_down{suffix}"]

    def __call__(self, message):
        if message.WhichOneof("kind") == "reference_lost":
            return self._sent(self_contained=True)
        decoded = self._up.decode(message.evaluation_up.activation, 1 << 20)
        self._last = Ragged(decoded.batch.values * BODY, decoded.batch.lengths), decoded.ids
        return self._sent()

    def _sent(self, self_contained=False):
        packet = self._down.encode(*self._last, (0, 0), self_contained=self_contained)
        return Message(evaluation_down=EvaluationDown(activation=packet))


def expected(body=BODY):
    """Loss in nats and number of labels of the uncut model, over all samples."""
    front, last, loss, count = Front(), Last(), 0.0, 0
    for batch in held_out_batches(SAMPLES, BATCHES):
        hidden = front(batch.input_ids, batch.attention_mask) * body
        losses = losses_through(last, hidden, batch.attention_mask, batch.labels).losses
        loss += float(losses.detach().double().sum())
        count += len(losses)
    return loss, count


def test_a_front_sends_every_held_out_token_and_its_labels_once():
    trainer, server = front_trainer(), sides("none")
    sent, end = evaluate(trainer, lambda message: NEXT)
    tokens, labels = {}, {}
    for message in sent:
        decoded = server["evaluation_up"].decode(message.evaluation_batch.activation, 1 << 20)
        rows = decoded.batch.values.split(decoded.batch.lengths.tolist())
        tokens |= dict(zip(decoded.ids, rows, strict=True))
        labels |= unpack_labels(message.evaluation_batch.labels, 10)
    front = Front()
    assert [len(message.evaluation_batch.activation) > 0 for message in sent] == [True, True]
    assert list(tokens) == [3, 5, 8]
    for one in SAMPLES:
        ids = one.input_ids[None]
        assert torch.equal(tokens[one.sample_id], front(ids, torch.ones_like(ids))[0].detach())
        assert labels[one.sample_id].tolist() == one.labels.tolist()
    assert (end.loss_sum, end.num_labels) == (0.0, 0), "the server has the labels"
    again, _ = evaluate(trainer, lambda message: NEXT, 1)
    assert [unpack_labels(message.evaluation_batch.labels, 10) for message in again] == [{}, {}]


def test_a_front_sends_again_what_the_server_has_lost_with_its_labels():
    trainer = front_trainer(CODED)
    evaluate(trainer, lambda message: NEXT)
    replies = iter([lost(3, 5), NEXT, NEXT])
    first, again, other = (one.evaluation_batch for one in evaluate(trainer, lambda m: next(replies), 1)[0])
    assert unpack_labels(first.labels, 10) == unpack_labels(other.labels, 10) == {}
    assert set(unpack_labels(again.labels, 10)) == {3, 5}
    afresh = sides(CODED)["evaluation_up"].decode(again.activation, 1 << 20)  # of one who has no references
    assert afresh.ids == [3, 5]


@pytest.mark.parametrize("exact", [False, True])
def test_only_an_exact_evaluation_leaves_references_as_they_were(exact):
    trainer, server = front_trainer(CODED), sides(CODED)
    flow = "evaluation_up_exact" if exact else "evaluation_up"
    packets = []
    for round_index in (0, 1):
        sent, _ = evaluate(trainer, lambda message: NEXT, round_index, exact=exact)
        packets.append([message.evaluation_batch.activation for message in sent])
    found = [[server[flow].decode(packet, 1 << 20).ids for packet in of_round] for of_round in packets]
    assert found == [[[3, 5], [8]]] * 2
    assert len(trainer._channels["evaluation_up"].references) == (0 if exact else 3)
    assert (packets[0] == packets[1]) == exact


def test_an_exact_evaluation_sends_what_the_coded_one_has_left_out_and_changes_nothing(monkeypatch):
    monkeypatch.setattr(channel, "_MANY_TOKENS", 1)  # of fewer, the coded one would leave out nothing
    trainer, mine = front_trainer(EVALUATION), sides(EVALUATION)
    sent, _ = evaluate(trainer, lambda message: NEXT)
    coded = [mine["evaluation_up"].decode(one.evaluation_batch.activation, 1 << 20) for one in sent]
    packets, exact = [], []
    for _ in range(2):
        sent, _ = evaluate(trainer, lambda message: NEXT, 1, exact=True)
        packets.append([message.evaluation_batch.activation for message in sent])
        with passing_held_out(mine, exact=True):
            exact = [mine["evaluation_up_exact"].decode(packet, 1 << 20) for packet in packets[-1]]
    assert packets[0] == packets[1]
    for batch, found, rough in zip(held_out_batches(SAMPLES, BATCHES), exact, coded, strict=True):
        hidden = Front()(batch.input_ids, batch.attention_mask)
        values = Ragged.from_padded(hidden, batch.attention_mask).values
        missed, more = ((one.batch.values - values).norm() / values.norm() for one in (found, rough))
        assert missed < 0.04 and missed < 0.5 * more
    assert trainer._channels["evaluation_up_exact"].references is None


def test_the_same_rows_have_the_same_step_whatever_came_before_and_fewer_a_finer_one(monkeypatch):
    """A client that goes on from a checkpoint has not heard of the rounds before."""
    monkeypatch.setattr(channel, "_MANY_TOKENS", 20)
    trainer, steps = front_trainer(EVALUATION), []
    for most, start in [(0, None), (1, None), (0, RoundStart(round=1)), (1, RoundStart(round=2))]:
        if start is not None:
            follow(trainer._channels, start)
        evaluate(trainer, lambda message: NEXT, most=most)
        steps.append(trainer._channels["evaluation_up"].decision)
    tokens = [len(one.input_ids) for one in SAMPLES]
    [few] = held_out_batches(SAMPLES, BATCHES, 1)
    codec = parse(EVALUATION)
    assert steps == [finer_if_few(codec, num) for num in (sum(tokens), int(few.lengths.sum()))] * 2
    assert steps[1].step < steps[0].step < codec.knob.value


def test_what_is_held_out_is_not_learnt():
    for trainer, answer in (
        (front_trainer(), lambda message: NEXT),
        (ends_trainer(), Server("none")),
        (WholeTrainer("c", Front(), Last(), [], SAMPLES, BATCHES), None),
    ):
        trainer._front.train()
        before = {name: tensor.clone() for name, tensor in trainer._front.state_dict().items()}
        evaluate(trainer, answer)
        assert not trainer._front.training and trainer._front.scale.grad is None
        assert all(torch.equal(before[name], t) for name, t in trainer._front.state_dict().items())


@pytest.mark.parametrize("exact", [False, True])
def test_both_ends_give_the_loss_of_the_uncut_model_and_no_label_away(exact):
    sent, end = evaluate(ends_trainer(CODED), Server(CODED, exact), exact=exact)
    assert [message.WhichOneof("kind") for message in sent] == ["evaluation_up"] * 2
    assert [field.name for field, _ in sent[0].evaluation_up.ListFields()] == ["activation"]
    loss, count = expected()
    assert end.num_labels == count == 6
    assert end.loss_sum == pytest.approx(loss, rel=1e-6 if exact else 0.02)
    assert (end.loss_sum == pytest.approx(loss, rel=1e-6)) == exact


def test_a_tail_has_what_it_lacks_sent_again():
    trainer, server = ends_trainer(CODED), Server(CODED)
    _, first = evaluate(trainer, server)
    trainer._channels["evaluation_down"].references.clear()
    sent, end = evaluate(trainer, server, 1)
    kinds = [message.WhichOneof("kind") for message in sent]
    assert kinds == ["evaluation_up", "reference_lost"] * 2
    assert list(sent[1].reference_lost.sample_ids) == [3, 5] and sent[3].reference_lost.step == 1
    assert end.loss_sum == pytest.approx(first.loss_sum, rel=0.02) and end.num_labels == 6


def test_a_whole_model_says_nothing_and_gives_the_sums():
    sent, end = evaluate(WholeTrainer("c", Front(), Last(), [], SAMPLES, BATCHES), None)
    loss, count = expected(body=1.0)
    assert not sent and end.num_labels == count
    assert end.loss_sum == pytest.approx(loss, rel=1e-9)
