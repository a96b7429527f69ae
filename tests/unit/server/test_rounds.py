"""The loop over rounds, with clients that only answer and a scheduling that only counts: what comes when."""

import pytest
import torch

from splitcom.aggregation import Update
from splitcom.config import Config
from splitcom.config.links import LinksConfig
from splitcom.protocol.messages_pb2 import EvaluationEnd, Hello, Message, StateSaved
from splitcom.protocol.session import PROTOCOL_VERSION, Form, Role, Session
from splitcom.server.agreement import forget_clients
from splitcom.server.conversations import Rejoined
from splitcom.server.rounds import Federation, Served
from splitcom.state import State
from splitcom.training.store import PartyStore
from splitcom.transports.inproc import InProcess
from splitcom.transports.link import VirtualClock

CONFIG = Config(
    method="fedlora", training={"split": False, "rounds": 3, "batch_size": 4}, federation={"clients": 2}
)


class Client:
    """Says what is due, and remembers what it was told."""

    def __init__(self, name, told, saved):
        self.name, self._told, self._saved = name, told, saved
        self._session = Session(Role.CLIENT, form=Form.STANDARD)

    def connect(self):
        hello = Hello(
            protocol_version=PROTOCOL_VERSION,
            client=self.name,
            model_fingerprint="f",
            num_samples=4,
            num_held_out=2,
            saved_rounds=self._saved.setdefault(self.name, []),
        )
        return self._session.send(Message(hello=hello))

    def receive(self, data):
        message = self._session.receive(data)
        kind = message.WhichOneof("kind")
        content = getattr(message, kind)
        self._told.append((self.name, kind, getattr(content, "round", None)))
        if kind == "save_state":
            self._saved[self.name].append(content.round)
            return self._session.send(Message(state_saved=StateSaved()))
        if kind == "evaluation_start":
            loss_sum = 8.0 if self.name == "client-0" else 4.0
            end = EvaluationEnd(loss_sum=loss_sum, num_labels=4 if self.name == "client-0" else 2)
            return self._session.send(Message(evaluation_end=end))
        return None


class Counting:
    """Every round adds 1 to the adapter; `fails` are rounds that must be done again, once each."""

    def __init__(self, run, steps, fails=()):
        self.rounds, self.settled = [], []
        self._adapter, self._states, self._fails = run.adapter, run.states, list(fails)

    def train(self, round_index):
        self.rounds.append(round_index)
        if round_index in self._fails:
            self._fails.remove(round_index)
            raise Rejoined("client-0")
        for state in self._states.values():
            state.counts.steps, state.counts.loss_sum, state.counts.num_labels = 1, 3.0, 2
        version = self._adapter.version
        self._adapter.merge([Update({"x": self._adapter.tensors["x"] + 1}, 2, version, True, "client-0")])

    def settle(self, round_index, *, is_last):
        self.settled.append((round_index, is_last))

    def state(self):
        return State()

    def load_state(self, state):
        pass


class World:
    def __init__(self, folder, config=CONFIG, fails=(), saved=None):
        self.told, self.saved = [], {} if saved is None else saved
        names = config.client_names
        clock = VirtualClock(LinksConfig(step_s=0.0, server_step_s=0.0), 0)
        self.store = PartyStore(folder)
        made = []

        def scheduling(*arguments):
            made.append(Counting(*arguments, fails=fails))
            return made[-1]

        self.transport = InProcess(names, lambda name: Client(name, self.told, self.saved), clock)
        self.federation = Federation(
            config,
            self.transport,
            Served(None, {"x": torch.zeros(2)}, "f"),
            lambda name: {},
            self.store,
            scheduling,
        )
        self.scheduling = made[0]

    def run(self):
        return [lines[0]["round"] for lines in self.federation.run()]

    def kinds(self, name):
        return [(kind, index) for client, kind, index in self.told if client == name]


def test_a_round_is_trained_evaluated_and_saved_and_then_the_next_one(tmp_path):
    world = World(tmp_path)
    assert world.run() == [0, 1, 2, 3]
    assert world.scheduling.rounds == [1, 2, 3]
    assert world.scheduling.settled == [(1, False), (2, False), (3, True)]
    rounds = [(kind, index) for index in range(4) for kind in ("evaluation_start", "save_state")]
    assert [
        (kind, None if kind == "evaluation_start" else index) for kind, index in world.kinds("client-0")
    ] == [
        ("welcome", 0),
        *((kind, index if kind == "save_state" else None) for kind, index in rounds),
        ("finish", None),
    ]
    assert world.federation.adapter["x"].tolist() == [3.0, 3.0]
    # 12 nats over 6 labels, whichever client they are of
    assert world.federation.eval_losses == dict.fromkeys(range(4), 2.0)
    assert world.store.rounds() == [2, 3]


@pytest.mark.parametrize("every", [2, 3])
def test_the_last_round_is_evaluated_and_saved_whatever_is_due(tmp_path, every):
    changes = {"training.checkpoint_every": every, "evaluation.every": every}
    world = World(tmp_path, CONFIG.override(changes))
    world.run()
    due = [0, 2, 3] if every == 2 else [0, 3]
    assert list(world.federation.eval_losses) == due and world.saved["client-1"] == due


def test_a_round_that_is_lost_is_done_again_from_the_last_saved_one(tmp_path):
    world = World(tmp_path, CONFIG.override({"training.checkpoint_every": 2}), fails=[2])
    assert world.run() == [0, 1, 1, 2, 3]  # round 1 was not saved
    assert world.scheduling.rounds == [1, 2, 1, 2, 3]
    assert world.federation.adapter["x"].tolist() == [3.0, 3.0]
    welcomes = [index for kind, index in world.kinds("client-0") if kind == "welcome"]
    assert welcomes == [0, 0]


def test_a_run_goes_on_from_what_is_kept(tmp_path):
    first = World(tmp_path, CONFIG.override({"training.rounds": 2}))
    first.run()
    first.federation.close()
    again = World(tmp_path, saved=first.saved)
    assert again.run() == [3]
    assert again.federation.adapter["x"].tolist() == [3.0, 3.0]
    assert again.kinds("client-0")[0] == ("welcome", 2)
    assert list(again.federation.eval_losses) == [0, 1, 2, 3]


def test_a_round_is_saved_by_clients_that_have_heard_something_since_they_last_did(tmp_path):
    config = CONFIG.override({"training.rounds": 4, "evaluation.every": 2})
    first = World(tmp_path, config)
    for lines in first.federation.run():
        if lines[0]["round"] == 4:  # which the server has not saved
            break
    first.federation.close()
    assert first.saved["client-0"] == [0, 2, 4] and first.store.rounds() == [2, 3]
    again = World(tmp_path, config, saved=first.saved)
    assert again.run() == [4] and not again.federation.warnings
    assert again.kinds("client-0")[0] == ("welcome", 2)


def test_what_a_client_saved_before_the_last_round_is_missed_too(tmp_path):
    config = CONFIG.override({"training.rounds": 4, "evaluation.every": 2})
    first = World(tmp_path, config)
    for lines in first.federation.run():
        if lines[0]["round"] == 4:
            break
    first.federation.close()
    again = World(tmp_path, config, saved={"client-0": [0, 2], "client-1": [0]})
    assert again.run() == [4]
    assert [again.kinds(name)[0][1] for name in ("client-0", "client-1")] == [2, 0]
    (warning,) = again.federation.warnings
    assert "client-1: no whole state of round 3" in warning


def after_two_rounds(folder):
    first = World(folder, CONFIG.override({"training.rounds": 2}))
    first.run()
    first.federation.close()


def test_all_go_back_to_the_last_round_that_they_have(tmp_path, caplog):
    after_two_rounds(tmp_path)
    again = World(tmp_path, saved={"client-0": [1, 2], "client-1": [1]})
    assert again.run() == [2, 3]
    assert [again.kinds(name)[0] for name in ("client-0", "client-1")] == [("welcome", 1)] * 2
    assert again.federation.adapter["x"].tolist() == [3.0, 3.0]
    assert "client-1: no whole state of round 2; everybody goes back to round 1" in caplog.text
    assert not again.federation.warnings and again.store.rounds() == [2, 3]


def test_so_they_do_if_that_shows_in_the_middle_of_the_run(tmp_path):
    after_two_rounds(tmp_path)

    config = CONFIG.override({"training.rounds": 4})
    world = World(tmp_path, config, saved={"client-0": [1, 2], "client-1": [1, 2]})
    rounds = []
    for lines in world.federation.run():
        rounds.append(lines[0]["round"])
        if rounds == [3]:
            world.saved["client-1"].remove(3)
            world.federation._clients.idle()
            world.transport.reset("client-1")
    assert rounds == [3, 3, 4]
    assert not world.federation.warnings


def test_a_client_that_never_has_its_state_does_not_keep_the_run_from_ending(tmp_path):
    class Forgetful(dict):
        def setdefault(self, name, default):
            return [0, 1] if name == "client-1" else super().setdefault(name, default)

    after_two_rounds(tmp_path)
    world = World(tmp_path, CONFIG, saved=Forgetful({"client-0": [1, 2], "client-1": []}), fails=[2, 3])
    assert world.run() == [2, 3]
    (warning,) = world.federation.warnings
    assert "client-1: no whole state of round 2" in warning


def test_a_client_that_has_lost_its_state_begins_anew_if_not_all_have_another_and_that_is_said(
    tmp_path, caplog
):
    after_two_rounds(tmp_path)
    again = World(tmp_path, saved={"client-0": [1, 2]})
    assert again.run() == [3]
    assert [again.told[index][:2] for index in (0, 1)] == [("client-0", "welcome"), ("client-1", "welcome")]
    (warning,) = again.federation.warnings
    assert "client-1: no whole state of round 2" in warning and "not that of an undisturbed run" in warning
    assert warning in caplog.text and "client-0: no whole state" not in caplog.text


def test_what_is_forgotten_at_the_end_leaves_the_training(tmp_path):
    world = World(tmp_path)
    world.run()
    forget_clients(world.store)
    tensors, scalars = world.store.load(3)
    assert world.store.rounds() == [3] and tensors["shared.now.x"].tolist() == [3.0, 3.0]
    assert scalars["clients"] == {"client-0": [None, 0, 0], "client-1": [None, 0, 0]}
    forget_clients(PartyStore(tmp_path / "none"))
