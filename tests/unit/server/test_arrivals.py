"""From a message to a batch: decoded, labelled, and nothing that cannot be."""

import numpy as np
import pytest
import torch

from splitcom.codecs import MemoryReferences, Ragged, parse
from splitcom.config import Config
from splitcom.errors import RemoteProtocolError
from splitcom.protocol.labels import pack_labels
from splitcom.protocol.messages_pb2 import GradientUp, Message
from splitcom.server.admission import Admission
from splitcom.server.arrivals import Arrivals, Lost
from splitcom.server.state import ClientStates, Task
from splitcom.training.channel import Channel

from .exchange import Clients, arrival_of

LABELS = {7: np.array([-100, 3, 4]), 9: np.array([-100, 5])}


def channel(flow, codec="none"):
    needs = parse(codec).needs_references
    return Channel(flow, "a", parse(codec), MemoryReferences() if needs else None, 0)


class World:
    def __init__(self, codec="none", num_samples=8, **settings):
        config = Config().override({"training.batch_size": 4} | settings)
        flows = ("activation_up", "gradient_up")
        self.states = ClientStates(lambda name: {flow: channel(flow, codec) for flow in flows})
        self.states["a"].task = Task(1, 1)
        admission = Admission(config, 2, 10)
        self.arrivals = Arrivals(config, admission, Clients("a", num_samples=num_samples), self.states)
        self.theirs = channel("activation_up", codec)

    def message(self, ids, lengths, labels=(), step=0, kind="activation"):
        batch = arrival_of(ids, lengths).decoded.batch
        content = {"step": step, "activation": self.theirs.encode(batch, ids, (1, step))}
        if kind == "activation":
            content["labels"] = pack_labels({one: LABELS[one] for one in labels})
        return Message(**{kind: content})


def test_a_batch_is_joined_with_its_labels_which_are_sent_once():
    world = World()
    for labels in ([7, 9], []):
        arrival = world.arrivals.to_train("a", world.message([9, 7], [2, 3], labels))
        assert [row.tolist() for row in arrival.labels] == [[-100, 5], [-100, 3, 4]]
        assert arrival.decoded.batch.values[0].tolist() == [9.0, 10.0] and arrival.trains_front


def test_samples_beyond_those_that_a_client_has_said_it_has_are_refused_also_without_labels():
    world = World("delta > int8", num_samples=3, **{"model.tail_blocks": 1})
    world.arrivals.to_train("a", world.message([7, 9], [3, 2], kind="activation_up"))
    world.arrivals.to_train("a", world.message([9], [2], kind="activation_up"))
    with pytest.raises(RemoteProtocolError, match="4 samples; it has said that it has 3"):
        world.arrivals.to_train("a", world.message([1, 2], [3, 2], kind="activation_up"))
    with pytest.raises(RemoteProtocolError, match="5 samples in a batch; at most 4"):
        world.arrivals.to_train("a", world.message([1, 2, 3, 4, 5], [2] * 5, kind="activation_up"))


def test_labels_or_references_that_are_lacking_are_lost():
    assert World().arrivals.to_train("a", World().message([7, 9], [3, 2], [9])) == Lost(0, [7])
    world = World("temporal(0.5) > delta > int8")
    world.theirs.encode(arrival_of([7], [3]).decoded.batch, [7], (0, 0))  # which does not arrive
    lost = world.arrivals.to_train("a", world.message([7], [3], [7]))
    assert lost == Lost(0, [7])
    assert list(lost.answer.reference_lost.sample_ids) == [7]


def test_a_front_that_does_not_learn_needs_no_gradient():
    world = World()
    world.states["a"].task.is_frozen = True
    assert not world.arrivals.to_train("a", world.message([7], [3], [7])).trains_front
    world = World(**{"lora.train_front": False})
    assert not world.arrivals.to_train("a", world.message([7], [3], [7])).trains_front


def test_what_is_not_due_or_too_much_is_refused():
    with pytest.raises(RemoteProtocolError, match="'activation_up' where 'activation' is due"):
        World().arrivals.to_train("a", World().message([7], [3], kind="activation_up"))
    with pytest.raises(RemoteProtocolError, match="'activation' where 'activation_up' is due"):
        World(**{"model.tail_blocks": 1}).arrivals.to_train("a", World().message([7], [3], [7]))
    with pytest.raises(RemoteProtocolError, match="step 1 of a round of 2, after 0"):
        World().arrivals.to_train("a", World().message([7], [3], [7], step=1))
    with pytest.raises(RemoteProtocolError, match="labels of more samples than the 1 it has"):
        World(num_samples=1).arrivals.to_train("a", World().message([7], [3], [7, 9]))


def gradient_up(ids, lengths, width=2, num_labels=2):
    batch = Ragged(torch.ones(sum(lengths), width), torch.tensor(lengths))
    packet = channel("gradient_up").encode(batch, ids, (1, 0))
    return GradientUp(step=0, gradient=packet, num_labels=num_labels)


def test_a_tail_answers_for_the_tokens_it_was_sent():
    world, sent = World(**{"model.tail_blocks": 1}), arrival_of([7, 9], [3, 2])
    found, num_labels = world.arrivals.from_tail("a", gradient_up([7, 9], [3, 2]), sent)
    assert num_labels == 2 and torch.equal(found.values, torch.ones(5, 2))
    for content, message in (
        (gradient_up([7, 9], [3, 2], num_labels=0), "a gradient for 0 of 5 tokens"),
        (gradient_up([7, 9], [3, 2], num_labels=4), "a gradient for 4 of 5 tokens; 1 to 3 are possible"),
        (gradient_up([9, 7], [3, 2]), "of other samples or tokens"),
        (gradient_up([7, 9], [2, 3]), "of other samples or tokens"),
        (gradient_up([7, 9], [3, 2], width=4), "a gradient of width 4; the model's is 2"),
    ):
        with pytest.raises(RemoteProtocolError, match=message):
            world.arrivals.from_tail("a", content, sent)


def test_to_a_frozen_body_nothing_goes_back():
    world, sent = World(**{"model.tail_blocks": 1}), arrival_of([7], [3])
    world.states["a"].task.is_frozen = True
    assert world.arrivals.from_tail("a", GradientUp(num_labels=2), sent) == (None, 2)
    with pytest.raises(RemoteProtocolError, match="where the body is frozen"):
        world.arrivals.from_tail("a", gradient_up([7], [3]), sent)
