"""The exchange with tails between the body's two passes: what goes down, what comes back, who drops out."""

import torch

from splitcom.codecs import Ragged, parse
from splitcom.engines.engine import StepResult
from splitcom.errors import RemoteProtocolError
from splitcom.protocol.messages_pb2 import Message
from splitcom.server.arrivals import Lost
from splitcom.server.state import ClientStates, Task
from splitcom.server.tails import Tails
from splitcom.training.channel import Channel

from .exchange import Clients, arrival_of

UP = Message(gradient_up={"step": 0, "num_labels": 2})


class Engine:
    """The body doubles what comes in."""

    def __init__(self):
        self.forwards, self.backwards = [], []

    def forward(self, arrivals, position, *, trains):
        self.forwards.append((list(arrivals), position, trains))
        self._arrivals = arrivals
        return (self, arrivals) if arrivals else (None, {})

    def out_of(self, name):
        batch = self._arrivals[name].decoded.batch
        return Ragged(batch.values * 2, batch.lengths)

    def backward(self, passage, gradients, arrivals, progress):
        self.backwards.append((dict(gradients), progress))
        return {name: StepResult(None, 0.0, 2) for name in gradients}

    def packed(self, *arguments):
        [encode] = filter(callable, arguments)
        return encode()


class Gradients:
    """What `gradient_up` turns out to be, by client."""

    def __init__(self, **found):
        self.found = {name: list(items) for name, items in found.items()}

    def from_tail(self, name, content, sent):
        one = self.found[name].pop(0)
        if isinstance(one, Exception):
            raise one
        return one


def world(*names, **found):
    clients = Clients(*names)
    channels = {"activation_down": "none"}
    states = ClientStates(
        lambda name: {flow: Channel(flow, name, parse(text), None, 0) for flow, text in channels.items()}
    )
    for name in names:
        states[name].task = Task(1, 1)
        clients.says[name].append(UP)
    engine = Engine()
    return clients, states, engine, Tails(engine, Gradients(**found), clients, states)


def test_hidden_states_go_down_and_gradients_come_back():
    clients, _, engine, tails = world("a", "b", a=[("grad a", 2)], b=[("grad b", 3)])
    arrivals = {"a": arrival_of([7], [3]), "b": arrival_of([1, 2], [1, 2])}
    assert list(tails.step(arrivals, (4, 9), (1, 5), 0.5)) == ["a", "b"]
    assert engine.forwards == [(["a", "b"], (4, 9), True)]
    assert engine.backwards == [({"a": ("grad a", 2), "b": ("grad b", 3)}, 0.5)]
    assert [(name, message.activation_down.step) for name, message in clients.sent] == [("a", 5), ("b", 5)]
    packet = clients.sent[0][1].activation_down.activation
    decoded = Channel("activation_down", "a", parse("none"), None, 0).decode(packet, 1 << 20)
    assert decoded.ids == [7]
    assert torch.equal(decoded.batch.values, arrivals["a"].decoded.batch.values * 2)


def test_who_is_lost_or_refused_in_between_has_no_part_in_the_step():
    wrong = RemoteProtocolError("a gradient for 0 of 3 tokens")
    clients, _, engine, tails = world("a", "b", "c", a=[("grad", 2)], b=[wrong], c=[])
    clients.says["c"].clear()
    arrivals = {name: arrival_of([7], [3]) for name in "abc"}
    assert list(tails.step(arrivals, (1, 0), (1, 0), 0.5)) == ["a"]
    assert list(engine.backwards[0][0]) == ["a"] and clients.refused == {"b": str(wrong)}


def test_what_either_side_lacks_is_sent_once_more():
    clients, _, _, tails = world("a", a=[Lost(0, [7]), ("grad", 2)])
    clients.says["a"].extendleft([Message(reference_lost={"step": 0, "sample_ids": [7]})])
    clients.says["a"].append(UP)
    assert list(tails.step({"a": arrival_of([7], [3])}, (1, 0), (1, 0), 0.5)) == ["a"]
    assert [kind for _, kind in clients.kinds()] == ["activation_down", "activation_down", "reference_lost"]


def test_the_body_does_not_train_if_a_client_of_the_step_is_frozen():
    _, states, engine, tails = world("a", a=[(None, 2)])
    states["a"].task.is_frozen = True
    tails.step({"a": arrival_of([7], [3])}, (1, 0), (1, 0), 0.5)
    assert engine.forwards[0][2] is False


def test_a_step_of_nobody_is_none():
    clients, _, engine, tails = world("a")
    assert tails.step({}, (1, 0), (1, 0), 0.5) == {} and not clients.sent and not engine.backwards
