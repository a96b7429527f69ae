"""What a client does where nothing is split: it trains the whole model, and only its adapter leaves it."""

from collections.abc import Generator, Sequence

import torch

from splitcom.client.client import RoundSummary
from splitcom.client.parts import PartsTrainer, Rows
from splitcom.config import Config
from splitcom.data import Batch, Sample
from splitcom.models import Body, Front
from splitcom.protocol.messages_pb2 import EvaluationEnd, Message
from splitcom.training.loss import Losses, losses_through, num_labels_of
from splitcom.training.plan import LocalRound, held_out_batches


class WholeTrainer(PartsTrainer):
    """Front and body at one party, which is the uncut model bit for bit."""

    def __init__(
        self,
        name: str,
        front: Front,
        body: Body,
        samples: Sequence[Sample],
        held_out: Sequence[Sample],
        config: Config,
    ) -> None:
        super().__init__(name, (front, body), Rows(samples, held_out), {}, config)
        self._front = front
        self._body = body

    def train(self, local: LocalRound) -> Generator[Message | None, Message, RoundSummary]:
        """Run this client's local epochs of a round; says nothing on the way."""
        num_tokens, num_labels, num_correct, loss_sum = 0, 0, 0, 0.0
        first, plan = self._begin(local)
        self._front.train()
        self._body.train()
        for step, batch in enumerate(plan, first):
            labels_of_step, draw = num_labels_of(batch.labels), self._draw(local.index, step)
            for index, part in enumerate(self._parts_of(batch)):
                draw(index)
                losses, _, correct = self._losses(part, self._config.training.label_smoothing)
                torch.autograd.backward(losses.sum() / labels_of_step)
                loss_sum += float(losses.detach().sum())
                num_labels += len(losses)
                num_correct += int(correct.sum())
            self._optimizer.step(self._progress(local, step, len(plan)))
            num_tokens += int(batch.lengths.sum())
        yield from ()
        return RoundSummary(num_tokens, len(plan), loss_sum, num_labels, num_correct, weight=num_labels)

    @torch.no_grad()
    def evaluate(
        self, round_index: int, *, exact: bool, most: int = 0
    ) -> Generator[Message | None, Message, EvaluationEnd]:
        """Sum the loss over this client's held-out samples."""
        self._front.eval()
        self._body.eval()
        result = EvaluationEnd()
        for batch in held_out_batches(self._held_out, self._config, most):
            losses, _, correct = self._losses(batch)
            result.loss_sum += float(losses.double().sum())
            result.num_labels += len(losses)
            result.num_correct += int(correct.sum())
        yield from ()
        return result

    def _losses(self, batch: Batch, smoothing: float = 0.0) -> Losses:
        mask = batch.attention_mask.to(self._device)
        hidden = self._front(batch.input_ids.to(self._device), mask)
        return losses_through(self._body, hidden, mask, batch.labels.to(self._device), smoothing)
