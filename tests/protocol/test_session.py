"""The protocol's table, driven through a pair of sessions."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitcom.errors import LocalProtocolError, RemoteProtocolError
from splitcom.protocol.messages_pb2 import Message
from splitcom.protocol.session import TRANSITIONS, Form, Role, Session, State

KINDS = [field.name for field in Message.DESCRIPTOR.oneofs_by_name["kind"].fields]
LOST = "reference_lost"
SENDER = {
    kind: role for table in TRANSITIONS.values() for (_, role, kind) in table if kind not in ("failure", LOST)
}
STEP = {
    Form.STANDARD: ["activation", "gradient"],
    Form.U_SHAPE: ["activation_up", "activation_down", "gradient_up", "gradient"],
}
EVALUATION = {
    Form.STANDARD: ["evaluation_batch", "evaluation_next"],
    Form.U_SHAPE: ["evaluation_up", "evaluation_down"],
}


def message(kind):
    built = Message()
    getattr(built, kind).SetInParent()
    return built


def pair(form, state=State.CONNECTING):
    return {role: Session(role, state, form) for role in Role}


def say(sessions, sender, kind):
    data = sessions[sender].send(message(kind))
    assert sessions[sender.peer].receive(data).WhichOneof("kind") == kind
    assert sessions[sender].state is sessions[sender.peer].state
    return sessions[sender].state


@pytest.mark.parametrize("form", Form)
def test_a_whole_conversation_passes_through_a_pair(form):
    sessions = pair(form)
    script = ["hello", "welcome", "round_start", *STEP[form], *STEP[form], "round_end", "evaluation_start"]
    script += [*EVALUATION[form], "evaluation_end", "save_state", "state_saved", "finish"]
    for kind in script:
        state = say(sessions, SENDER[kind], kind)
    assert state is State.CLOSED


@pytest.mark.parametrize("form", Form)
def test_every_packet_of_a_step_is_sent_again_where_its_receiver_has_lost_references(form):
    sessions = pair(form, State.TRAINING)
    for kind in STEP[form]:
        sender = SENDER[kind]
        state = say(sessions, sender, kind)
        say(sessions, sender.peer, LOST)
        assert say(sessions, sender, kind) is state
    assert state is State.TRAINING


def test_no_message_of_a_step_in_the_u_shape_has_a_field_for_labels_or_losses():
    kinds = {kind for _, _, kind in TRANSITIONS[Form.U_SHAPE]}
    by_kind = {field.name: field.message_type for field in Message.DESCRIPTOR.oneofs_by_name["kind"].fields}
    telling = {kind for kind in kinds if {"labels", "loss_sum"} & set(by_kind[kind].fields_by_name)}
    assert telling == {"round_end", "evaluation_end"}, "sums over a round, and over all held-out samples"
    fields = {
        kind: set(by_kind[kind].fields_by_name) for kind in (*STEP[Form.U_SHAPE], *EVALUATION[Form.U_SHAPE])
    }
    assert fields == {
        "activation_up": {"step", "activation"},
        "activation_down": {"step", "activation"},
        "gradient_up": {"step", "gradient", "num_labels"},
        "gradient": {"step", "gradient", "pause"},
        "evaluation_up": {"activation"},
        "evaluation_down": {"activation"},
    }
    labelled = Message(activation={"activation": b"a", "labels": b"b"})
    sessions = pair(Form.U_SHAPE, State.TRAINING)
    with pytest.raises(LocalProtocolError, match="may not send 'activation'"):
        sessions[Role.CLIENT].send(labelled)
    with pytest.raises(RemoteProtocolError, match="may not send 'activation'"):
        sessions[Role.SERVER].receive(labelled.SerializeToString())


@pytest.mark.parametrize(
    "script",
    [
        [
            "round_start",
            "activation",
            "gradient",
            "round_paused",
            "evaluation_start",
            "evaluation_end",
            "save_state",
        ],
        ["round_start", "activation", "round_abort", "round_start", "round_end", "finish"],
    ],
)
def test_a_round_that_is_paused_or_aborted_leaves_the_client_idle(script):
    sessions = {role: Session(role, State.IDLE) for role in Role}
    for kind in script:
        sender = SENDER[kind]
        sessions[sender.peer].receive(sessions[sender].send(message(kind)))
        assert sessions[sender].state is sessions[sender.peer].state
        if kind in ("round_paused", "round_abort"):
            assert sessions[Role.CLIENT].state is State.IDLE


ILLEGAL = [
    (form, *case)
    for form in Form
    for case in itertools.product(State, Role, KINDS)
    if case not in TRANSITIONS[form]
]


@pytest.mark.parametrize(
    ("form", "state", "sender", "kind"), ILLEGAL, ids=lambda value: getattr(value, "value", value)
)
def test_every_illegal_message_is_refused_at_both_ends(form, state, sender, kind):
    with pytest.raises(LocalProtocolError, match=f"may not send '{kind}'"):
        Session(sender, state, form).send(message(kind))
    receiver = Session(sender.peer, state, form)
    with pytest.raises(RemoteProtocolError, match=f"may not send '{kind}'"):
        receiver.receive(message(kind).SerializeToString())
    assert receiver.state is state


def test_every_kind_of_message_and_every_state_is_in_a_table():
    keys = {key for table in TRANSITIONS.values() for key in table}
    assert {kind for _, _, kind in keys} == set(KINDS)
    assert {state for state, _, _ in keys} | {State.CLOSED} == set(State)


@settings(deadline=None, max_examples=300)
@given(
    data=st.binary(max_size=200),
    form=st.sampled_from(Form),
    state=st.sampled_from(State),
    role=st.sampled_from(Role),
)
def test_random_bytes_are_a_message_or_a_remote_error(data, form, state, role):
    session = Session(role, state, form)
    try:
        received = session.receive(data)
    except RemoteProtocolError:
        assert session.state is state
    else:
        assert (state, role.peer, received.WhichOneof("kind")) in TRANSITIONS[form]


@pytest.mark.parametrize("form", Form)
def test_exactly_one_side_owes_the_next_message(form):
    for state in State:
        senders = {role for at, role, kind in TRANSITIONS[form] if at is state and kind != "failure"}
        assert len(senders) <= 1
        assert {Session(role, state, form).turn for role in Role} == {next(iter(senders), None)}
