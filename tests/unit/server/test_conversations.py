"""The server's conversations over a scripted transport: who is dropped, and what is waited for."""

from collections import deque

import pytest

from splitcom.config import Config
from splitcom.errors import NonFiniteError
from splitcom.metrics.ledger import Ledger
from splitcom.protocol.messages_pb2 import Message
from splitcom.protocol.session import PROTOCOL_VERSION, Role, Session, State
from splitcom.server.conversations import Conversations, Rejoined
from splitcom.server.waits import Missing
from splitcom.transports.events import Admitted, Back, Excluded, Gone, Joined, Received


class Script:
    """Tells of events at their times; waiting takes no time."""

    notice_s = 60.0

    def __init__(self, *events):
        self.events = deque(sorted(events, key=lambda item: item[0]))
        self.time_s = 0.0
        self.dropped = []
        self.refused = []

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

    def refuse(self, client, reason):
        self.refused.append((client, self.time_s, reason))

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


def with_nothing_to_do(script, names, **federation):
    clients = idle_clients(script, names, **federation)
    clients.collect(names)
    clients.saved()
    return clients


def test_before_all_are_asked_something_those_that_are_gone_are_waited_for():
    said = [(0.5, saved("a")), (0.5, saved("b")), (0.5, saved("c")), (0.5, saved("d"))]
    gone = [(1.0, Gone("b")), (1.0, Gone("c"))]
    later = [(3.0, Back("c")), (4.0, Joined("b")), (4.0, Joined("e")), (5.0, hello("b")), (9.0, Gone("a"))]
    script = Script(*greeting("a", "b", "c", "d"), *said, *gone, *later)
    clients = with_nothing_to_do(script, ["a", "b", "c", "d"])
    script.time_s = 1.0
    clients.await_back()
    assert script.time_s == 5.0 and clients.ready == ["a", "c", "d"] and clients.greeted == ["b"]
    assert not script.dropped and clients.standings()["a"].waited_s is None


def test_of_those_one_that_stays_away_is_dropped_when_patience_ends(caplog):
    script = Script(
        *greeting("a", "b"), (0.5, saved("a")), (0.5, saved("b")), (1.0, Gone("b")), (99.0, Back("b"))
    )
    clients = with_nothing_to_do(script, ["a", "b"], drop_after_s=70.0)
    script.time_s = 2.0
    clients.await_back()
    assert script.dropped == [("b", 72.0)] and clients.ready == ["a"]
    assert "waiting for b since" in caplog.text and "b has been gone for 70 s and is dropped" in caplog.text


def test_one_that_has_had_a_part_since_the_last_save_has_all_go_back():
    script = Script(*greeting("a"), (0.5, saved("a")), (1.0, Gone("a")), (2.0, Joined("a")))
    clients = idle_clients(script, ["a"])
    clients.collect(["a"])
    script.time_s = 1.0
    with pytest.raises(Rejoined):
        clients.await_back()


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


def failed(name, reason):
    return Received(name, Message(failure={"reason": reason}).SerializeToString())


def test_a_client_that_fails_is_waited_for_as_one_that_is_gone(caplog):
    script = Script(*greeting("a"), (1.0, failed("a", "disk\nfull")), (9.0, Joined("a")))
    clients = idle_clients(script, ["a"])
    with pytest.raises(Rejoined):
        clients.collect(["a"])
    assert script.time_s == 9.0 and not script.dropped and "disk\\nfull" in caplog.text
    script = Script(*greeting("a"), (1.0, failed("a", "disk full")), (1.5, Gone("a")))
    clients = idle_clients(script, ["a"], drop_after_s=5.0)
    assert clients.collect(["a"]) == {} and script.dropped == [("a", 6.5)]


def test_a_client_that_fails_while_nobody_waits_for_it_is_asked_all_the_same():
    script = Script(*greeting("a"), (1.0, saved("a")), (2.0, failed("a", "disk full")), (9.0, Joined("a")))
    clients = idle_clients(script, ["a"])
    assert list(clients.collect(["a"])) == ["a"]
    assert clients.collect_arrived(["a"], until_s=3.0) == {} and clients.ready == ["a"]
    assert clients.standings()["a"].state == "idle"
    clients.send("a", Message(save_state={}))
    with pytest.raises(Rejoined):
        clients.collect(["a"])


@pytest.mark.parametrize("collect", ["collect", "collect_arrived"])
def test_a_client_that_is_connected_and_silent_is_dropped_after_the_time_of_a_step(collect):
    script = Script(*greeting("a", "b"), (3.0, saved("b")))
    clients = idle_clients(script, ["a", "b"], step_timeout_s=8.0)
    assert list(getattr(clients, collect)(["a", "b"])) == ["b"]
    if collect == "collect_arrived":
        assert clients.collect_arrived(["a"]) == {}
    assert script.dropped == [("a", 8.0)]


def test_a_silent_client_is_dropped_though_others_always_have_something_to_say():
    script = Script(*greeting("a", "b"), *((at, saved("b")) for at in (1.0, 3.0, 5.0, 7.0, 9.0)))
    clients = idle_clients(script, ["a", "b"], step_timeout_s=5.0)
    while script.events:
        assert list(clients.collect_arrived(["a", "b"])) == ["b"]
        clients.send("b", Message(save_state={}))
        script.time_s += 2.0  # the server computes, and meanwhile the next message comes
    assert script.dropped == [("a", 5.0)]


def test_the_time_of_a_step_begins_again_when_a_client_is_back():
    script = Script(*greeting("a"), (3.0, Gone("a")), (7.0, Back("a")), (12.0, saved("a")))
    clients = idle_clients(script, ["a"], step_timeout_s=6.0)
    assert list(clients.collect(["a"])) == ["a"] and not script.dropped


def test_who_connects_and_never_says_hello_is_dropped_too():
    script = Script((0.0, Joined("a")), *((9.0, event) for event in (Joined("b"), hello("b"))))
    clients = Conversations(Config(federation={"clients": 1, "step_timeout_s": 5.0}), script, Ledger(), "f")
    clients.gather()
    assert clients.present == ["b"] and script.dropped == [("a", 5.0)]


def test_the_log_says_every_minute_who_is_waited_for(caplog):
    script = Script((0.0, Joined("a")), (70.0, hello("a")), (80.0, Gone("a")), (220.0, saved("a")))
    clients = Conversations(Config(federation={"clients": 1}), script, Ledger(), "f")
    clients.gather()
    clients.send("a", Message(welcome={}))
    clients.send("a", Message(save_state={}))
    assert list(clients.collect(["a"])) == ["a"]
    lines = [record.getMessage() for record in caplog.records]
    assert [line.split(" since ")[0] for line in lines] == [
        "waiting for a", "waiting for 1 of 1 client", "waiting for a", "waiting for a",
    ]  # fmt: skip
    assert "(60 s): it is connecting" in lines[0] and "(60 s); here: nobody" in lines[1]
    assert "(60 s): it is gone" in lines[2] and "(120 s): it is gone" in lines[3]


def test_a_client_that_begins_anew_again_and_again_is_excluded():
    again = ((float(at), Joined("a")) for at in (2, 3, 4))
    script = Script(*greeting("a", "b"), (1.0, saved("b")), *again, (5.0, Joined("a")), (6.0, hello("a")))
    clients = idle_clients(script, ["a", "b"], max_restarts=2)
    for _ in range(2):
        with pytest.raises(Rejoined):
            clients.collect(["a", "b"])
        clients.peers["a"].session = Session(Role.SERVER, State.SAVING)
    assert list(clients.collect(["a", "b"])) == ["b"]
    assert [(name, at) for name, at, _ in script.refused] == [("a", 4.0)]
    assert "federation.max_restarts = 2" in script.refused[0][2]
    clients.send("b", Message(save_state={}))
    assert clients.collect_arrived(["b"], until_s=5.5) == {} and script.refused[1][:2] == ("a", 5.0)
    assert clients.num_expected == 1 and clients.standings()["a"].state == "excluded"


def test_a_saved_round_gives_restarts_back():
    script = Script(*greeting("a"), (1.0, Joined("a")), (2.0, Joined("a")))
    clients = idle_clients(script, ["a"], max_restarts=1)
    for _ in range(2):
        with pytest.raises(Rejoined):
            clients.collect(["a"])
        clients.saved()
        clients.peers["a"].session = Session(Role.SERVER, State.SAVING)
    assert clients.standings()["a"].restarts == 2 and not script.refused


def test_who_runs_the_server_excludes_and_admits():
    script = Script(
        *greeting("a", "b"), (1.0, Excluded("a", "its machine is gone")), (2.0, saved("b")), (3.0, Joined("a")),
        (4.0, Admitted("a")), (5.0, Joined("a")),
    )  # fmt: skip
    clients = idle_clients(script, ["a", "b"])
    assert list(clients.collect(["a", "b"])) == ["b"]
    assert script.refused == [("a", 1.0, "its machine is gone")] and clients.num_expected == 1
    clients.send("b", Message(save_state={}))
    clients.collect_arrived(["b"], until_s=3.5)
    assert script.refused[1:] == [("a", 3.0, "its machine is gone")]
    clients.collect_arrived(["b"], until_s=6.0)
    assert clients.num_expected == 2 and clients.standings()["a"].state == "connecting"


def test_who_has_not_come_yet_is_told_until_all_are_there():
    events = [(at, event) for name, at in (("a", 5.0), ("b", 9.0)) for event in (Joined(name), hello(name))]
    script, told = Script(*events), []
    clients = Conversations(Config(federation={"clients": 2}), script, Ledger(), "f")
    receive = script.receive

    def receive_and_look(timeout_s=None):
        event = receive(timeout_s)
        told.append(clients.missing())
        return event

    script.receive = receive_and_look
    assert clients.missing() is None
    clients.gather()
    assert Missing(2, 2, 5.0, []) in told and Missing(1, 2, 9.0, ["a"]) in told
    assert clients.missing() is None


def test_a_seat_that_is_for_another_is_waited_for():
    script = Script(
        (0.0, Excluded("a", "its machine is gone", replaced=True)), (0.0, Excluded("c", "no rows")),
        *((at, event) for name, at in (("b", 1.0), ("d", 2.0)) for event in (Joined(name), hello(name))),
    )  # fmt: skip
    clients = Conversations(Config(federation={"clients": 3}), script, Ledger(), "f")
    clients.gather()
    assert clients.present == ["b", "d"] and clients.num_expected == 2
