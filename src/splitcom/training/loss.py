"""The loss over padded batches, of next-token prediction and of classification; knows no party."""

from math import exp
from typing import NamedTuple

import torch
import torch.nn.functional as F

from splitcom.data import IGNORED
from splitcom.models import Body, Tail


class Losses(NamedTuple):
    """What came of every label of a batch, in the order of its rows."""

    losses: torch.Tensor  # fp32 [labelled], nats, differentiable
    rows: torch.Tensor  # int64 [labelled]: the row of the batch
    correct: (
        torch.Tensor
    )  # bool [labelled]: whether the likeliest class is right; False for tokens, not looked at


def learnt_at(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Rows and columns, int64 [labelled], of the positions that predict a token with a label; None for classes.

    `labels` as in `losses_of`.
    """
    if labels.shape[1] == 1:
        return None
    rows, columns = torch.nonzero(labels[:, 1:] != IGNORED, as_tuple=True)
    return rows, columns


def num_labels_of(labels: torch.Tensor) -> int:
    """How many losses `losses_of` gives for these labels."""
    at = learnt_at(labels)
    return len(labels) if at is None else len(at[0])


def perplexity(loss: float) -> float:
    """Of a loss in nats per token; bounded, so that it is a number whatever the loss."""
    return exp(min(loss, 700.0))


def learnt_tokens(labels: torch.Tensor) -> torch.Tensor | None:
    """Tokens that have a label or predict one, bool [batch, tokens]; None for classes. `labels` as in `losses_of`."""
    if labels.shape[1] == 1:
        return None
    labelled = labels != IGNORED
    predicts = torch.cat([labelled[:, 1:], torch.zeros_like(labelled[:, :1])], 1)
    return labelled | predicts


def losses_through(
    part: Body | Tail,
    hidden: torch.Tensor,
    mask: torch.Tensor,
    labels: torch.Tensor,
    smoothing: float = 0.0,
) -> Losses:
    """The losses of hidden states [batch, tokens, hidden] that go through the last part; the rest as in `losses_of`."""
    logits = part(hidden, mask, at=learnt_at(labels))
    return losses_of(logits, labels.to(logits.device), smoothing)  # a part may lie over several devices


def losses_of(logits: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0) -> Losses:
    """The cross-entropy of logits [batch, tokens, vocabulary], of these those at `learnt_at`, or [batch, classes].

    It is that to the label, which has 1 - `smoothing` of the weight and its even part of the rest (Szegedy et al. 2015,
    1512.00567).

    `labels` are int64: of classes [batch, 1]; of tokens [batch, tokens], at least two, with IGNORED where nothing is
    learnt, and the label at a position is predicted from the position before it.
    """
    at = learnt_at(labels)
    if at is None:
        classes = labels[:, 0]
        losses = F.cross_entropy(logits.float(), classes, reduction="none", label_smoothing=smoothing)
        return Losses(losses, torch.arange(len(classes), device=classes.device), logits.argmax(-1) == classes)
    rows, columns = at
    found = logits if logits.dim() == 2 else logits[at]
    losses = F.cross_entropy(
        found.float(), labels[rows, columns + 1], reduction="none", label_smoothing=smoothing
    )
    return Losses(losses, rows, torch.zeros_like(rows, dtype=torch.bool))
