"""Questions to a server, and orders of whoever runs it; what a run does with them is in tests/integration."""

import socket

import pytest

from splitcom.errors import IdentityError, RunError
from splitcom.methods.admin import Admin, Drain, Drained, ask, listening, snapshot_of
from splitcom.methods.monitor import Snapshot
from splitcom.methods.seats import Seats
from splitcom.server.peers import Standing
from splitcom.transports.events import Admitted, Excluded

SNAPSHOT = Snapshot(
    rounds=3, standings={"a": Standing("idle"), "b": Standing("gone", 75.0), "c": Standing("excluded")}
)


@pytest.fixture
def world(tmp_path):
    run = tmp_path / ("long " * 20) / "run"  # longer than the address of a socket may be
    run.mkdir(parents=True)
    orders, seats, drain = [], Seats(["a", "b"], run), Drain(3)
    with listening(run, Admin(lambda: SNAPSHOT, orders.append, seats, drain)):
        yield run, orders, seats, drain
    assert not (run / ".admin").exists()
    with pytest.raises(RunError, match="no server of this run answers on this machine"):
        ask(run, ask="list")


def test_the_snapshot_arrives_as_it_is(world):
    assert snapshot_of(world[0]) == SNAPSHOT


def test_orders_reach_the_federation_and_are_kept(world):
    run, orders, seats, _ = world
    ask(run, ask="drop", client="a", reason="stolen")
    ask(run, ask="replace", client="b", by="x")
    ask(run, ask="admit", client="a")
    ask(run, ask="admit", client="c")  # of its own accord the server has excluded it
    assert orders == [
        Excluded("a", "stolen"), Excluded("b", "x has taken its place", replaced=True), Admitted("x"),
        Admitted("a"), Admitted("c"),
    ]  # fmt: skip
    assert seats.barred("a") is seats.barred("x") is None and seats.barred("b")


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ({"ask": "drop", "client": "z", "reason": ""}, "z has not been seen .*there are a, b, c"),
        ({"ask": "replace", "client": "b", "by": "a"}, "a takes part already"),
        ({"ask": "replace", "client": "b", "by": "../b"}, "client name '../b'"),
        ({"ask": "admit", "client": "a"}, "a is not excluded"),
        ({"ask": "dance"}, "no such question"),
        ({"ask": "drop", "client": "a"}, "no such question"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(world, question, expected):
    run, orders, _, _ = world
    with pytest.raises((RunError, IdentityError), match=expected):
        ask(run, **question)
    assert not orders


def test_garbage_gets_an_answer_and_the_next_question_too(world):
    run = world[0]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(_near(run))
        connection.sendall(b"[[[\n")
        assert b"no question" in connection.recv(1 << 12)
    assert snapshot_of(run) == SNAPSHOT


def _near(run):
    link = run.parents[1] / "s"
    link.symlink_to(run / ".admin")
    return str(link / "socket")


def test_a_run_is_drained_after_a_saved_round_but_not_after_the_last(world):
    run, _, _, drain = world
    drain.on_saved(1)
    ask(run, ask="drain")
    drain.on_saved(3)
    with pytest.raises(Drained, match="stopped after round 2"):
        drain.on_saved(2)
