"""An evaluation as the server leads it: what is asked, answered and counted, and who is refused."""

import pytest
import torch

from splitcom.codecs import MemoryReferences, Ragged, parse
from splitcom.config import Config
from splitcom.engines.engine import StepResult
from splitcom.errors import UnknownReference
from splitcom.protocol.messages_pb2 import EvaluationEnd, Message
from splitcom.server.arrivals import Lost
from splitcom.server.evaluation import Evaluation, HeldOut
from splitcom.server.observe import Observer
from splitcom.server.part import ServerRun
from splitcom.server.state import ClientStates
from splitcom.training.channel import Channel, RestChannel

from .exchange import Clients, arrival_of

BATCH = Message(evaluation_batch={"activation": b"-"})
UP = Message(evaluation_up={"activation": b"-"})
LOST = Message(reference_lost={"step": 0, "sample_ids": [7]})
END = Message(evaluation_end={})
CODEC = "delta > int8"


class Adapter:
    def offer(self, name, client, message):
        message.adapter_version, message.adapter = 4, f"adapter of {name}".encode()
        return message


class Body:
    """`brings[name]` is what a client's next messages turn out to be; evaluating a batch gives what is in `results`."""

    def __init__(self, has_tails):
        self.arrivals = self.engine = self
        self.tails = object() if has_tails else None
        self.brings, self.results, self.read = {}, [], []

    def held_out(self, name, message, step, *, exact):
        self.read.append((name, step, exact))
        return self.brings[name].pop(0)

    def evaluate(self, name, arrival):
        return self.results.pop(0)

    def pass_held_out(self, name, arrival):
        batch = arrival.decoded.batch
        return Ragged(batch.values * 2, batch.lengths)

    def packed(self, name, flow, arrival, encode):
        return encode()


class Reports(Observer):
    def __init__(self):
        self.seen = []

    def on_evaluation(self, round_index, done, total):
        self.seen.append((round_index, done, total))


def channels(name):
    """The server's, of one client."""
    coded = Channel("evaluation_down", name, parse(CODEC), MemoryReferences("fp32"), 0)
    return {
        "evaluation_down": coded,
        "evaluation_down_exact": RestChannel(coded),
    }


class World:
    """`held_out[name]` is how many held-out samples a client has, `says[name]` all it says in an evaluation."""

    def __init__(self, held_out, says, **settings):
        config = Config().override(settings)
        self.clients = Clients(*held_out)
        for name, number in held_out.items():
            self.clients.peers[name].num_held_out = number
            self.clients.says[name].extend(says.get(name, ()))
        self.body = Body(bool(config.model.tail_blocks)) if config.training.split else None
        self.reports = Reports()
        run = ServerRun(config, self.clients, ClientStates(channels), Adapter())
        self.evaluation = Evaluation(run, self.body, self.reports)
        self.run = self.evaluation.run

    def sent(self, name, kind):
        """What a client was sent of a kind."""
        return [
            getattr(message, kind)
            for client, message in self.clients.sent
            if (client, message.WhichOneof("kind")) == (name, kind)
        ]


def result(loss_sum, num_labels, num_correct=0):
    return StepResult(None, loss_sum, num_labels, num_correct)


def claim(loss_sum, num_labels, num_correct=0):
    return Message(evaluation_end=EvaluationEnd(
        loss_sum=loss_sum, num_labels=num_labels, num_correct=num_correct
    ))  # fmt: skip


@pytest.mark.parametrize("exact", [False, True])
def test_the_loss_is_that_of_all_labels_whoever_has_them(exact):
    world = World({"a": 3, "b": 1, "c": 0}, {"a": [BATCH, BATCH, END], "b": [BATCH, END]})
    world.body.brings = {"a": [arrival_of([7, 8], [3, 2]), arrival_of([9], [2])], "b": [arrival_of([7], [2])]}
    world.body.results = [result(6.0, 3, 2), result(1.0, 1), result(5.0, 2, 1)]  # a, b, a
    assert world.run(5, exact=exact) == HeldOut(12 / 6, 3 / 6, {"a": 3, "b": 1})
    for name in "ab":
        [start] = world.sent(name, "evaluation_start")
        assert (start.round, start.exact, start.adapter_version) == (5, exact, 4)
        assert start.adapter == f"adapter of {name}".encode()
    assert "c" not in {name for name, _ in world.clients.sent}, "who has none is not asked"
    assert (len(world.sent("a", "evaluation_next")), len(world.sent("b", "evaluation_next"))) == (2, 1)
    assert world.body.read == [("a", 0, exact), ("b", 0, exact), ("a", 1, exact)]
    assert world.reports.seen[-1] == (5, 4, 4) and world.reports.seen[0] == (5, 2, 4)


def test_without_held_out_samples_or_labels_there_is_no_loss():
    assert World({"a": 0}, {}).run(0) is None
    world = World({"a": 2}, {"a": [END]})
    assert world.run(0) is None and not world.clients.refused


def test_what_the_server_lacks_is_asked_for_once_for_each_batch():
    world = World({"a": 2, "b": 2}, {"a": [BATCH] * 4 + [END], "b": [BATCH, BATCH]})
    first, second = arrival_of([7], [3]), arrival_of([8], [2])
    world.body.brings = {
        "a": [Lost(0, [7]), first, Lost(1, [8]), second],
        "b": [Lost(0, [7]), Lost(0, [7])],
    }
    world.body.results = [result(4.0, 2), result(2.0, 1)]
    assert world.run(1) == HeldOut(2.0, 0.0, {"a": 2})
    assert [(one.step, [*one.sample_ids]) for one in world.sent("a", "reference_lost")] == [
        (0, [7]),
        (1, [8]),
    ]
    assert [step for name, step, _ in world.body.read if name == "a"] == [0, 0, 1, 1]
    assert world.clients.refused == {"b": "references are lost again and again in one step"}


@pytest.mark.parametrize("exact", [False, True])
def test_a_tail_gets_what_the_body_gives_and_again_if_it_has_lost_it(exact):
    world = World({"a": 2}, {"a": [UP, LOST, claim(4.0, 2)]}, **{"model.tail_blocks": 1})
    arrival = arrival_of([7, 8], [3, 1])
    world.body.brings = {"a": [arrival]}
    assert world.run(1, exact=exact) == HeldOut(2.0, 0.0, {"a": 2})
    flow = "evaluation_down_exact" if exact else "evaluation_down"
    for message in world.sent("a", "evaluation_down"):
        decoded = channels("a")[flow].decode(message.activation, 1 << 20)  # of one who has no references
        assert decoded.ids == [7, 8]
        close = {"atol": 0.0, "rtol": 0.0} if exact else {"atol": 0.1, "rtol": 0.01}
        torch.testing.assert_close(decoded.batch.values, arrival.decoded.batch.values * 2, **close)
    assert len(world.sent("a", "evaluation_down")) == 2 and not world.sent("a", "evaluation_next")


def test_an_evaluation_builds_on_the_one_before():
    says = [UP, claim(2.0, 1), UP, claim(1.0, 1)]
    world = World({"a": 1}, {"a": says}, **{"model.tail_blocks": 1})
    world.body.brings = {"a": [arrival_of([7], [3]), arrival_of([7], [3])]}
    assert [world.run(index).loss for index in (0, 1)] == [2.0, 1.0]
    first, second = (message.activation for message in world.sent("a", "evaluation_down"))
    with pytest.raises(UnknownReference):
        channels("a")["evaluation_down"].decode(second, 1 << 20)
    theirs = channels("a")["evaluation_down"]
    for packet in (first, second):
        found, exact = (
            theirs.decode(packet, 1 << 20).batch.values,
            arrival_of([7], [3]).decoded.batch.values * 2,
        )
        torch.testing.assert_close(found, exact, atol=0.1, rtol=0.01)


@pytest.mark.parametrize(
    ("settings", "says", "reason"),
    [
        ({"model.tail_blocks": 1}, [LOST], "a reference is lost before anything has been sent"),
        ({}, [LOST], "a reference is lost before anything has been sent"),
        ({}, [BATCH, BATCH], "more than the 1 held-out samples it has"),
        ({"model.tail_blocks": 1}, [UP, LOST, LOST], "references are lost again and again in one step"),
        ({"model.tail_blocks": 1}, [UP, claim(-1.0, 1)], "a loss of -1.0"),
        ({"model.tail_blocks": 1}, [UP, claim(1.0, 9_999)], "9999 labelled tokens; 1 to 2 are possible"),
        (
            {"method": "fedlora", "training.split": False},
            [BATCH],
            "an activation, in a run that is not split",
        ),
    ],
)
def test_who_says_what_cannot_be_is_refused_and_the_others_count(settings, says, reason):
    good = [claim(4.0, 2)] if "method" in settings else [UP if settings else BATCH, claim(4.0, 2)]
    world = World({"a": 1, "b": 1}, {"a": says, "b": good}, **{"data.max_tokens": 256} | settings)
    if world.body is not None:
        world.body.brings = {"a": [arrival_of([7], [3]), arrival_of([8], [3])], "b": [arrival_of([7], [3])]}
        world.body.results = [result(0.0, 0), result(6.0, 3)] if says[0] is BATCH else [result(6.0, 3)]
    assert world.run(1).loss == 2.0
    assert list(world.clients.refused) == ["a"] and reason in world.clients.refused["a"]


def test_a_batch_whose_loss_cannot_be_is_not_counted():
    world = World({"a": 1, "b": 1}, {"a": [BATCH], "b": [BATCH, END]})
    world.body.brings = {name: [arrival_of([7], [3])] for name in "ab"}
    world.body.results = [None, result(6.0, 3)]  # the engine's guard has refused the first
    assert world.run(1).loss == 2.0
    assert not world.sent("a", "evaluation_next")


def test_what_clients_sum_up_themselves_weighs_no_more_than_the_others_allow(caplog):
    says = {name: [claim(20.0, 10, 5)] for name in "ab"} | {"c": [claim(4_000.0, 1_000, 1_000)]}
    split = {"method": "fedlora", "training.split": False, "federation.max_weight_ratio": 4.0}
    found = World(dict.fromkeys("abc", 50), says, **split).run(1)
    assert found.loss == pytest.approx((20 + 20 + 160) / 60)
    assert found.accuracy == pytest.approx((5 + 5 + 40) / 60)
    assert found.rows == dict.fromkeys("abc", 50)
    assert "c: it claims 1000 held-out labels" in caplog.text


def test_whether_there_is_room_goes_by_all_who_are_there_though_they_are_at_work(monkeypatch):
    """One alone would have no more rows than are evaluated whatever they cost."""
    world = World(dict.fromkeys("abc", 40), {})
    for peer in world.clients.peers.values():
        peer.num_samples = 300
    world.evaluation.budget.take_note(24_000, 24)
    for ready in (["a", "b", "c"], ["a"]):
        monkeypatch.setattr(Clients, "ready", ready)
        assert not world.evaluation.is_due(1)
