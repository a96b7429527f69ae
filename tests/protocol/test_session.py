"""The protocol's table, driven through a pair of sessions."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitcom.errors import LocalProtocolError, RemoteProtocolError
from splitcom.protocol.messages_pb2 import Message
from splitcom.protocol.session import TRANSITIONS, Role, Session, State

KINDS = [field.name for field in Message.DESCRIPTOR.oneofs_by_name["kind"].fields]
ROUND = ["round_start", "activation", "gradient", "activation", "reference_lost", "activation", "gradient"]
SENDER = {kind: role for (_, role, kind) in TRANSITIONS if kind not in ("failure", "reference_lost")}


def message(kind):
    built = Message()
    getattr(built, kind).SetInParent()
    return built


def test_a_whole_conversation_passes_through_a_pair():
    sessions = {role: Session(role) for role in Role}
    script = ["hello", "welcome", *ROUND, "round_end", "evaluation_start", "evaluation_batch"]
    script += ["evaluation_next", "evaluation_end", "finish"]
    for kind in script:
        sender = SENDER.get(kind, Role.SERVER)
        data = sessions[sender].send(message(kind))
        assert sessions[sender.peer].receive(data).WhichOneof("kind") == kind
        assert sessions[sender].state is sessions[sender.peer].state
    assert sessions[Role.CLIENT].state is State.CLOSED


def test_a_client_that_lost_a_reference_gets_the_gradient_again():
    client, server = Session(Role.CLIENT, State.TRAINING), Session(Role.SERVER, State.TRAINING)
    for sender, receiver, kind in (
        (client, server, "activation"),
        (server, client, "gradient"),
        (client, server, "reference_lost"),
        (server, client, "gradient"),
    ):
        receiver.receive(sender.send(message(kind)))
    assert client.state is server.state is State.TRAINING


ILLEGAL = [case for case in itertools.product(State, Role, KINDS) if case not in TRANSITIONS]


@pytest.mark.parametrize(
    ("state", "sender", "kind"), ILLEGAL, ids=lambda value: getattr(value, "value", value)
)
def test_every_illegal_message_is_refused_at_both_ends(state, sender, kind):
    with pytest.raises(LocalProtocolError, match=f"may not send '{kind}'"):
        Session(sender, state).send(message(kind))
    receiver = Session(sender.peer, state)
    with pytest.raises(RemoteProtocolError, match=f"may not send '{kind}'"):
        receiver.receive(message(kind).SerializeToString())
    assert receiver.state is state


def test_every_kind_of_message_and_every_state_is_in_the_table():
    assert {kind for _, _, kind in TRANSITIONS} == set(KINDS)
    assert {state for state, _, _ in TRANSITIONS} | {State.CLOSED} == set(State)


@settings(deadline=None, max_examples=300)
@given(data=st.binary(max_size=200), state=st.sampled_from(State), role=st.sampled_from(Role))
def test_random_bytes_are_a_message_or_a_remote_error(data, state, role):
    session = Session(role, state)
    try:
        received = session.receive(data)
    except RemoteProtocolError:
        assert session.state is state
    else:
        assert (state, role.peer, received.WhichOneof("kind")) in TRANSITIONS
