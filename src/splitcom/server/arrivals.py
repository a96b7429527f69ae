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
        labels: Mapping[int, Labels] | None = None
        if not self._is_u_shape:
            labels = state.labels
            state.labels |= unpack_labels(
                content.labels, self._config.data.max_tokens, self._config.training.batch_size
            )
            if len(state.labels) > num_samples:
                raise RemoteProtocolError(f"labels of more samples than the {num_samples} it has")
        decoded = self._decode(name, "activation_up", content.activation, content.step)
        if isinstance(decoded, Lost):
            return decoded
        if labels is not None and (missing := [sample for sample in decoded.ids if sample not in labels]):
            return Lost(content.step, missing)
        trains_front = self._config.lora.train_front and not (state.task is not None and state.task.is_frozen)
        return self._admission.admit(decoded, labels, trains_front)

    def held_out(self, name: str, message: Message) -> Arrival:
        """A batch to evaluate."""
        labels: Mapping[int, Labels] | None = None
        if self._is_u_shape:
            packet = message.evaluation_up.activation
        else:
            packet = message.evaluation_batch.activation
            labels = unpack_labels(
                message.evaluation_batch.labels,
                self._config.data.max_tokens,
                self._config.evaluation.batch_size,
            )
        decoded = self._decode(name, "evaluation", packet, 0)
        if isinstance(decoded, Lost):
            raise RemoteProtocolError("a held-out batch that builds on another")
        return self._admission.admit(decoded, labels)

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
        decoded = self._decode(name, "gradient_up", content.gradient, content.step)
        if isinstance(decoded, Lost):
            return decoded
        if (decoded.ids, decoded.batch.lengths.tolist()) != (sent.decoded.ids, batch.lengths.tolist()):
            raise RemoteProtocolError("a gradient of other samples or tokens than the activation's")
        if decoded.batch.hidden != batch.hidden:
            raise RemoteProtocolError(
                f"a gradient of width {decoded.batch.hidden}; the model's is {batch.hidden}"
            )
        return decoded.batch, content.num_labels

    def _decode(self, name: str, flow: str, packet: bytes, step: int) -> Decoded | Lost:
        channel = self._states[name].channels[flow]
        try:
            return channel.decode(packet, self._admission.max_batch_bytes)
        except UnknownReference as lost:
            return Lost(step, lost.sample_ids)
