"""What a client does in the U-shape: it has both ends of the model and the labels, the server has what is between."""

from collections.abc import Generator, Sequence
from functools import partial
from typing import cast

import torch

from splitcom.client.bypass import Bypass
from splitcom.client.client import RoundSummary
from splitcom.client.packets import Shape, receive, send
from splitcom.client.parts import PartsTrainer, Rows
from splitcom.client.passes import FrontPasses
from splitcom.codecs import Ragged
from splitcom.config import Config
from splitcom.data import Batch, Sample
from splitcom.models import Front, Tail
from splitcom.protocol.messages_pb2 import ActivationUp, EvaluationEnd, EvaluationUp, GradientUp, Message
from splitcom.training.channel import Channels, held_out, passing_held_out
from splitcom.training.loss import Losses, learnt_tokens, losses_through, num_labels_of
from splitcom.training.plan import LocalRound


class EndsTrainer(PartsTrainer):
    """Front and tail, the optimizer of both their adapters, one client's data, and this side of four flows.

        input_ids ─► front ─► activation_up ─► (server) ─► activation_down ─► tail ─► loss ◄─ labels
                       ▲                                                       │
                    backward ◄─ gradient_down ◄─ (server) ◄─ gradient_up ◄── backward

    Both parts take their step at the end. Of labels, logits and losses the server hears nothing but the number of
    labelled tokens of each step, and of a round and of an evaluation the sum of the losses and how many classes were
    told right.
    """

    def __init__(
        self,
        name: str,
        front: Front,
        tail: Tail,
        samples: Sequence[Sample],
        held_out: Sequence[Sample],
        channels: Channels,
        config: Config,
    ) -> None:
        super().__init__(name, (front, tail), Rows(samples, held_out), channels, config)
        self._tail = tail
        self._bypass = Bypass(name, front, tail, self._optimizer, config)
        self._kept: Sequence[Sample] = samples  # on which the present round trains

    def move(self, cut: int) -> None:
        """Have another front."""
        super().move(cut)
        self._bypass = Bypass(self._name, self._front, self._tail, self._optimizer, self._config)

    @property
    def _front(self) -> Front:
        return cast(Front, self._parts[0])

    def train(self, local: LocalRound) -> Generator[Message | None, Message, RoundSummary]:
        """Run this client's local epochs of a round."""
        if local.first_step == 0:
            if not local.is_frozen:
                self._bypass.train(self._samples, local)
            self._kept = self._bypass.kept(self._samples, local.index)
        first, plan = self._begin(local, self._kept)
        num_tokens, num_labels, num_correct, loss_sum = 0, 0, 0, 0.0
        trains = self._config.lora.front_learns and not local.is_frozen
        self._front.train(trains)  # a frozen front has no dropout: it never changes
        self._tail.train()
        for step, batch in enumerate(plan, first):
            losses, _, correct = yield from self._step(batch, (local.index, step), trains, local.is_frozen)
            self._optimizer.step(self._progress(local, step, len(plan)))
            loss_sum += float(losses.detach().sum())
            num_labels += len(losses)
            num_correct += int(correct.sum())
            num_tokens += int(batch.lengths.sum())
        return RoundSummary(num_tokens, len(plan), loss_sum, num_labels, num_correct, weight=num_labels)

    def _step(
        self, batch: Batch, position: tuple[int, int], trains: bool, body_is_frozen: bool
    ) -> Generator[Message | None, Message, Losses]:
        """Forward and backward through all parts that learn; returns the loss of each label."""
        step = position[1]
        passes = FrontPasses(self._front, self._parts_of(batch), self._draw(*position), trains=trains)
        front_out = self.leaving("activation_up", passes.forward(), batch.sample_ids, position)

        shape = Shape.of(batch, front_out.hidden)

        def packet(flow: str, ragged: Ragged, lost: Sequence[int]) -> bytes:
            return self._channels[flow].encode(ragged, batch.sample_ids, position, self_contained=bool(lost))

        def activation(lost: Sequence[int]) -> Message:
            data = packet("activation_up", front_out, lost)
            return Message(activation_up=ActivationUp(step=step, activation=data))

        reply = yield from send(activation)
        received = yield from receive(
            self._channels["activation_down"],
            reply,
            lambda message: message.activation_down.activation,
            step,
            shape,
        )
        scored, at_tail = self._through_tail(received, batch, position)
        if not body_is_frozen:
            at_tail = self.leaving("gradient_up", at_tail, batch.sample_ids, position, 1 / len(scored.losses))

        def gradient(lost: Sequence[int]) -> Message:
            data = b"" if body_is_frozen else packet("gradient_up", at_tail, lost)
            return Message(gradient_up=GradientUp(step=step, gradient=data, num_labels=len(scored.losses)))

        reply = yield from send(gradient)
        if trains:
            returned = yield from receive(
                self._channels["gradient_down"], reply, lambda message: message.gradient.gradient, step, shape
            )
            passes.backward(returned)
        return scored

    def _through_tail(
        self, received: Ragged, batch: Batch, position: tuple[int, int]
    ) -> tuple[Losses, Ragged]:
        """The loss of each label, and the gradient of their mean at the tail's input; adds the tail's own gradients."""
        draw, parts = self._draw("tail", *position), self._parts_of(batch)
        num_labels = num_labels_of(batch.labels)
        found, gradients, start = [], [], 0
        for index, part in enumerate(parts):
            stop = start + int(part.lengths.sum())
            own = Ragged(received.values[start:stop], part.lengths)
            tail_in = self._padded(own, part).to(self._tail.dtype).requires_grad_()
            mask = part.attention_mask.to(self._device)
            draw(index)
            scored = losses_through(
                self._tail,
                tail_in,
                mask,
                part.labels.to(self._device),
                self._config.training.label_smoothing,
            )
            torch.autograd.backward(scored.losses.sum() / num_labels)
            assert tail_in.grad is not None
            gradients.append(Ragged.from_padded(tail_in.grad, mask, learnt_tokens(part.labels)))
            found.append(Losses(*(value.detach() for value in scored)))
            start = stop
        losses = Losses(*map(torch.cat, zip(*found, strict=True)))
        return losses, gradients[0] if len(gradients) == 1 else Ragged.join(gradients)

    @torch.no_grad()
    def evaluate(
        self, round_index: int, *, exact: bool, most: int = 0
    ) -> Generator[Message | None, Message, EvaluationEnd]:
        """Sum the loss over this client's held-out samples, one batch at a time; only the sums leave it."""
        self._front.eval()
        self._tail.eval()
        down, result = held_out(self._channels, "down", exact=exact), EvaluationEnd()
        with passing_held_out(self._channels, exact=exact):
            for position, batch, mask, ragged in self._held_out_hidden(self._front, round_index, most):
                reply = yield from send(partial(self._held_out_up, batch, ragged, position, exact))
                returned = yield from receive(
                    down,
                    reply,
                    lambda message: message.evaluation_down.activation,
                    position[1],
                    Shape.of(batch, ragged.hidden),
                )
                losses, _, correct = losses_through(
                    self._tail, self._padded(returned, batch), mask, batch.labels.to(self._device)
                )
                result.loss_sum += float(losses.double().sum())
                result.num_labels += len(losses)
                result.num_correct += int(correct.sum())
        return result

    def _held_out_up(
        self, batch: Batch, ragged: Ragged, position: tuple[int, int], exact: bool, lost: Sequence[int]
    ) -> Message:
        up = held_out(self._channels, "up", exact=exact)
        packet = up.encode(ragged, batch.sample_ids, position, self_contained=bool(lost))
        return Message(evaluation_up=EvaluationUp(activation=packet))

    def _padded(self, ragged: Ragged, batch: Batch) -> torch.Tensor:
        return ragged.to_padded(batch.attention_mask).to(self._device)
