"""From a client's message to the batch that the body runs: decoded, fitting the model, joined with its labels.

What cannot be raises RemoteProtocolError or PacketError; a packet that builds on references which this side lacks is
`Lost`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from splitcom.codecs import Decoded
from splitcom.config import Config
from splitcom.engines.engine import Arrival, Gradient
from splitcom.errors import RemoteProtocolError, UnknownReference
from splitcom.protocol.labels import Labels, unpack_labels
from splitcom.protocol.messages_pb2 import GradientUp, Message, ReferenceLost
from splitcom.server.admission import Admission
from splitcom.server.claims import check_step
from splitcom.server.conversations import Conversations
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
        self, config: Config, admission: Admission, clients: Conversations, states: ClientStates
    ) -> None:
        self._config = config
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
        check_step(content.step, state.task, num_samples, self._config)
        labels = None
        if not self._is_u_shape:
            batch_size = self._config.training.batch_size
            labels = self._with(state.labels, content.labels, num_samples, batch_size)
        trains_front = self._config.lora.train_front and not (state.task is not None and state.task.is_frozen)
        channel = state.channels["activation_up"]
        return self._arrival(channel, content.activation, content.step, labels, trains_front)

    def held_out(self, name: str, message: Message, step: int, *, exact: bool) -> Arrival | Lost:
        """A batch to evaluate, which is number `step` of its client's."""
        state, num_samples = self._states[name], self._clients.peers[name].num_held_out
        channel = held_out(state.channels, "up", exact=exact)
        if self._is_u_shape:
            return self._arrival(channel, message.evaluation_up.activation, step, None)
        content, batch_size = message.evaluation_batch, self._config.evaluation.batch_size
        labels = self._with(state.held_out_labels, content.labels, num_samples, batch_size)
        return self._arrival(channel, content.activation, step, labels)

    def from_tail(self, name: str, content: GradientUp, sent: Arrival) -> Gradient | Lost:
        """What a client's tail answers to what the body made of `sent`, in the U-shape."""
        batch, num_tokens = sent.decoded.batch, len(sent.decoded.batch.values)
        task = self._states[name].task
        if not 0 < content.num_labels <= num_tokens:
            raise RemoteProtocolError(f"a gradient for {content.num_labels} of {num_tokens} tokens")
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
        return decoded.batch, content.num_labels

    def _arrival(
        self,
        channel: Channel,
        packet: bytes,
        step: int,
        labels: Mapping[int, Labels] | None,
        trains_front: bool = True,
    ) -> Arrival | Lost:
        decoded = self._decode(channel, packet, step)
        if isinstance(decoded, Lost):
            return decoded
        if labels is not None and (missing := [sample for sample in decoded.ids if sample not in labels]):
            return Lost(step, missing)
        return self._admission.admit(decoded, labels, trains_front)

    def _with(
        self, labels: dict[int, Labels], data: bytes, num_samples: int, batch_size: int
    ) -> Mapping[int, Labels]:
        """A client's labels, with those that have come now."""
        labels |= unpack_labels(data, self._config.data.max_tokens, batch_size)
        if len(labels) > num_samples:
            raise RemoteProtocolError(f"labels of more samples than the {num_samples} it has")
        return labels

    def _decode(self, channel: Channel, packet: bytes, step: int) -> Decoded | Lost:
        try:
            return channel.decode(packet, self._admission.max_batch_bytes)
        except UnknownReference as lost:
            return Lost(step, lost.sample_ids)
