"""The loss of next-token prediction over padded batches."""

import torch
import torch.nn.functional as F

from splitcom.protocol.labels import IGNORED


def token_losses(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy in nats of every token that has a label, and the row of the batch it stands in.

    `logits` [batch, tokens, vocabulary], `labels` int64 [batch, tokens] with IGNORED where nothing is learnt; the
    label at a position is predicted from the position before it. Returns fp32 [labelled], int64 [labelled].
    """
    targets = labels[:, 1:]
    rows, columns = torch.nonzero(targets != IGNORED, as_tuple=True)
    losses = F.cross_entropy(logits[rows, columns].float(), targets[rows, columns], reduction="none")
    return losses, rows
