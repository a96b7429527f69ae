"""Text from the model of a run, cut as it was trained: what people read, and what is scored."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any, cast

import torch

from splitcom.amount import counted
from splitcom.codecs import Context, Ragged, parse
from splitcom.config import Config
from splitcom.data import Message, Row, Sample, encode_prompt
from splitcom.errors import ConfigError
from splitcom.metrics.quality import check_scorers, text_scores
from splitcom.models import (
    SplitModel,
    limits_of,
    load_generation_config,
    load_joined_state,
    load_tokenizer,
    read_adapter,
    soft_prompt_ids,
    without_adapters,
)
from splitcom.models.generate import generator
from splitcom.parties.parts import Parts, load_parts
from splitcom.parties.rows import load_all_rows
from splitcom.parties.texts import chat_template_of

Asked = str | tuple[Message, ...]
"""What is to be continued: a text, or messages that the assistant is to answer."""

Progress = Callable[[int, int], None]
"""Is told how many of how many prompts are done."""


@dataclass
class Wire:
    """What stands between two parts: every position goes through a codec, and is counted."""

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


class Writer:
    """Continues prompts with the parts of a model; where nothing is split, nothing stands between them.

    Positions are sent through `evaluation.codec`, if it needs no references: what is written comes only once, and so
    has none. Else they are sent as they are.
    """

    def __init__(self, parts: Parts, config: Config) -> None:
        assert parts.body is not None
        self.config = config
        split = SplitModel(parts.front, parts.body, parts.tail)
        self._parts = [part.eval() for part in split.parts]
        text = config.evaluation.codec
        text = "none" if parse(text).needs_references else text
        self.wires = [Wire(text) for _ in split.parts[1:]] if config.training.split else []
        self._generator = generator(split, tuple(self.wires) or None)
        self._tokenizer = load_tokenizer(config.model.source)
        self._soft_prompt = soft_prompt_ids(config.lora.prompt_tokens)
        self._template = chat_template_of(config, self._tokenizer)
        limits = limits_of(config.model.source, config.data.classes)
        self._positions = (
            limits.positions if limits.is_table else None
        )  # else more of them only are read less well
        if (settings := load_generation_config(config.model.source)) is not None:
            self._generator.generation_config = settings

    @classmethod
    def of_run(cls, config: Config, adapter: Path) -> "Writer":
        """The model as a run has left it."""
        state = read_adapter(adapter)
        parts = load_parts(config.for_all)
        load_joined_state(parts.all, state)
        return cls(parts, config)

    @contextmanager
    def untrained(self) -> Iterator[None]:
        """Within it, the base model writes."""
        soft_prompt, self._soft_prompt = self._soft_prompt, soft_prompt_ids(0)
        try:
            with without_adapters(self._parts):
                yield
        finally:
            self._soft_prompt = soft_prompt

    def logits(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Logits [B, T, V], of classes [B, C], on the CPU; what the parts send one another goes through the wires."""
        device = self._generator.device
        ids, mask = input_ids.to(device), attention_mask.to(device)
        return cast(torch.Tensor, self._generator(input_ids=ids, attention_mask=mask).logits.cpu())

    def room_for(self, prompt: Asked) -> int:
        """How many tokens can be written behind a prompt; 0 if it fills the model or there is nothing to read."""
        return self._room(self._encode(prompt))

    @torch.no_grad()
    def write(self, prompts: Sequence[Asked], on_progress: Progress | None = None) -> list[str]:
        """Continue prompts, a batch at a time, by greedy or, with `evaluation.beams`, by beam search.

        What is written ends where the model's positions do, and an answer where the chat template ends a turn. Raises
        ConfigError if the run has learnt classes, or a prompt leaves no room.
        """
        if self.config.data.classes is not None:
            raise ConfigError(
                "data.task = 'classification': the model tells classes and writes no text; `splitcom evaluate` tells "
                "its accuracy"
            )
        encoded = [self._encode(prompt) for prompt in prompts]
        for prompt, ids in zip(prompts, encoded, strict=True):
            if self._room(ids) < 1:
                raise ConfigError(self._no_room(as_text(prompt), ids))
        written = list[str]()
        # A text must not depend on those beside it: whatever has less room than others is not in one batch with them.
        for room, group in groupby(encoded, key=self._room):
            alike = list(group)
            for start in range(0, len(alike), self.config.evaluation.batch_size):
                written += self._continue(alike[start : start + self.config.evaluation.batch_size], room)
                if on_progress is not None:
                    on_progress(len(written), len(prompts))
        return written

    def _continue(self, batch: Sequence[torch.Tensor], max_new_tokens: int) -> list[str]:
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
            max_new_tokens=max_new_tokens,
            num_beams=self.config.evaluation.beams,
            do_sample=False,
            pad_token_id=self._tokenizer.eos_token_id,
            **self._stops(),
        )
        texts = self._tokenizer.batch_decode(out[:, longest:], skip_special_tokens=True)
        return [self._without_mark(text).strip() for text in texts]

    def _stops(self) -> dict[str, Any]:
        """What ends a text: what the model says, the token that samples end with, and the mark of a chat's turns.

        The mark is a token or, if it is ordinary text, given as such.
        """
        mark = "" if self._template is None else self._template.end_of_turn
        known = self._tokenizer.added_tokens_encoder
        given = self._generator.generation_config.eos_token_id
        ends = {self._tokenizer.eos_token_id, *([given] if isinstance(given, int) else given or ())}
        token = next((token for token in known if mark and mark.startswith(token)), None)
        if token is not None:
            ends.add(known[token])
        stops: dict[str, Any] = {"eos_token_id": sorted(ends - {None}) or None}
        if mark and token is None:
            stops |= {"stop_strings": [mark], "tokenizer": self._tokenizer}
        return stops

    def _without_mark(self, text: str) -> str:
        mark = "" if self._template is None else self._template.end_of_turn
        return text.partition(mark)[0] if mark else text

    def _encode(self, prompt: Asked) -> torch.Tensor:
        """Ids of a prompt, behind those of the learnt soft prompt; none if there is nothing to read."""
        ids = self._ids_of(prompt)
        return torch.cat([self._soft_prompt, ids]) if len(ids) else ids

    def _ids_of(self, prompt: Asked) -> torch.Tensor:
        """Ids of a prompt; of one without any, the token that opens texts, or else the one between them."""
        if not isinstance(prompt, str):
            if self._template is None:
                raise ConfigError(
                    "this run has learnt from columns (data.format), not from conversations; give text as data.prompt "
                    "makes it"
                )
            return torch.tensor(self._template.prompt_ids(prompt), dtype=torch.int64)
        ids = encode_prompt(prompt, self._tokenizer)[0]
        if len(ids):
            return ids
        opening = (self._tokenizer.bos_token_id, self._tokenizer.eos_token_id)
        return torch.tensor([token for token in opening if token is not None][:1], dtype=torch.int64)

    def _room(self, ids: torch.Tensor) -> int:
        room = self.config.evaluation.max_new_tokens
        if self._positions is not None:
            room = min(room, self._positions - len(ids))
        return room if len(ids) else 0

    def _no_room(self, prompt: str, ids: torch.Tensor) -> str:
        source = self.config.model.source
        if not len(ids):
            return (
                f"the prompt {prompt!r} is empty, and the tokenizer of {source} has no token that opens a text; give "
                "it a word to begin with"
            )
        return (
            f"the prompt that begins {prompt[:40]!r} has {counted(len(ids), 'token')}, and {source} takes "
            f"{self._positions} "
            "with what it writes; shorten the prompt"
        )


def write_pairs(writer: Writer, samples: Sequence[Sample]) -> list[dict[str, str]]:
    """Continuations of the first held-out prompts that leave room for any, before and after training."""
    fitting = (sample.row for sample in samples if writer.room_for(sample.row.asked) > 0)
    chosen = list(islice(fitting, writer.config.evaluation.generate))
    prompts = [row.asked for row in chosen]
    with writer.untrained():
        before = writer.write(prompts)
    after = writer.write(prompts)
    return [
        {"prompt": row.prompt, "reference": row.response, "before": old, "after": new}
        for row, old, new in zip(chosen, before, after, strict=True)
    ]


def score_text(writer: Writer, on_progress: Progress | None = None) -> dict[str, Any]:
    """Score continuations of the first distinct held-out prompts, each against all responses its rows have.

    Also says how they were made, and the bytes of a position at each cut. Prompts that fill the model are left out.
    Raises ConfigError if no held-out row has a prompt that can be continued, MissingExtraError without `eval`.
    """
    check_scorers()  # before anything is written
    settings = writer.config.evaluation
    rows = load_all_rows(writer.config).held_out
    references = references_by_prompt(rows, settings.text_samples, lambda prompt: writer.room_for(prompt) > 0)
    prompts = list(references)
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


def references_by_prompt(
    rows: Iterable[Row], most: int, fits: Callable[[Asked], bool]
) -> dict[Asked, list[str]]:
    """All responses of each of the first distinct prompts that fit, in the order of the rows; empty ones do not."""
    references: dict[Asked, list[str]] = {}
    for row in rows:
        if row.prompt and row.asked in references:
            references[row.asked].append(row.response)
        elif row.prompt and len(references) < most and fits(row.asked):
            references[row.asked] = [row.response]
    return references


def as_text(prompt: Asked) -> str:
    """A prompt, or messages as a person reads them."""
    return prompt if isinstance(prompt, str) else "\n".join(map(str, prompt))
