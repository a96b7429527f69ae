"""From a client's message to the batch that the body runs: decoded, fitting the model, joined with its labels."""

from collections.abc import Mapping
from contextlib import suppress
from functools import partial

from splitcom.codecs import Decoded
from splitcom.config import Config
from splitcom.engines.local import Arrival, BodyTrainer
from splitcom.errors import UnknownReference
from splitcom.protocol.labels import Labels, unpack_labels
from splitcom.protocol.messages_pb2 import Message
from splitcom.server.claims import check_step
from splitcom.server.conversations import Conversations


class Arrivals:
    """Reads what clients send; whoever sends what does not fit is refused, which raises Ended."""

    def __init__(self, config: Config, body: BodyTrainer, clients: Conversations) -> None:
        self._config = config
        self._body = body
        self._clients = clients

    def activation(self, name: str, message: Message) -> Arrival:
        """A batch to train on; where this side has lost a reference, of the packet sent again. Raises Rejoined."""
        return self._clients.settle(name, message, partial(self._activation, name))

    def late(self, name: str, message: Message) -> None:
        """Decode a batch that nothing will be made of, so that both sides go on with the same references."""
        with suppress(UnknownReference):  # it will be noticed again when it matters
            self._labelled(name, message)

    def held_out(self, name: str, message: Message) -> Arrival:
        """A batch to evaluate."""
        if self._config.model.tail_blocks:
            decoded = self._decode(name, "evaluation", message.evaluation_up.activation)
            return self._admit(name, decoded, None)
        batch = message.evaluation_batch
        decoded = self._decode(name, "evaluation", batch.activation)
        return self._admit(name, decoded, self._labels(name, batch.labels))

    def _activation(self, name: str, message: Message) -> Arrival:
        u_shape = bool(self._config.model.tail_blocks)
        due = "activation_up" if u_shape else "activation"
        if (kind := message.WhichOneof("kind")) != due:
            self._clients.refuse(name, f"'{kind}' where '{due}' is due")
        step = getattr(message, due).step
        self._clients.parse(name, check_step, step, self._clients.peers[name], self._config)
        return self._unlabelled(name, message) if u_shape else self._labelled(name, message)

    def _labelled(self, name: str, message: Message) -> Arrival:
        peer, activation = self._clients.peers[name], message.activation
        peer.labels |= self._labels(name, activation.labels)
        if len(peer.labels) > peer.num_samples:
            self._clients.refuse(name, f"labels of more samples than the {peer.num_samples} it has")
        decoded = self._decode(name, "activation_up", activation.activation)
        if missing := [sample for sample in decoded.ids if sample not in peer.labels]:
            raise UnknownReference(missing)
        return self._admit(name, decoded, peer.labels)

    def _unlabelled(self, name: str, message: Message) -> Arrival:
        return self._admit(name, self._decode(name, "activation_up", message.activation_up.activation), None)

    def _decode(self, name: str, flow: str, packet: bytes) -> Decoded:
        channel = self._clients.peers[name].channels[flow]
        return self._clients.parse(name, channel.decode, packet, self._body.max_batch_bytes)

    def _labels(self, name: str, data: bytes) -> dict[int, Labels]:
        return self._clients.parse(name, unpack_labels, data, self._config.data.max_tokens)

    def _admit(self, name: str, decoded: Decoded, labels: Mapping[int, Labels] | None) -> Arrival:
        task = self._clients.peers[name].task
        trains_front = self._config.lora.train_front and not (task is not None and task.is_frozen)
        return self._clients.parse(name, self._body.admit, decoded, labels, trains_front)
