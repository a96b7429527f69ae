"""Text from the model of a run, cut as it was trained: what people read, and what is scored."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from splitcom.codecs import Context, Ragged, parse
from splitcom.config import Config
from splitcom.data import Row, Sample, encode_prompt
from splitcom.errors import ConfigError
from splitcom.metrics.quality import text_scores
from splitcom.models import cut, load_adapted, load_model, load_tokenizer
from splitcom.models.generate import generator
from splitcom.parties.parts import device_of
from splitcom.parties.texts import load_all_rows

Progress = Callable[[int, int], None]
"""Is told how many of how many prompts are done."""


@dataclass
class Wire:
    """What stands between two parts: every position goes through the evaluation's codec, and is counted."""

    codec_text: str
    bytes: int = 0
    positions: int = 0

    def __post_init__(self) -> None:
        self._codec = parse(self.codec_text)

    def __call__(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Send hidden states [B, T, D] of the positions in `mask` [B, T]; returns what arrives."""
        batch = Ragged.from_padded(hidden, mask)
        packet = self._codec.encode(batch, list(range(len(hidden))), Context(seed=self.positions)).packet
        self.bytes += len(packet)
        self.positions += len(batch.values)
        arrived = self._codec.decode(packet).batch
        return arrived.to_padded(mask).to(hidden.device, hidden.dtype)


@dataclass
class Writer:
    """Continues prompts with a model that is cut as `config` says, or with the whole one where nothing is split."""

    model: PreTrainedModel
    config: Config
    wires: list[Wire] = field(default_factory=list)

    def __post_init__(self) -> None:
        model = self.model.to(device_of(self.config)).eval()
        self._tokenizer = load_tokenizer(self.config.model.source)
        if self.config.training.split:
            split = cut(model, self.config.model.cut, self.config.model.tail_blocks)
            self.wires = [Wire(self.config.evaluation.codec) for _ in split.parts[1:]]
            model = generator(split, tuple(self.wires))
        self._generator = model

    @classmethod
    def of_run(cls, config: Config, adapter: Path) -> "Writer":
        """The model as a run has left it."""
        adapted = load_adapted(config.model.source, adapter, config.data.classes)
        return cls(adapted.merge_and_unload(), config)

    def logits(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Logits [B, T, V], of classes [B, C], on the CPU; what the parts send one another goes through the wires."""
        ids, mask = input_ids.to(self.model.device), attention_mask.to(self.model.device)
        return cast(torch.Tensor, self._generator(input_ids=ids, attention_mask=mask).logits.cpu())

    @torch.no_grad()
    def write(self, prompts: Sequence[str], on_progress: Progress | None = None) -> list[str]:
        """Continue prompts, a batch at a time, by greedy or, with `evaluation.beams`, by beam search.

        Raises ConfigError where the run has learnt classes.
        """
        if self.config.data.classes is not None:
            raise ConfigError(
                "data.task = 'classification': the model tells classes and writes no text; `splitcom evaluate` tells "
                "its accuracy"
            )
        settings, written = self.config.evaluation, list[str]()
        for start in range(0, len(prompts), settings.batch_size):
            batch = [
                encode_prompt(text, self._tokenizer)[0]
                for text in prompts[start : start + settings.batch_size]
            ]
            longest = max(map(len, batch))
            ids = torch.zeros(len(batch), longest, dtype=torch.int64)
            mask = torch.zeros_like(ids)
            for row, prompt in enumerate(batch):
                ids[row, longest - len(prompt) :] = prompt
                mask[row, longest - len(prompt) :] = 1
            device = self._generator.device
            out = self._generator.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                max_new_tokens=settings.max_new_tokens,
                num_beams=settings.beams,
                do_sample=False,
                pad_token_id=self._tokenizer.eos_token_id,
            )
            new = out[:, longest:]
            written += [text.strip() for text in self._tokenizer.batch_decode(new, skip_special_tokens=True)]
            if on_progress is not None:
                on_progress(len(written), len(prompts))
        return written


def generate_pairs(tuned: Writer, samples: Sequence[Sample]) -> list[dict[str, str]]:
    """Continuations of the first held-out prompts, by the base model and by `tuned`."""
    config = tuned.config
    chosen = [sample.row for sample in samples[: config.evaluation.generate]]
    prompts = [row.prompt for row in chosen]
    before = Writer(load_model(config.model.source), config).write(prompts)
    after = tuned.write(prompts)
    return [
        {"prompt": row.prompt, "reference": row.response, "before": old, "after": new}
        for row, old, new in zip(chosen, before, after, strict=True)
    ]


def score_text(writer: Writer, on_progress: Progress | None = None) -> dict[str, Any]:
    """Score continuations of the first distinct held-out prompts, each against all responses its rows have.

    Also says how they were made, and the bytes of a position at each cut. Raises ConfigError where no held-out row
    has a prompt.
    """
    settings = writer.config.evaluation
    references = references_by_prompt(load_all_rows(writer.config).held_out)
    prompts = list(references)[: settings.text_samples]
    if not prompts:
        raise ConfigError(
            f"evaluation.text_samples = {settings.text_samples}: no held-out row has a prompt to continue; set "
            "data.prompt, or text_samples = 0"
        )
    for wire in writer.wires:
        wire.bytes = wire.positions = 0
    texts = writer.write(prompts, on_progress)
    return {
        "prompts": len(prompts),
        "beams": settings.beams,
        "max_new_tokens": settings.max_new_tokens,
        **text_scores(texts, [references[prompt] for prompt in prompts]),
        "bytes_per_position": [wire.bytes / max(wire.positions, 1) for wire in writer.wires],
    }


def references_by_prompt(rows: Sequence[Row]) -> dict[str, list[str]]:
    """The responses of each distinct prompt, in the order of the rows; rows without a prompt are left out."""
    references: dict[str, list[str]] = {}
    for row in rows:
        if row.prompt:
            references.setdefault(row.prompt, []).append(row.response)
    return references
