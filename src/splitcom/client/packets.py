"""A client's packets, each way, until neither side lacks a reference; what they hold is the trainer's business.

packet ──────────────────────────────► decode
packet again, self-contained ◄── reference_lost, where the receiver lacks what it builds on
"""

from collections.abc import Callable, Generator, Sequence

from splitcom.codecs import Ragged
from splitcom.errors import UnknownReference
from splitcom.protocol.messages_pb2 import Message, ReferenceLost
from splitcom.training.channel import Channel


class RoundAborted(Exception):  # noqa: N818  (an event, no error)
    """The server goes on without this client's part of the round."""


def send(make: Callable[[Sequence[int]], Message]) -> Generator[Message, Message, Message]:
    """Send what `make` gives for no lost references and, where the server tells of some, for these; its reply.

    Raises RoundAborted where that is all the server has to say.
    """
    reply = yield make(())
    while reply.WhichOneof("kind") == "reference_lost":
        reply = yield make(reply.reference_lost.sample_ids)
    return _checked(reply)


def receive(
    channel: Channel, message: Message, packet_of: Callable[[Message], bytes], step: int
) -> Generator[Message, Message, Ragged]:
    """Decode the packet of a message, having it sent again where this side lacks a reference. Raises RoundAborted."""
    while True:
        try:
            return channel.decode(packet_of(message)).batch
        except UnknownReference as error:
            lost = ReferenceLost(step=step, sample_ids=error.sample_ids)
            message = _checked((yield Message(reference_lost=lost)))


def _checked(reply: Message) -> Message:
    if reply.WhichOneof("kind") == "round_abort":
        raise RoundAborted
    return reply
