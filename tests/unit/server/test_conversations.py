"""The server's conversations over a scripted transport: who is dropped, and what is waited for."""

from collections import deque

import pytest

from splitcom.config import Config
from splitcom.errors import NonFiniteError
from splitcom.metrics.ledger import Ledger
from splitcom.protocol.messages_pb2 import Message
from splitcom.protocol.session import PROTOCOL_VERSION, State
from splitcom.server.conversations import Conversations
from splitcom.transports.events import Back, Gone, Joined, Received


class Script:
    """Tells of events at their times; waiting takes no time."""

    def __init__(self, *events):
        self.events = deque(sorted(events, key=lambda item: item[0]))
        self.time_s = 0.0
        self.dropped = []

    def now(self):
        return self.time_s

    def receive(self, timeout_s=None):
        until_s = float("inf") if timeout_s is None else self.time_s + timeout_s
        if self.events and self.events[0][0] <= until_s:
            at, event = self.events.popleft()
            self.time_s = max(self.time_s, at)
            return event
        assert until_s < float("inf"), "waits for ever"
        self.time_s = until_s
        return None

    def send(self, client, data):
        pass

    def reset(self, client):
        self.dropped.append((client, self.time_s))


def hello(name):
    message = Message(hello={"protocol_version": PROTOCOL_VERSION, "client": name, "model_fingerprint": "f"})
    return Received(name, message.SerializeToString())


def saved(name):
    return Received(name, Message(state_saved={}).SerializeToString())


def idle_clients(script, names, **federation):
    """Conversations whose clients have been asked to save their state."""
    config = Config(federation={"clients": len(names), **federation})
    conversations = Conversations(config, script, Ledger(), "f")
    conversations.gather()
    for name in names:
        conversations.send(name, Message(welcome={}))
        conversations.send(name, Message(save_state={}))
    return conversations


def greeting(*names):
    return [(0.0, event) for name in names for event in (Joined(name), hello(name))]


def test_a_client_that_is_back_may_compute_for_longer_than_the_patience():
    script = Script(*greeting("a"), (1.0, Gone("a")), (2.0, Back("a")), (99.0, saved("a")))
    clients = idle_clients(script, ["a"], drop_after_s=5.0)
    assert list(clients.collect(["a"])) == ["a"] and not script.dropped


@pytest.mark.parametrize("later", [(), ((7.0, Back("a")),)])
def test_a_client_that_stays_away_is_dropped_when_patience_ends(later):
    script = Script(*greeting("a"), (1.0, Gone("a")), *later)
    clients = idle_clients(script, ["a"], drop_after_s=5.0)
    assert clients.collect(["a"]) == {} and script.dropped == [("a", 6.0)]


def test_what_has_arrived_by_the_first_message_is_taken_with_it_and_the_rest_waits():
    script = Script(*greeting("a", "b", "c"), (3.0, saved("b")), (3.0, saved("a")), (4.0, saved("c")))
    clients = idle_clients(script, ["a", "b", "c"])
    assert clients.collect_arrived("abc", until_s=2.0) == {} and script.time_s == 2.0
    assert list(clients.collect_arrived("abc")) == ["a", "b"] and script.time_s == 3.0
    assert list(clients.collect_arrived("abc", until_s=9.0)) == ["c"] and script.time_s == 4.0


def test_what_others_say_while_one_is_waited_for_is_not_lost():
    script = Script(*greeting("a", "b"), (1.0, saved("b")), (2.0, saved("a")))
    clients = idle_clients(script, ["a", "b"])
    assert list(clients.collect(["a"])) == ["a"]
    assert list(clients.collect(["b"])) == ["b"] and script.time_s == 2.0
    assert all(peer.session.state is State.IDLE for peer in clients.peers.values())


def ended(name, *, diverged):
    failure = {"reason": "training has diverged", "diverged": diverged}
    return Received(name, Message(failure=failure).SerializeToString())


def test_a_run_of_which_all_clients_have_diverged_ends_with_their_reason():
    said = [(0.0, Joined("a")), (0.0, Joined("b")), (1.0, hello("a")), (1.0, hello("b"))]
    ends = [(2.0, ended("a", diverged=True)), (2.0, saved("b"))]
    conversations = idle_clients(Script(*said, *ends), ["a", "b"])
    assert list(conversations.collect(["a", "b"])) == ["b"]
    conversations.send("b", Message(save_state={}))
    conversations.transport.events.append((3.0, ended("b", diverged=True)))
    with pytest.raises(NonFiniteError, match="b, the last client, has ended: training has diverged"):
        conversations.collect(["b"])


def test_a_client_that_ends_for_a_reason_of_its_own_may_come_back():
    said = [(0.0, Joined("a")), (1.0, hello("a")), (2.0, ended("a", diverged=False))]
    conversations = idle_clients(Script(*said), ["a"])
    assert conversations.collect(["a"]) == {} and not conversations.present
