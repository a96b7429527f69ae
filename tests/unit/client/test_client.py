"""A client's conversation, with a trainer that only remembers: what is said to each message, and what is kept."""

import pytest
import torch

from splitcom.client.client import Client, RoundSummary
from splitcom.client.packets import RoundAborted
from splitcom.codecs import parse
from splitcom.config import Config
from splitcom.errors import RefusedError
from splitcom.protocol.adapters import pack_packets
from splitcom.protocol.messages_pb2 import (
    Activation,
    EvaluationEnd,
    EvaluationStart,
    Failure,
    Finish,
    Gradient,
    Message,
    RoundAbort,
    RoundStart,
    SaveState,
    Welcome,
)
from splitcom.protocol.session import Form, Role, Session
from splitcom.training.adapters import AdapterCodec
from splitcom.training.channel import Channel
from splitcom.training.store import PartyStore

NONE = {"flows.adapter_up.codec": "none", "flows.adapter_down.codec": "none"}


class Trainer:
    """Adds 1 to its adapter in a round of one step; a gradient that pauses it leaves a half."""

    num_samples, num_held_out, cut = 5, 2, 2

    def __init__(self):
        self.value = torch.zeros(3)
        self.rounds, self.evaluated = [], []

    def train(self, local):
        self.rounds.append(local)
        reply = yield Message(activation=Activation(step=local.first_step, activation=b"-"))
        if reply.WhichOneof("kind") == "round_abort":
            raise RoundAborted
        if reply.gradient.pause:
            self.value = self.value + 0.5
            return None
        self.value = self.value + 1
        return RoundSummary(9, 2, 1.5, 6)

    def evaluate(self, *arguments, **options):
        self.evaluated.append(self.value.tolist())
        yield from ()
        return EvaluationEnd(loss_sum=2.0, num_labels=3)

    def adapter(self):
        return {"x": self.value}

    def load_adapter(self, state):
        self.value = state["x"].clone()

    def references(self):
        return iter(())

    def state(self):
        return {"moment": torch.tensor([7.0])}

    def load_state(self, state):
        assert state["moment"].tolist() == [7.0]


class Server:
    """The other end of one client."""

    def __init__(self, folder, welcome=None, **settings):
        self.trainer = Trainer()
        config = Config().override(NONE | settings)
        self.channel = Channel("activation_up", "c", parse("none"), None, 0)
        channels = {"activation_up": self.channel}
        self.client = Client("c", self.trainer, channels, config, "f", PartyStore(folder))
        self.session = Session(Role.SERVER, form=Form.of(config.model.tail_blocks))
        self.hello = self.session.receive(self.client.connect()).hello
        assert self.say(welcome=Welcome() if welcome is None else Welcome(round=welcome)) is None

    def say(self, **message):
        answer = self.client.receive(self.session.send(Message(**message)))
        return None if answer is None else self.session.receive(answer)


def adapter(value):
    return pack_packets([AdapterCodec("none").encode({"x": torch.full((3,), value)}, {})[0]])


def value_in(packet):
    return AdapterCodec("none").decode(packet, {"x": torch.zeros(3)})["x"].tolist()


def test_a_client_introduces_itself(tmp_path):
    hello = Server(tmp_path).hello
    assert (hello.client, hello.model_fingerprint, hello.num_samples, hello.num_held_out) == ("c", "f", 5, 2)
    assert list(hello.saved_rounds) == []


def test_a_round_begins_from_what_is_sent_and_ends_with_what_was_made_of_it(tmp_path):
    server = Server(tmp_path)
    start = RoundStart(round=1, adapter_version=1, adapter=adapter(10.0))
    assert server.say(round_start=start).activation.step == 0
    end = server.say(gradient=Gradient()).round_end
    assert (end.round, end.num_tokens, end.num_steps, end.loss_sum, end.num_labels) == (1, 9, 2, 1.5, 6)
    assert value_in(end.adapter) == [11.0] * 3
    # a version that it has is not sent again; what it has trained meanwhile is left behind
    server.say(round_start=RoundStart(round=2, adapter_version=1))
    assert value_in(server.say(gradient=Gradient()).round_end.adapter) == [11.0] * 3
    assert [(one.index, one.place, one.first_step) for one in server.trainer.rounds] == [
        (1, 1, 0),
        (2, 2, 0),
    ]


def test_a_frozen_round_sends_no_adapter_unless_there_is_a_tail(tmp_path):
    server = Server(tmp_path)
    server.say(round_start=RoundStart(round=1, adapter_version=1, adapter=adapter(1.0), frozen=True))
    assert server.say(gradient=Gradient()).round_end.adapter == b""
    assert server.trainer.rounds[0].is_frozen


def test_an_abandoned_round_is_left_without_an_answer_and_the_next_one_begins(tmp_path):
    server = Server(tmp_path)
    server.say(round_start=RoundStart(round=1, adapter_version=1, adapter=adapter(1.0)))
    assert server.say(round_abort=RoundAbort()) is None
    assert server.say(round_start=RoundStart(round=2, adapter_version=1)).activation.step == 0


def test_an_evaluation_in_a_pause_is_of_the_shared_adapter_and_leaves_the_own_in_place(tmp_path):
    server = Server(tmp_path)
    start = RoundStart(round=1, adapter_version=1, adapter=adapter(1.0), place=1.25)
    server.say(round_start=start)
    assert server.say(gradient=Gradient(pause=True)).WhichOneof("kind") == "round_paused"
    start = EvaluationStart(adapter_version=2, adapter=adapter(20.0))
    end = server.say(evaluation_start=start).evaluation_end
    assert (end.loss_sum, end.num_labels) == (2.0, 3)
    assert server.trainer.evaluated == [[20.0] * 3]
    assert server.trainer.value.tolist() == [1.5] * 3 and server.trainer.rounds[0].place == 1.25
    server.say(round_start=RoundStart(round=1, first_step=1, adapter_version=2))
    assert value_in(server.say(gradient=Gradient()).round_end.adapter) == [2.5] * 3


@pytest.mark.parametrize("pause", [False, True])
def test_what_is_saved_is_what_a_new_conversation_goes_on_from(tmp_path, pause):
    server = Server(tmp_path)
    server.say(round_start=RoundStart(round=4, adapter_version=3, adapter=adapter(1.0)))
    server.say(gradient=Gradient(pause=pause))
    server.channel.num_refused = 3
    assert server.say(save_state=SaveState(round=4)).WhichOneof("kind") == "state_saved"
    again = Server(tmp_path, welcome=4)
    assert list(again.hello.saved_rounds) == [4] and again.channel.num_refused == 3
    if pause:
        assert again.trainer.value.tolist() == [1.5] * 3
        again.say(round_start=RoundStart(round=4, first_step=1, adapter_version=3))
        assert value_in(again.say(gradient=Gradient()).round_end.adapter) == [2.5] * 3
    else:
        again.say(round_start=RoundStart(round=5, adapter_version=3))  # which it holds
        assert value_in(again.say(gradient=Gradient()).round_end.adapter) == [2.0] * 3


def test_a_client_that_is_refused_says_why_and_one_that_is_done_is_finished(tmp_path):
    server = Server(tmp_path)
    with pytest.raises(RefusedError, match="the server has ended the session of c: too late"):
        server.say(failure=Failure(reason="too late"))
    other = Server(tmp_path / "other")
    assert not other.client.finished
    assert other.say(finish=Finish()) is None and other.client.finished
