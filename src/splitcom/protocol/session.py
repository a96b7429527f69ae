"""The order of messages between one client and the server; all of it is in this file, and none of it knows our role.

The protocol is the table `TRANSITIONS` of the run's form. Both ends keep a `Session`, which turns messages into bytes
and back and refuses whatever the table does not allow. No I/O, no threads, no clocks.

            hello          welcome
  CONNECTING ────► GREETED ────────► IDLE ◄──────────────────────────────┐
                                     │  ▲                                │
                        round_start  │  │ round_end      evaluation_start│evaluation_end
                                     ▼  │                                ▼
    ┌───────────────────────────► TRAINING                 ┌──────► EVALUATING
    │ gradient         activation    │      evaluation_next│             │ evaluation_batch
    └── AWAITING_GRADIENT ◄──────────┘                     └─ AWAITING_NEXT ◄─┘

In the U-shape a step takes four messages, and none of their types has a field for labels, logits or losses:

             activation_up                 activation_down            gradient_up
    TRAINING ──────────────► AWAITING_HIDDEN ──────────────► IN_TAIL ─────────────► AWAITING_GRADIENT
       ▲                                                                 gradient          │
       └───────────────────────────────────────────────────────────────────────────────────┘
                evaluation_up                  evaluation_down
    EVALUATING ──────────────► AWAITING_NEXT ──────────────────► EVALUATING

A round may be trained in chunks: `chunk_end` leads from TRAINING to AWAITING_VERDICT, and `chunk_next` back.
With secure aggregation, `mask_start`, `mask_peers` and `mask_open` lead from IDLE to KEYING, SHARING and OPENING, and
`mask_keys`, `mask_shares` and `mask_opened` back.
`save_state` and `state_saved` lead from IDLE to SAVING and back. `reference_lost` answers a packet of either side and
leads back to where it was sent from: it is sent again. `finish` leads from IDLE, `failure` from anywhere, to CLOSED.
"""

from collections.abc import Mapping
from enum import Enum

from google.protobuf.message import DecodeError

from splitcom.errors import LocalProtocolError, RemoteProtocolError
from splitcom.protocol.limits import LIMITS, KindLimits, kind_of
from splitcom.protocol.messages_pb2 import Message

PROTOCOL_VERSION = 7


class Role(Enum):
    """Who sends a message."""

    CLIENT = "client"
    SERVER = "server"

    @property
    def peer(self) -> "Role":
        """The other one."""
        return Role.SERVER if self is Role.CLIENT else Role.CLIENT


class Form(Enum):
    """Who has the tail and the labels: the server, or in the U-shape the client."""

    STANDARD = "standard"
    U_SHAPE = "U-shape"

    @classmethod
    def of(cls, tail_blocks: int) -> "Form":
        """The form of a model that is cut so."""
        return cls.U_SHAPE if tail_blocks else cls.STANDARD


class State(Enum):
    """Where a session stands; the same at both ends but for what is under way."""

    CONNECTING = "connecting"
    GREETED = "greeted"
    IDLE = "idle"
    TRAINING = "training"
    AWAITING_HIDDEN = "awaiting hidden states"
    IN_TAIL = "in the tail"
    AWAITING_GRADIENT = "awaiting gradient"
    AWAITING_VERDICT = "awaiting verdict"
    EVALUATING = "evaluating"
    AWAITING_NEXT = "awaiting next"
    SAVING = "saving"
    KEYING = "making keys"
    SHARING = "sharing secrets"
    OPENING = "taking masks off"
    CLOSED = "closed"


C, S = Role.CLIENT, Role.SERVER
Transitions = Mapping[tuple[State, Role, str], State]
_COMMON: Transitions = {
    (State.CONNECTING, C, "hello"): State.GREETED,
    (State.GREETED, S, "welcome"): State.IDLE,
    (State.IDLE, S, "round_start"): State.TRAINING,
    (State.AWAITING_GRADIENT, S, "gradient"): State.TRAINING,
    (State.TRAINING, C, "reference_lost"): State.AWAITING_GRADIENT,
    (State.TRAINING, C, "chunk_end"): State.AWAITING_VERDICT,
    (State.AWAITING_VERDICT, S, "chunk_next"): State.TRAINING,
    (State.TRAINING, C, "round_end"): State.IDLE,
    (State.IDLE, S, "evaluation_start"): State.EVALUATING,
    (State.EVALUATING, C, "evaluation_end"): State.IDLE,
    (State.IDLE, S, "save_state"): State.SAVING,
    (State.SAVING, C, "state_saved"): State.IDLE,
    (State.IDLE, S, "mask_start"): State.KEYING,
    (State.KEYING, C, "mask_keys"): State.IDLE,
    (State.IDLE, S, "mask_peers"): State.SHARING,
    (State.SHARING, C, "mask_shares"): State.IDLE,
    (State.IDLE, S, "mask_open"): State.OPENING,
    (State.OPENING, C, "mask_opened"): State.IDLE,
    (State.IDLE, S, "finish"): State.CLOSED,
    **{
        (state, role, "failure"): State.CLOSED
        for state in State
        if state is not State.CLOSED
        for role in Role
    },
}
TRANSITIONS: Mapping[Form, Transitions] = {
    Form.STANDARD: {
        **_COMMON,
        (State.TRAINING, C, "activation"): State.AWAITING_GRADIENT,
        (State.AWAITING_GRADIENT, S, "reference_lost"): State.TRAINING,
        (State.TRAINING, C, "round_paused"): State.IDLE,
        (State.AWAITING_GRADIENT, S, "round_abort"): State.IDLE,
        (State.EVALUATING, C, "evaluation_batch"): State.AWAITING_NEXT,
        (State.AWAITING_NEXT, S, "evaluation_next"): State.EVALUATING,
        (State.AWAITING_NEXT, S, "reference_lost"): State.EVALUATING,
    },
    Form.U_SHAPE: {
        **_COMMON,
        (State.TRAINING, C, "activation_up"): State.AWAITING_HIDDEN,
        (State.AWAITING_HIDDEN, S, "reference_lost"): State.TRAINING,
        (State.AWAITING_HIDDEN, S, "activation_down"): State.IN_TAIL,
        (State.IN_TAIL, C, "reference_lost"): State.AWAITING_HIDDEN,
        (State.IN_TAIL, C, "gradient_up"): State.AWAITING_GRADIENT,
        (State.AWAITING_GRADIENT, S, "reference_lost"): State.IN_TAIL,
        (State.EVALUATING, C, "evaluation_up"): State.AWAITING_NEXT,
        (State.AWAITING_NEXT, S, "evaluation_down"): State.EVALUATING,
        (State.AWAITING_NEXT, S, "reference_lost"): State.EVALUATING,
        (State.EVALUATING, C, "reference_lost"): State.AWAITING_NEXT,
    },
}
_TURNS: Mapping[Form, Mapping[State, Role]] = {
    form: {state: role for state, role, kind in transitions if kind != "failure"}
    for form, transitions in TRANSITIONS.items()
}  # asked of every client again and again


class Session:
    """One end of the conversation between a client and the server.

    >>> client, server = Session(Role.CLIENT), Session(Role.SERVER)
    >>> received = server.receive(client.send(Message(hello={"client": "clinic-a"})))
    >>> received.hello.client, server.state
    ('clinic-a', <State.GREETED: 'greeted'>)
    """

    def __init__(
        self,
        role: Role,
        state: State = State.CONNECTING,
        form: Form = Form.STANDARD,
        limits: KindLimits = LIMITS,
    ) -> None:
        self.role = role
        self.state = state
        self._limits = limits
        self._transitions, self._turns = TRANSITIONS[form], _TURNS[form]

    def send(self, message: Message) -> bytes:
        """Serialise a message of ours; raises LocalProtocolError if the table does not allow it now."""
        following = self._transitions.get((self.state, self.role, _kind(message)))
        if following is None:
            raise LocalProtocolError(self._describe(self.role, _kind(message)))
        self.state = following
        return message.SerializeToString(deterministic=True)

    def receive(self, data: bytes) -> Message:
        """Parse a message of the peer's; raises RemoteProtocolError if it is malformed or out of order.

        One whose kind is not legal now, or that is larger than its kind may be, is not parsed.
        """
        kind = kind_of(data)
        following = self._transitions.get((self.state, self.role.peer, kind))
        if following is None:
            raise RemoteProtocolError(self._describe(self.role.peer, kind))
        if len(data) > (limit := self._limits.get(kind, LIMITS[kind])):
            raise RemoteProtocolError(
                f"a message '{kind}' of {len(data)} bytes; at most {limit} are accepted"
            )
        try:
            message = Message.FromString(data)
        except DecodeError as error:
            raise RemoteProtocolError(f"{len(data)} bytes that are no message: {error}") from error
        self.state = following
        return message

    @property
    def turn(self) -> Role | None:
        """Who owes the next message; None when the session is closed. A `failure` is nobody's turn."""
        return self._turns.get(self.state)

    def _describe(self, sender: Role, kind_sent: str) -> str:
        allowed = [kind for state, role, kind in self._transitions if state is self.state and role is sender]
        return (
            f"the {sender.value} may not send '{kind_sent}' while the session is {self.state.value}; "
            f"allowed: {', '.join(sorted(allowed)) or 'nothing'}"
        )


def _kind(message: Message) -> str:
    return message.WhichOneof("kind") or "nothing"
