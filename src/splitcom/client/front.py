"""What a client does in split training: front forward, send, receive the gradient, front backward, step."""

from collections.abc import Generator, Iterable, Mapping, Sequence
from functools import partial
from typing import cast

import numpy as np
import torch

from splitcom.client.client import RoundSummary
from splitcom.client.packets import Shape, receive, send
from splitcom.client.parts import PartsTrainer, Rows
from splitcom.client.passes import FrontPasses
from splitcom.codecs import Ragged
from splitcom.config import Config
from splitcom.data import Batch, Sample
from splitcom.models import Front
from splitcom.protocol.labels import Labels, pack_labels
from splitcom.protocol.messages_pb2 import Activation, EvaluationBatch, EvaluationEnd, Message
from splitcom.training.channel import Channel, Channels, held_out, passing_held_out
from splitcom.training.loss import num_labels_of
from splitcom.training.plan import LocalRound


class FrontTrainer(PartsTrainer):
    """A front, its adapter's optimizer, one client's data, and this side of the flows at the cut.

        input_ids ─► front ─► hidden ─► activation_up ─► (server)
                       ▲         ▲                          │
                     AdamW ◄─ backward ◄── gradient_down ◄──┘

    The backward pass runs on the fresh hidden states, also where the server has reused a reference.
    """

    def __init__(
        self,
        name: str,
        front: Front,
        samples: Sequence[Sample],
        held_out: Sequence[Sample],
        channels: Channels,
        config: Config,
    ) -> None:
        super().__init__(name, (front,), Rows(samples, held_out), channels, config)
        self._up: Channel = channels["activation_up"]
        self._down: Channel = channels["gradient_down"]
        self._labels_sent = _Sent()
        self._held_out_labels_sent = _Sent()

    @property
    def _front(self) -> Front:
        return cast(Front, self._parts[0])

    def train(self, local: LocalRound) -> Generator[Message | None, Message, RoundSummary | None]:
        """Run this client's local epochs of a round."""
        first, plan = self._begin(local)
        num_tokens, num_labels = 0, 0
        trains = not local.is_frozen and bool(self._optimizer.parameters)
        self._front.train(trains)  # a frozen front has no dropout: it never changes
        for step, batch in enumerate(plan, first):
            num_tokens += int(batch.lengths.sum())
            num_labels += num_labels_of(batch.labels)
            if step < local.first_step:  # before the pause
                continue
            progress = self._progress(local, step, len(plan))
            pauses = yield from self._step(batch, (local.index, step), progress, trains)
            if pauses and step + 1 != first + len(plan):
                return None
        return RoundSummary(num_tokens, len(plan), weight=num_labels)

    def _step(
        self, batch: Batch, position: tuple[int, int], progress: float, trains: bool
    ) -> Generator[Message | None, Message, bool]:
        """One step; returns whether the round is to be paused after it."""
        passes = FrontPasses(self._front, self._parts_of(batch), self._draw(*position), trains=trains)
        ragged = self.leaving("activation_up", passes.forward(), batch.sample_ids, position)
        reply = yield from send(partial(self._activation, batch, ragged, position))
        if trains:
            shape = Shape.of(batch, ragged.hidden)
            gradient = yield from receive(
                self._down, reply, lambda message: message.gradient.gradient, position[1], shape
            )
            passes.backward(gradient)
            self._optimizer.step(progress)
        return bool(reply.gradient.pause)

    def _activation(
        self, batch: Batch, ragged: Ragged, position: tuple[int, int], lost: Sequence[int]
    ) -> Message:
        labels = _labels(batch)
        packet = self._up.encode(ragged, batch.sample_ids, position, self_contained=bool(lost), labels=labels)
        fresh = _fresh(labels, self._labels_sent, lost)
        return Message(activation=Activation(step=position[1], activation=packet, labels=fresh))

    @torch.no_grad()
    def evaluate(
        self, round_index: int, *, exact: bool, most: int = 0
    ) -> Generator[Message | None, Message, EvaluationEnd]:
        """Send the held-out samples through the front, one batch at a time."""
        self._front.eval()
        with passing_held_out(self._channels, exact=exact):
            for position, batch, _, ragged in self._held_out_hidden(self._front, round_index, most):
                yield from send(partial(self._held_out_batch, batch, ragged, position, exact))
        return EvaluationEnd()

    def _held_out_batch(
        self, batch: Batch, ragged: Ragged, position: tuple[int, int], exact: bool, lost: Sequence[int]
    ) -> Message:
        up = held_out(self._channels, "up", exact=exact)
        labels = _labels(batch)
        packet = up.encode(ragged, batch.sample_ids, position, self_contained=bool(lost), labels=labels)
        fresh = _fresh(labels, self._held_out_labels_sent, lost)
        return Message(evaluation_batch=EvaluationBatch(activation=packet, labels=fresh))

    def state(self) -> dict[str, torch.Tensor]:
        """The optimizer's moments and which labels the server holds."""
        sent = {"labels_sent": self._labels_sent, "held_out_labels_sent": self._held_out_labels_sent}
        return super().state() | {name: ids.state() for name, ids in sent.items()}

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from a checkpoint."""
        state = dict(state)
        self._labels_sent = _Sent(state.pop("labels_sent").tolist())
        self._held_out_labels_sent = _Sent(state.pop("held_out_labels_sent").tolist())
        super().load_state(state)


class _Sent:
    """Identifiers of samples, which count rows from 0: a byte each, where a set of many takes ninety."""

    def __init__(self, ids: Iterable[int] = ()) -> None:
        self._flags = bytearray()
        self.mark(ids)

    def __contains__(self, sample: int) -> bool:
        return sample < len(self._flags) and bool(self._flags[sample])

    def mark(self, ids: Iterable[int]) -> None:
        """Add them."""
        for sample in ids:
            self._flags.extend(bytes(max(0, sample + 1 - len(self._flags))))
            self._flags[sample] = True

    def forget(self, ids: Iterable[int]) -> None:
        """Take out those of them that are there."""
        for sample in ids:
            if 0 <= sample < len(self._flags):
                self._flags[sample] = False

    def state(self) -> torch.Tensor:
        """All of them, ascending, int64."""
        return torch.from_numpy(np.flatnonzero(np.frombuffer(self._flags, dtype=np.uint8)))


def _labels(batch: Batch) -> dict[int, Labels]:
    """Those of a batch, by sample."""
    return {
        sample: batch.labels[row, : int(batch.lengths[row])].numpy()
        for row, sample in enumerate(batch.sample_ids)
    }


def _fresh(labels: Mapping[int, Labels], sent: _Sent, lost: Sequence[int]) -> bytes:
    """Those labels that the server does not have, which are added to `sent`."""
    sent.forget(lost)  # a server that lost references may have lost labels with them
    fresh = {sample: row for sample, row in labels.items() if sample not in sent}
    sent.mark(fresh)
    return pack_labels(fresh)
