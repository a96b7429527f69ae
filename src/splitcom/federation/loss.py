"""The loss over padded batches, of next-token prediction and of classification; knows no party."""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from splitcom.protocol.labels import IGNORED


class Losses(NamedTuple):
    """What came of every label of a batch, in the order of its rows."""

    losses: torch.Tensor  # fp32 [labelled], nats, differentiable
    rows: torch.Tensor  # int64 [labelled]: the row of the batch
    correct: (
        torch.Tensor
    )  # bool [labelled]: whether the likeliest class is right; False for tokens, not looked at


def losses_of(logits: torch.Tensor, labels: torch.Tensor) -> Losses:
    """The losses of logits [batch, tokens, vocabulary] or, of a classifier, [batch, classes].

    `labels` are int64: of tokens as in `token_losses`, of classes [batch, 1].
    """
    if logits.dim() == 3:
        losses, rows = token_losses(logits, labels)
        return Losses(losses, rows, torch.zeros_like(rows, dtype=torch.bool))
    classes = labels[:, 0]
    losses = F.cross_entropy(logits.float(), classes, reduction="none")
    return Losses(losses, torch.arange(len(classes), device=classes.device), logits.argmax(-1) == classes)


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy in nats of every token that has a label, and the row of the batch it stands in.

    `logits` [batch, tokens, vocabulary], `labels` int64 [batch, tokens] with IGNORED where nothing is learnt; the
    label at a position is predicted from the position before it. Returns fp32 [labelled], int64 [labelled].
    """
    targets = labels[:, 1:]
    rows, columns = torch.nonzero(targets != IGNORED, as_tuple=True)
    losses = F.cross_entropy(logits[rows, columns].float(), targets[rows, columns], reduction="none")
    return losses, rows
