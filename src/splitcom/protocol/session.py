"""The order of messages between one client and the server; all of it is in this file, and none of it knows our role.

The protocol is the table `TRANSITIONS`. Both ends keep a `Session`, which turns messages into bytes and back and
refuses whatever the table does not allow. No I/O, no threads, no clocks.

            hello          welcome
  CONNECTING ────► GREETED ────────► IDLE ◄──────────────────────────────┐
                                     │  ▲                                │
                        round_start  │  │ round_end      evaluation_start│evaluation_end
                                     ▼  │                                ▼
    ┌───────────────────────────► TRAINING                 ┌──────► EVALUATING
    │ gradient         activation    │      evaluation_next│             │ evaluation_batch
    └── AWAITING_GRADIENT ◄──────────┘                     └─ AWAITING_NEXT ◄─┘

`save_state` and `state_saved` lead from IDLE to SAVING and back. `reference_lost` answers an activation (back to
TRAINING: the client sends it again) or a gradient (back to AWAITING_GRADIENT: the server sends it again). `finish`
leads from IDLE, `failure` from anywhere, to CLOSED.
"""

from enum import Enum

from google.protobuf.message import DecodeError

from splitcom.errors import LocalProtocolError, RemoteProtocolError
from splitcom.protocol.messages_pb2 import Message

PROTOCOL_VERSION = 1
MAX_MESSAGE_BYTES = 1 << 30


class Role(Enum):
    """Who sends a message."""

    CLIENT = "client"
    SERVER = "server"

    @property
    def peer(self) -> "Role":
        """The other one."""
        return Role.SERVER if self is Role.CLIENT else Role.CLIENT


class State(Enum):
    """Where a session stands; the same at both ends but for what is under way."""

    CONNECTING = "connecting"
    GREETED = "greeted"
    IDLE = "idle"
    TRAINING = "training"
    AWAITING_GRADIENT = "awaiting gradient"
    EVALUATING = "evaluating"
    AWAITING_NEXT = "awaiting next"
    SAVING = "saving"
    CLOSED = "closed"


C, S = Role.CLIENT, Role.SERVER
TRANSITIONS: dict[tuple[State, Role, str], State] = {
    (State.CONNECTING, C, "hello"): State.GREETED,
    (State.GREETED, S, "welcome"): State.IDLE,
    (State.IDLE, S, "round_start"): State.TRAINING,
    (State.TRAINING, C, "activation"): State.AWAITING_GRADIENT,
    (State.AWAITING_GRADIENT, S, "gradient"): State.TRAINING,
    (State.AWAITING_GRADIENT, S, "reference_lost"): State.TRAINING,
    (State.TRAINING, C, "reference_lost"): State.AWAITING_GRADIENT,
    (State.TRAINING, C, "round_end"): State.IDLE,
    (State.IDLE, S, "evaluation_start"): State.EVALUATING,
    (State.EVALUATING, C, "evaluation_batch"): State.AWAITING_NEXT,
    (State.AWAITING_NEXT, S, "evaluation_next"): State.EVALUATING,
    (State.EVALUATING, C, "evaluation_end"): State.IDLE,
    (State.IDLE, S, "save_state"): State.SAVING,
    (State.SAVING, C, "state_saved"): State.IDLE,
    (State.IDLE, S, "finish"): State.CLOSED,
    **{
        (state, role, "failure"): State.CLOSED
        for state in State
        if state is not State.CLOSED
        for role in Role
    },
}


class Session:
    """One end of the conversation between a client and the server.

    >>> client, server = Session(Role.CLIENT), Session(Role.SERVER)
    >>> received = server.receive(client.send(Message(hello={"client": "clinic-a"})))
    >>> received.hello.client, server.state
    ('clinic-a', <State.GREETED: 'greeted'>)
    """

    def __init__(self, role: Role, state: State = State.CONNECTING) -> None:
        self.role = role
        self.state = state

    def send(self, message: Message) -> bytes:
        """Serialise a message of ours; raises LocalProtocolError where the table does not allow it now."""
        following = TRANSITIONS.get((self.state, self.role, _kind(message)))
        if following is None:
            raise LocalProtocolError(f"{self._describe(self.role, message)}")
        self.state = following
        return message.SerializeToString(deterministic=True)

    def receive(self, data: bytes) -> Message:
        """Parse a message of the peer's; raises RemoteProtocolError where it is malformed or out of order."""
        if len(data) > MAX_MESSAGE_BYTES:
            raise RemoteProtocolError(
                f"a message of {len(data)} bytes; at most {MAX_MESSAGE_BYTES} are accepted"
            )
        try:
            message = Message.FromString(data)
        except DecodeError as error:
            raise RemoteProtocolError(f"{len(data)} bytes that are no message: {error}") from error
        following = TRANSITIONS.get((self.state, self.role.peer, _kind(message)))
        if following is None:
            raise RemoteProtocolError(self._describe(self.role.peer, message))
        self.state = following
        return message

    def _describe(self, sender: Role, message: Message) -> str:
        allowed = [kind for state, role, kind in TRANSITIONS if state is self.state and role is sender]
        return (
            f"the {sender.value} may not send '{_kind(message)}' while the session is {self.state.value}; "
            f"allowed: {', '.join(sorted(allowed)) or 'nothing'}"
        )


def _kind(message: Message) -> str:
    return message.WhichOneof("kind") or "nothing"
