"""From a client's message to the batch that the body runs: decoded, fitting the model, joined with its labels.

What cannot be raises RemoteProtocolError or PacketError; a packet that builds on references which this side lacks is
`Lost`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from splitcom.codecs import Decoded
from splitcom.config import Config
from splitcom.engines.engine import Arrival, Gradient
from splitcom.errors import RemoteProtocolError, UnknownReference
from splitcom.protocol.labels import Labels, unpack_labels
from splitcom.protocol.messages_pb2 import GradientUp, Message, ReferenceLost
from splitcom.server.admission import Admission
from splitcom.server.claims import check_batch, check_step, check_tail_labels
from splitcom.server.conversations import Conversations
from splitcom.server.cuts import Cuts
from splitcom.server.state import ClientStates
from splitcom.training.channel import Channel, held_out


@dataclass(frozen=True)
class Lost:
    """This side lacks what a packet of `step` builds on; it is to be sent again."""

    step: int
    sample_ids: list[int]

    @property
    def answer(self) -> Message:
        """What to tell the client."""
        return Message(reference_lost=ReferenceLost(step=self.step, sample_ids=self.sample_ids))


class Arrivals:
    """Reads what clients send; answers nothing."""

    def __init__(
        self,
        config: Config,
        admission: Admission,
        clients: Conversations,
        states: ClientStates,
        cuts: Cuts | None = None,
    ) -> None:
        self._config = config
        self._cuts = cuts or Cuts(config)
        self._admission = admission
        self._clients = clients
        self._states = states
        self._is_u_shape = bool(config.model.tail_blocks)

    def to_train(self, name: str, message: Message) -> Arrival | Lost:
        """A batch to train on, which is the next one of the client's round."""
        due = "activation_up" if self._is_u_shape else "activation"
        if (kind := message.WhichOneof("kind")) != due:
            raise RemoteProtocolError(f"'{kind}' where '{due}' is due")
        content = getattr(message, due)
        state, num_samples = self._states[name], self._clients.peers[name].num_samples
        own = self._config.of_client(name)
        check_step(content.step, state.task, num_samples, own)
        possible = num_samples, own.training.batch_size
        labels = None if self._is_u_shape else self._with(state.labels, content.labels, *possible)
        trains_front = self._config.lora.front_learns and not (
            state.task is not None and state.task.is_frozen
        )
        channel = state.channels["activation_up"]
        arrival = self._arrival(channel, content.activation, content.step, labels, possible)
        return (
            arrival
            if isinstance(arrival, Lost)
            else replace(arrival, trains_front=trains_front, cut=self._cuts.of(name))
        )

    def held_out(self, name: str, message: Message, step: int, *, exact: bool) -> Arrival | Lost:
        """A batch to evaluate, which is number `step` of its client's."""
        state = self._states[name]
        possible = self._clients.peers[name].num_held_out, self._config.evaluation.batch_size
        channel = held_out(state.channels, "up", exact=exact)
        if self._is_u_shape:
            arrival = self._arrival(channel, message.evaluation_up.activation, step, None, possible)
        else:
            content = message.evaluation_batch
            labels = self._with(state.held_out_labels, content.labels, *possible)
            arrival = self._arrival(channel, content.activation, step, labels, possible)
        if isinstance(arrival, Lost):
            return arrival
        return replace(arrival, cut=self._cuts.of(name))

    def from_tail(self, name: str, content: GradientUp, sent: Arrival) -> Gradient | Lost:
        """What a client's tail answers to what the body made of `sent`, in the U-shape."""
        batch, num_tokens = sent.decoded.batch, len(sent.decoded.batch.values)
        task = self._states[name].task
        check_tail_labels(content.num_labels, sent.decoded, self._config)
        if task is not None and task.is_frozen:
            if content.gradient:
                raise RemoteProtocolError(
                    f"{len(content.gradient)} bytes of gradient for {content.num_labels} of {num_tokens} tokens, where "
                    "the body is frozen"
                )
            return None, content.num_labels
        channel = self._states[name].channels["gradient_up"]
        decoded = self._decode(channel, content.gradient, content.step)
        if isinstance(decoded, Lost):
            return decoded
        if (decoded.ids, decoded.batch.lengths.tolist()) != (sent.decoded.ids, batch.lengths.tolist()):
            raise RemoteProtocolError("a gradient of other samples or tokens than the activation's")
        if decoded.batch.hidden != batch.hidden:
            raise RemoteProtocolError(
                f"a gradient of width {decoded.batch.hidden}; the model's is {batch.hidden}"
            )
        self._states[name].counts.gradient.add(decoded.batch.values)
        return decoded.batch, content.num_labels

    def _arrival(
        self,
        channel: Channel,
        packet: bytes,
        step: int,
        labels: Mapping[int, Labels] | None,
        possible: tuple[int, int],
    ) -> Arrival | Lost:
        """`possible` is how many samples there can be, and how many of them in a batch."""
        decoded = self._decode(channel, packet, step, labels)
        if isinstance(decoded, Lost):
            return decoded
        check_batch(decoded, channel.references, *possible)
        if labels is not None and (missing := [sample for sample in decoded.ids if sample not in labels]):
            return Lost(step, missing)
        return self._admission.admit(decoded, labels)

    def _with(
        self, labels: dict[int, Labels], data: bytes, num_samples: int, batch_size: int
    ) -> Mapping[int, Labels]:
        """A client's labels, with those that have come now."""
        labels |= unpack_labels(data, self._config.data.max_tokens, batch_size)
        if len(labels) > num_samples:
            raise RemoteProtocolError(f"labels of more samples than the {num_samples} it has")
        return labels

    def _decode(
        self, channel: Channel, packet: bytes, step: int, labels: Mapping[int, Labels] | None = None
    ) -> Decoded | Lost:
        try:
            decoded = channel.decode(packet, self._admission.max_batch_bytes, labels)
        except UnknownReference as lost:
            return Lost(step, lost.sample_ids)
        # a step has the batches of many clients, and a GPU room for those of a pass
        return replace(decoded, batch=replace(decoded.batch, values=decoded.batch.values.cpu()))
