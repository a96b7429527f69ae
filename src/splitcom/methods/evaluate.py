"""What a finished run's model is worth on held-out data, beyond the loss in its result.json."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from splitcom.durable import write_atomic
from splitcom.methods.classes import confusion_of
from splitcom.methods.settings import PLACES, settings_of
from splitcom.methods.text import Progress, Writer, score_text
from splitcom.metrics.record import RunFolder
from splitcom.parties.texts import load_texts
from splitcom.training.loss import losses_of, perplexity
from splitcom.training.plan import held_out_batches

EVALUATION = "evaluation.json"


def writer_of(
    run: str | Path, changes: Mapping[str, Any] | None = None, needs: Sequence[str] = ("model.source",)
) -> Writer:
    """The model of a finished run, with `changes` to its settings, such as {"evaluation.beams": 4}.

    `needs` is that of `settings_of`.

    Raises RunError if there is no run or it has not ended, ConfigError, ModelError, AdapterError.
    """
    folder = RunFolder(run)
    return Writer.of_run(settings_of(folder, changes, needs), folder.ended_adapter())


@torch.no_grad()
def evaluate_run(
    run: str | Path, changes: Mapping[str, Any] | None = None, on_progress: Progress | None = None
) -> dict[str, Any]:
    """Evaluate a finished run and write evaluation.json into its folder; returns the content.

    Loss (nats per token, or per sample for classes) of the held-out samples. For classes the accuracy and the confusion
    matrix; for text the perplexity and, with `evaluation.text_samples`, the scores of `splitcom.metrics.quality` for so
    many distinct held-out prompts, and what a generated token costs at the cut.
    """
    writer = writer_of(run, changes, PLACES)
    config = writer.config
    told = [
        (batch.labels, writer.logits(batch.input_ids, batch.attention_mask))
        for batch in held_out_batches(load_texts(config).held_out.samples, config)
    ]
    batches = [losses_of(logits, labels) for labels, logits in told]
    loss = float(torch.cat([batch.losses for batch in batches]).double().mean())
    found: dict[str, Any] = {"loss": loss}
    if config.data.classes is not None:
        found["accuracy"] = float(torch.cat([batch.correct for batch in batches]).double().mean())
        found["confusion"] = confusion_of(config, told)
    else:
        found["perplexity"] = perplexity(loss)
        if config.evaluation.text_samples:
            found["text"] = score_text(writer, on_progress)
    write_atomic(Path(run) / EVALUATION, (json.dumps(found, indent=2) + "\n").encode())
    return found
