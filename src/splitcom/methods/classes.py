"""Which classes a trained classifier tells for which, over held-out samples."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from splitcom.config import Config
from splitcom.data import Sample
from splitcom.methods.text import Writer
from splitcom.training.plan import held_out_batches


@torch.no_grad()
def tell_classes(writer: Writer, samples: Sequence[Sample]) -> dict[str, Any]:
    """Have the model of a run tell the class of each sample; returns what `confusion_of` does."""
    batches = held_out_batches(samples, writer.config)
    return confusion_of(
        writer.config, ((one.labels, writer.logits(one.input_ids, one.attention_mask)) for one in batches)
    )


def confusion_of(config: Config, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, Any]:
    """The confusion matrix of batches: labels int64 [batch, 1] with logits [batch, classes] each.

    `counts` has a row for each class that is right, and in it how often each class was told, in the order of `labels`.
    """
    names = config.data.classes or []
    counts = torch.zeros(len(names), len(names), dtype=torch.int64)
    for labels, logits in batches:
        right, told = labels[:, 0].cpu(), logits.argmax(-1).cpu()
        counts.index_put_((right, told), torch.ones_like(right), accumulate=True)
    return {"labels": [str(name) for name in names], "counts": counts.tolist()}
