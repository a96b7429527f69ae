"""A client's packets, each way, until neither side lacks a reference; what they hold is the trainer's business.

packet ──────────────────────────────► decode
packet again, self-contained ◄── reference_lost, where the receiver lacks what it builds on
"""

from collections.abc import Callable, Generator, Sequence

from splitcom.codecs import Ragged
from splitcom.errors import UnknownReference
from splitcom.federation.channel import Channel
from splitcom.protocol.messages_pb2 import Message, ReferenceLost


def send(make: Callable[[Sequence[int]], Message]) -> Generator[Message, Message, Message]:
    """Send what `make` gives for no lost references and, where the server tells of some, for these; its reply."""
    reply = yield make(())
    while reply.WhichOneof("kind") == "reference_lost":
        reply = yield make(reply.reference_lost.sample_ids)
    return reply


def receive(
    channel: Channel, message: Message, packet_of: Callable[[Message], bytes], step: int
) -> Generator[Message, Message, Ragged]:
    """Decode the packet of a message, having it sent again where this side lacks a reference."""
    while True:
        try:
            return channel.decode(packet_of(message)).batch
        except UnknownReference as error:
            message = yield Message(reference_lost=ReferenceLost(step=step, sample_ids=error.sample_ids))
