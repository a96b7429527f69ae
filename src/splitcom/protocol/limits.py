"""Of which kind a message is, and how large one of its kind may be, told from its bytes alone; knows no run.

A parsed message can take many times its bytes, as numbers in packed fields do. So nothing is parsed before its kind is
legal and its size below the kind's limit. The limits here are those of messages that carry no tensors; whoever knows
the run hands in those of the others.
"""

from collections.abc import Mapping

from splitcom.errors import RemoteProtocolError
from splitcom.protocol.messages_pb2 import Message

MAX_MESSAGE_BYTES = 1 << 30  # of a kind for which there is no smaller limit
SMALL_BYTES = 1 << 16
_LENGTH_DELIMITED = 2
_MAX_VARINT_BYTES = 10

_CARRIERS = frozenset(
    {
        "round_start", "activation", "gradient", "activation_up", "activation_down", "gradient_up", "round_end",
        "evaluation_start", "evaluation_batch", "evaluation_up", "evaluation_down",
    }
)  # fmt: skip
_KINDS = {field.number: field.name for field in Message.DESCRIPTOR.oneofs_by_name["kind"].fields}

KindLimits = Mapping[str, int]
"""Bytes of a whole message, by kind."""

LIMITS: KindLimits = {
    kind: MAX_MESSAGE_BYTES if kind in _CARRIERS else SMALL_BYTES for kind in _KINDS.values()
} | {"welcome": 1 << 20, "reference_lost": 1 << 20}


def kind_of(data: bytes) -> str:
    """The kind of a message that is not parsed: its one field; "nothing" of no bytes.

    Raises RemoteProtocolError if the bytes are anything else than one field that is a kind.

    >>> kind_of(Message(hello={"client": "clinic-a"}).SerializeToString())
    'hello'
    """
    if not data:
        return "nothing"
    tag, start = _varint(data, 0)
    size, start = _varint(data, start)
    kind = _KINDS.get(tag >> 3)
    if kind is None or tag & 7 != _LENGTH_DELIMITED or start + size != len(data):
        raise _no_message(data)
    return kind


def _varint(data: bytes, start: int) -> tuple[int, int]:
    """The number at `start`, and where the next one begins."""
    number = 0
    for index, byte in enumerate(data[start : start + _MAX_VARINT_BYTES]):
        number |= (byte & 127) << (7 * index)
        if byte < 128:
            return number, start + index + 1
    raise _no_message(data)


def _no_message(data: bytes) -> RemoteProtocolError:
    return RemoteProtocolError(
        f"{len(data)} bytes that are no message: not one field that is a kind of message"
    )
