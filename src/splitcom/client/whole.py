"""What a client does where nothing is split: it trains the whole model, and only its adapter leaves it."""

from collections.abc import Generator, Iterator, Mapping, Sequence

import torch

from splitcom.client.client import RoundSummary
from splitcom.codecs import ReferenceStore
from splitcom.config import Config
from splitcom.data import Batch, Sample
from splitcom.models import Body, Front, joined_state, load_joined_state
from splitcom.protocol.messages_pb2 import EvaluationEnd, Message
from splitcom.seeds import derive_seed
from splitcom.training.loss import Losses, losses_through
from splitcom.training.optimize import Optimizer
from splitcom.training.plan import LocalRound, held_out_batches, progress_of, round_batches


class WholeTrainer:
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
        self.num_samples = len(samples)
        self.num_held_out = len(held_out)
        self._name = name
        self._front = front
        self._body = body
        self._samples = samples
        self._held_out = held_out
        self._config = config
        self._device = next(front.parameters()).device
        parameters = [p for part in (front, body) for p in part.parameters() if p.requires_grad]
        self._optimizer = Optimizer(parameters, config.training)

    def train(self, local: LocalRound) -> Generator[Message | None, Message, RoundSummary]:
        """Run this client's local epochs of a round; says nothing on the way."""
        num_tokens, num_labels, num_correct, loss_sum = 0, 0, 0, 0.0
        plan = round_batches(self._samples, self._config, self._name, local.index)
        self._front.train()
        self._body.train()
        for step, batch in enumerate(plan):
            torch.manual_seed(derive_seed(self._config.seed, self._name, local.index, step))  # dropout
            losses, _, correct = self._losses(batch)
            torch.autograd.backward(losses.mean())
            self._optimizer.step(progress_of(self._config, local.place, step, len(plan)))
            loss_sum += float(losses.detach().sum())
            num_labels += len(losses)
            num_correct += int(correct.sum())
            num_tokens += int(batch.lengths.sum())
        yield from ()
        return RoundSummary(num_tokens, len(plan), loss_sum, num_labels, num_correct)

    @torch.no_grad()
    def evaluate(self) -> Generator[Message | None, Message, EvaluationEnd]:
        """Sum the loss over this client's held-out samples."""
        self._front.eval()
        self._body.eval()
        result = EvaluationEnd()
        for batch in held_out_batches(self._held_out, self._config):
            losses, _, correct = self._losses(batch)
            result.loss_sum += float(losses.double().sum())
            result.num_labels += len(losses)
            result.num_correct += int(correct.sum())
        yield from ()
        return result

    def _losses(self, batch: Batch) -> Losses:
        mask = batch.attention_mask.to(self._device)
        hidden = self._front(batch.input_ids.to(self._device), mask)
        return losses_through(self._body, hidden, mask, batch.labels.to(self._device))

    def adapter(self) -> dict[str, torch.Tensor]:
        """The adapters of both parts; their tensors' names are those in the whole model, so they never clash."""
        return joined_state((self._front, self._body))

    def load_adapter(self, state: Mapping[str, torch.Tensor]) -> None:
        """Put an averaged adapter in place."""
        load_joined_state((self._front, self._body), state)

    def references(self) -> Iterator[tuple[str, ReferenceStore]]:
        """None: nothing crosses a cut."""
        return iter(())

    def state(self) -> dict[str, torch.Tensor]:
        """The optimizer's moments."""
        return self._optimizer.state()

    def load_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on from a checkpoint."""
        self._optimizer.load_state(state)
