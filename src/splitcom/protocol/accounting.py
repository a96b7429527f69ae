"""Which flow each byte of a message belongs to."""

from splitcom.protocol.messages_pb2 import Message

_FIELDS = {
    "activation": {"activation": "activation_up", "labels": "labels_up"},
    "gradient": {"gradient": "gradient_down"},
    "activation_up": {"activation": "activation_up"},
    "activation_down": {"activation": "activation_down"},
    "gradient_up": {"gradient": "gradient_up"},
    "round_start": {"adapter": "adapter_down"},
    "evaluation_start": {"adapter": "adapter_down"},
    "round_end": {"adapter": "adapter_up"},
}
_EVALUATION = {
    "evaluation_batch",
    "evaluation_next",
    "evaluation_up",
    "evaluation_down",
    "evaluation_end",
}


def flows_of(message: Message, size: int) -> dict[str, int]:
    """Split the `size` bytes of a serialised message by flow; what is not payload is control.

    >>> flows_of(Message(gradient={"step": 3, "gradient": b"12345"}), size=11)
    {'gradient_down': 5, 'control': 6}
    """
    kind = message.WhichOneof("kind") or ""
    if kind in _EVALUATION:
        return {"evaluation": size}
    content = getattr(message, kind)
    flows = {flow: len(getattr(content, field)) for field, flow in _FIELDS.get(kind, {}).items()}
    flows["control"] = size - sum(flows.values())
    return flows
