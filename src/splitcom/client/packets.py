"""A client's packets, each way, until neither side lacks a reference; what they hold is the trainer's business.

packet ──────────────────────────────► decode
packet again, self-contained ◄── reference_lost, where the receiver lacks what it builds on

What comes back is of the samples and tokens that were sent, in the model's width; no more than that is believed.
"""

from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple, Self

from splitcom.codecs import Ragged
from splitcom.data import Batch
from splitcom.errors import RemoteProtocolError, UnknownReference
from splitcom.protocol.messages_pb2 import Message, ReferenceLost
from splitcom.training.channel import Channel


class RoundAborted(Exception):  # noqa: N818  (an event, no error)
    """The server goes on without this client's part of the round."""


class Shape(NamedTuple):
    """What the server's packets of a batch are of."""

    ids: list[int]
    lengths: list[int]  # tokens of each sample
    hidden: int

    @classmethod
    def of(cls, batch: Batch, hidden: int) -> Self:
        """That of a batch that has been sent in this width."""
        return cls([*batch.sample_ids], batch.lengths.tolist(), hidden)

    @property
    def num_bytes(self) -> int:
        """In fp32."""
        return 4 * sum(self.lengths) * self.hidden


def send(make: Callable[[Sequence[int]], Message]) -> Generator[Message, Message, Message]:
    """Send what `make` gives for no lost references and, where the server tells of some, for these; its reply.

    Raises RoundAborted if that is all the server has to say.
    """
    reply = yield make(())
    while reply.WhichOneof("kind") == "reference_lost":
        reply = yield make(reply.reference_lost.sample_ids)
    return _checked(reply)


def receive(
    channel: Channel, message: Message, packet_of: Callable[[Message], bytes], step: int, shape: Shape
) -> Generator[Message, Message, Ragged]:
    """Decode the packet of a message, having it sent again where this side lacks a reference.

    Raises RoundAborted, RemoteProtocolError if it is of anything else than `shape`, and PacketError.
    """
    while True:
        try:
            decoded = channel.decode(packet_of(message), shape.num_bytes)
        except UnknownReference as error:
            lost = ReferenceLost(step=step, sample_ids=error.sample_ids)
            message = _checked((yield Message(reference_lost=lost)))
        else:
            break
    batch = decoded.batch
    if (theirs := Shape(decoded.ids, batch.lengths.tolist(), batch.hidden)) != shape:
        raise RemoteProtocolError(
            f"flow {channel.flow}: the server has sent {theirs}, and what it has been sent was {shape}"
        )
    return batch


def _checked(reply: Message) -> Message:
    if reply.WhichOneof("kind") == "round_abort":
        raise RoundAborted
    return reply
