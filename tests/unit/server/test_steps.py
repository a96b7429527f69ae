"""Steps of a round: what a message brings, what is answered, what is counted, and who is refused."""

import pytest
import torch

from splitcom.codecs import Ragged, parse, uncompressed_size
from splitcom.config import Config
from splitcom.engines.engine import StepResult
from splitcom.metrics.ledger import Ledger
from splitcom.protocol.messages_pb2 import Message
from splitcom.server.arrivals import Lost
from splitcom.server.observe import Observer
from splitcom.server.part import ServerRun
from splitcom.server.state import ClientStates, Task
from splitcom.server.steps import Steps
from splitcom.training.channel import Channel

from .exchange import Clients, arrival_of

ACTIVATION = Message(activation={"step": 0, "activation": b"-"})
LOST = Message(reference_lost={"step": 0, "sample_ids": [7]})


class Adapter:
    version, tensors, share = 4, {"x": torch.zeros(1)}, None

    def offer(self, name, client, message):
        message.adapter_version, message.adapter = self.version, b"adapter"
        return message

    def read(self, name, packet, version, segment):
        return {"x": torch.full((1,), float(len(packet) + version))}


class Body:
    """`brings` is what the next messages turn out to be; a step's results are `results`."""

    def __init__(self):
        self.arrivals, self.brings, self.steps, self.results = self, [], [], {}

    def to_train(self, name, message):
        return self.brings.pop(0)

    def step(self, arrivals, position, packet_position, progress):
        self.steps.append((list(arrivals), position, packet_position, progress))
        return {name: self.results[name] for name in arrivals if name in self.results}

    def packed_gradient(self, name, arrival, encode):
        return encode()


class Reports(Observer):
    def __init__(self):
        self.steps = []

    def on_step(self, report):
        self.steps.append(report)


class World:
    def __init__(self, *names, **settings):
        self.config = Config().override({"training.batch_size": 4} | settings)
        self.clients = Clients(*names)
        self.states = ClientStates(
            lambda name: {"gradient_down": Channel("gradient_down", name, parse("none"), None, 0)}
        )
        self.body, self.reports = Body(), Reports()
        body = self.body if self.config.training.split else None
        self.steps = Steps(
            ServerRun(self.config, self.clients, self.states, Adapter()), body, Ledger(), self.reports
        )
        for name in names:
            self.states[name].task = Task(1, 3)


def gradient(decoded):
    return Ragged(torch.ones_like(decoded.batch.values), decoded.batch.lengths)


def test_a_round_begins_with_the_adapter_and_goes_on_without_it():
    world = World("a", "b")
    world.steps.freezes_fronts = True
    world.steps.begin("a", Task(2, 4, 1.5))
    world.steps.begin("b", Task(2, 4, next_step=3, is_pausing=True))
    first, second = (message.round_start for _, message in world.clients.sent)
    assert (first.round, first.first_step, first.place, first.frozen) == (2, 0, 1.5, True)
    assert (first.adapter_version, first.adapter) == (4, b"adapter")
    assert (second.first_step, second.frozen, second.adapter_version, second.adapter) == (3, False, 0, b"")
    assert world.states["b"].task == Task(2, 4, next_step=3)


def test_a_batch_is_stepped_on_and_the_end_of_a_round_is_an_update_that_weighs_by_labels():
    world = World("a", "b")
    arrival = arrival_of([7], [3])
    world.body.brings = [arrival]
    world.states["b"].task = Task(1, 3, next_step=2, num_labels=11)
    world.states["b"].gradient = (gradient(arrival.decoded), [7])
    end = Message(round_end={"round": 1, "adapter": b"12345"})
    brought = world.steps.receive({"a": ACTIVATION, "b": end})
    assert brought.arrivals == {"a": arrival} and not world.clients.sent
    update = brought.updates["b"]
    assert (update.num_labels, update.version, update.is_new, update.client) == (11, 3, True, "b")
    assert update.adapter["x"].item() == 8.0
    state = world.states["b"]
    assert state.task is None and state.gradient is None and state.counts.updates == 1


def test_who_was_frozen_leaves_the_adapter_as_it_is():
    world = World("a")
    world.states["a"].task = Task(1, 3, is_frozen=True, next_step=1)
    [update] = world.steps.receive({"a": Message(round_end={"round": 1})}).updates.values()
    assert not update.is_new and update.adapter is Adapter.tensors


def test_what_the_server_lacks_is_asked_for_once():
    world, arrival = World("a"), arrival_of([7], [3])
    world.body.brings = [Lost(0, [7]), arrival]
    world.clients.says["a"].append(ACTIVATION)
    assert world.steps.receive({"a": ACTIVATION}).arrivals == {"a": arrival}
    [(_, message)] = world.clients.sent
    assert message.reference_lost.step == 0 and list(message.reference_lost.sample_ids) == [7]

    world.body.brings = [Lost(0, [7]), Lost(0, [7])]
    world.clients.says["a"].append(ACTIVATION)
    assert not world.steps.receive({"a": ACTIVATION}).arrivals
    assert world.clients.refused == {"a": "references are lost again and again in one step"}


def test_a_gradient_whose_reference_the_client_lacks_is_sent_again():
    world, arrival = World("a"), arrival_of([7], [3])
    world.states["a"].task = Task(1, 3, next_step=1, is_pausing=True)
    world.states["a"].gradient = (gradient(arrival.decoded), [7])
    world.body.brings = [arrival]
    world.clients.says["a"].append(ACTIVATION)
    assert world.steps.receive({"a": LOST}).arrivals == {"a": arrival}
    [(_, message)] = world.clients.sent
    assert message.gradient.step == 0 and message.gradient.pause
    decoded = Channel("gradient_down", "a", parse("none"), None, 0).decode(message.gradient.gradient, 1 << 20)
    assert decoded.ids == [7] and torch.equal(decoded.batch.values, torch.ones(3, 2))
    assert world.states["a"].gradient is None  # its next batch says that it has it


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (Message(round_paused={}), "it has paused without being told to"),
        (LOST, "the gradient of step 0 is lost, after 0 steps"),
        (Message(round_end={"round": 9}), "the end of round 9; it is in round 1"),
    ],
)
def test_what_cannot_be_said_now_is_refused_and_the_others_go_on(message, reason):
    world, arrival = World("a", "b"), arrival_of([1], [2])
    world.body.brings = [arrival]
    assert world.steps.receive({"a": message, "b": ACTIVATION}).arrivals == {"b": arrival}
    assert reason in world.clients.refused["a"]


def test_a_pause_that_was_asked_for_brings_nothing_and_keeps_the_task():
    world = World("a")
    world.states["a"].task = task = Task(1, 3, next_step=1, is_pausing=True)
    brought = world.steps.receive({"a": Message(round_paused={})})
    assert not brought.arrivals and not brought.updates and world.states["a"].task is task


def test_a_round_that_is_too_late_is_told_so_with_the_next_batch():
    world = World("a", "b")
    for name in "ab":
        world.states[name].task = Task(1, 3, is_abandoned=True)
    world.clients.peers["b"].is_idle = True  # it has just ended the round
    world.body.brings = [arrival_of([1], [2])]
    brought = world.steps.receive({"a": ACTIVATION, "b": Message(round_end={"round": 1})})
    assert not brought.arrivals and not brought.updates and not world.body.brings
    assert world.clients.kinds() == [("a", "round_abort")]
    assert world.states["a"].task is world.states["b"].task is None


def results_of(arrivals, losses, labels):
    return {
        name: StepResult(gradient(arrival.decoded), loss, count, 1)
        for (name, arrival), loss, count in zip(arrivals.items(), losses, labels, strict=True)
    }


@pytest.mark.parametrize(
    ("way", "steps"),
    [
        ("parallel", [(["a", "b"], (2, 5), (2, 5), 0.25)]),
        ("sequential", [(["a"], (2, 10), (2, 5), 0.25), (["b"], (2, 11), (2, 5), 0.25)]),
    ],
)
def test_a_step_is_counted_answered_and_reported(way, steps):
    world = World("a", "b", **{"training.body_update": way})
    arrivals = {"a": arrival_of([7, 8], [3, 1], skipped=1), "b": arrival_of([4], [2])}
    world.body.results = results_of(arrivals, [6.0, 3.0], [2, 1])
    world.steps.step(arrivals, (2, 5), 9, 0.25, pause=True)
    assert world.body.steps == steps
    counts = world.states["a"].counts
    assert (counts.steps, counts.tokens, counts.loss_sum, counts.num_labels, counts.num_correct) == (
        1,
        4,
        6.0,
        2,
        1,
    )
    assert counts.uncompressed_bytes == uncompressed_size([7, 8], [3, 1], 2)
    task = world.states["a"].task
    assert (task.next_step, task.num_labels, task.is_pausing) == (1, 2, True)
    assert [
        (name, message.gradient.step, message.gradient.pause) for name, message in world.clients.sent
    ] == [
        ("a", 0, True),
        ("b", 0, True),
    ]
    [report] = world.reports.steps
    assert (report.round, report.step, report.num_steps, report.loss) == (2, 6, 9, 3.0)
    assert report.skip_ratio == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("way", "further"),
    [
        ("parallel", [(["a", "b"], (2, 5, -1)), (["a", "b"], (2, 5, -2))]),
        (
            "sequential",
            [(["a"], (2, 10, -1)), (["b"], (2, 11, -1)), (["a"], (2, 10, -2)), (["b"], (2, 11, -2))],
        ),
    ],
)
def test_further_steps_of_the_body_answer_nobody_and_count_no_label_twice(way, further):
    world = World("a", "b", **{"training.body_update": way, "training.body_steps": 3})
    arrivals = {"a": arrival_of([7, 8], [3, 1]), "b": arrival_of([4], [2])}
    world.body.results = results_of(arrivals, [6.0, 3.0], [2, 1])
    world.steps.step(arrivals, (2, 5), 9, 0.25)
    taken = world.body.steps[-len(further) :]
    assert [(names, draw) for names, draw, _, _ in taken] == further
    assert {progress for _, _, _, progress in taken} == {0.25}
    assert [name for name, _ in world.clients.sent] == ["a", "b"]
    assert world.states["a"].counts.num_labels == world.states["a"].task.num_labels == 2
    assert world.states["a"].counts.steps == 1


def test_who_has_no_part_in_a_step_has_none_in_the_further_ones():
    world = World("a", "b", **{"training.body_steps": 2})
    arrivals = {"a": arrival_of([7], [3]), "b": arrival_of([4], [2])}
    world.body.results = results_of({"a": arrivals["a"]}, [6.0], [2])  # b has been refused
    world.steps.step(arrivals, (1, 0), 2, 0.1)
    assert [names for names, *_ in world.body.steps] == [["a", "b"], ["a"]]


def test_losses_of_the_u_shape_are_nobodys_to_report():
    world, arrivals = World("a", **{"model.tail_blocks": 1}), {"a": arrival_of([7], [3])}
    world.body.results = results_of(arrivals, [0.0], [2])
    world.steps.step(arrivals, (1, 0), 2, 0.1)
    assert world.reports.steps[0].loss is None


def test_a_step_that_has_lost_all_its_clients_is_none():
    world, arrivals = World("a"), {"a": arrival_of([7], [3])}
    world.steps.step(arrivals, (1, 0), 2, 0.1)
    assert not world.clients.sent and not world.reports.steps and world.states["a"].counts.steps == 0


def test_of_clients_that_train_alone_what_they_say_is_counted():
    world = World("a", method="fedlora", **{"training.split": False})
    end = {
        "round": 1,
        "num_steps": 2,
        "num_tokens": 30,
        "num_labels": 10,
        "loss_sum": 25.0,
        "num_correct": 10,
    }
    [update] = world.steps.receive({"a": Message(round_end=end)}).updates.values()
    counts = world.states["a"].counts
    assert update.num_labels == counts.num_labels == counts.num_correct == 10
    assert (counts.steps, counts.tokens, counts.loss_sum) == (2, 30, 25.0)
    assert world.reports.steps[0].loss == 2.5
    world.states["a"].task = Task(1, 3)
    world.steps.receive({"a": ACTIVATION})
    assert world.clients.refused == {"a": "an activation, in a run that is not split"}
