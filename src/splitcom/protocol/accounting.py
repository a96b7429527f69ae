"""Which flow each byte of a message belongs to, by the table of flows."""

from collections import defaultdict

from splitcom.flows import FLOWS
from splitcom.protocol.messages_pb2 import Message

_FIELDS: dict[str, dict[str, str]] = defaultdict(dict)  # flow by message and field
for _flow in FLOWS.values():
    for _field in _flow.fields:
        _message, _, _name = _field.partition(".")
        _FIELDS[_message][_name] = _flow.name
_WHOLE = {message: flow.name for flow in FLOWS.values() for message in flow.messages}


def flows_of(message: Message, size: int) -> dict[str, int]:
    """Split the `size` bytes of a serialised message by flow; what is not payload is control.

    >>> flows_of(Message(gradient={"step": 3, "gradient": b"12345"}), size=11)
    {'gradient_down': 5, 'control': 6}
    """
    kind = message.WhichOneof("kind") or ""
    if kind in _WHOLE:
        return {_WHOLE[kind]: size}
    content = getattr(message, kind)
    flows = {flow: len(getattr(content, field)) for field, flow in _FIELDS.get(kind, {}).items()}
    flows["control"] = size - sum(flows.values())
    return flows
