"""What a client does of a round without the body: it trains its two ends, and chooses what to send through the body.

    samples ─► front ─► tail ─► loss           epochs of a local phase: both ends learn
    samples ─► front ─► tail ─► EL2N ─► the samples predicted worst, which alone are sent in this round

SFPrompt (2407.17533). Knows no message and no server.
"""

import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from splitcom.config import Config
from splitcom.data import Batch, Sample, batches, taken
from splitcom.models import Front, Tail
from splitcom.models.dropout import seed_dropout
from splitcom.seeds import derive_seed
from splitcom.training.loss import learnt_at, losses_of, num_labels_of
from splitcom.training.optimize import Optimizer
from splitcom.training.plan import LocalRound, num_kept, progress_of


class Bypass:
    """Both ends of one client, with what leaves the front put straight into the tail."""

    def __init__(self, name: str, front: Front, tail: Tail, optimizer: Optimizer, config: Config) -> None:
        self._name = name
        self._front = front
        self._tail = tail
        self._optimizer = optimizer
        self._config = config

    def train(self, samples: Sequence[Sample], local: LocalRound) -> None:
        """The round's epochs without the body, at the learning rate with which the round begins."""
        training = self._config.training
        progress = progress_of(self._config, local.place, 0, 1)
        self._front.train()
        self._tail.train()
        device = next(self._front.parameters()).device
        for epoch in range(self._config.client.bypass_epochs or 0):
            seed = derive_seed(self._config.seed, self._name, "bypass", local.index, epoch)
            for step, batch in enumerate(batches(samples, training.batch_size, seed=seed)):
                seed_dropout(device, derive_seed(seed, step))
                num_labels = num_labels_of(batch.labels)
                for part in batch.parts(training.accumulate):
                    logits, labels = self._run(part)
                    losses = losses_of(logits, labels, training.label_smoothing).losses
                    torch.autograd.backward(losses.sum() / num_labels)
                self._optimizer.step(progress)

    def kept(self, samples: Sequence[Sample], round_index: int) -> Sequence[Sample]:
        """The samples that are trained on through the body in a round, in the order in which they are given."""
        number = num_kept(len(samples), self._config)
        if number == len(samples):
            return samples
        if self._config.client.keep_by == "random":
            draw = random.Random(derive_seed(self._config.seed, self._name, "keep", round_index))
            chosen = draw.sample(range(len(samples)), number)
        else:
            scores = torch.cat(list(self._scores(samples)))
            chosen = scores.argsort(descending=True, stable=True)[:number].tolist()
        return taken(samples, np.array(sorted(chosen)))

    @torch.no_grad()
    def _scores(self, samples: Sequence[Sample]) -> Iterator[Tensor]:
        self._front.eval()
        self._tail.eval()
        for batch in batches(samples, self._config.training.batch_size, seed=None):
            for part in batch.parts(self._config.training.accumulate):
                yield el2n(*self._run(part))

    def _run(self, part: Batch) -> tuple[Tensor, Tensor]:
        """Logits at the labels of a batch, and the labels."""
        device = next(self._front.parameters()).device
        mask, labels = part.attention_mask.to(device), part.labels.to(device)
        hidden = self._front(part.input_ids.to(device), mask)
        return self._tail(hidden, mask, at=learnt_at(labels)), labels


def el2n(logits: Tensor, labels: Tensor) -> Tensor:
    """How far each sample's predictions are from its labels, fp32 [batch] on the CPU, 0 to 2.

    The mean, over the labels of a sample, of the squared error of the probabilities: sum p² - 2 p_y + 1. `logits` and
    `labels` are as in `losses_of`; of classes, with one label a sample, the root is EL2N itself (Paul et al. 2021).
    """
    at = learnt_at(labels)
    if at is None:
        rows, right = torch.arange(len(labels), device=labels.device), labels[:, 0]
    else:
        rows, right = at[0], labels[at[0], at[1] + 1]
        logits = logits if logits.dim() == 2 else logits[at]
    shares = F.softmax(logits.float(), dim=-1)
    errors = shares.square().sum(-1) - 2 * shares.gather(-1, right[:, None])[:, 0] + 1
    zeros = errors.new_zeros(len(labels))
    counts = zeros.index_add(0, rows, torch.ones_like(errors))
    return (zeros.index_add(0, rows, errors) / counts.clamp(min=1)).cpu()
