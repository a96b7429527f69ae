"""Rows into token ids with labels, and token ids into padded batches; knows no file and no model.

    prompt   <s> name [ A lder ] =>             labels -100: no loss
    response                        Ġ It Ġ is … </s>   labels = ids: the loss is taken here

Prompt and response are tokenised apart, so that the boundary is the same in training and in generation. An opening or
closing token that the text has already is not added once more.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from splitcom.amount import counted
from splitcom.data.load import Row
from splitcom.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
"""The label that transformers' loss leaves out."""

_PROBLEMS_SHOWN = 3
_MARKS = re.compile(r"<\|[^|<>\s]+\|>|</?s>|<(?:bos|eos|start_of_turn|end_of_turn)>")


@dataclass(frozen=True, eq=False)
class Sample:
    """One training example, not padded: `input_ids` and `labels` are int64 of shape [tokens].

    For classification `labels` is of shape [1] and holds the class.
    """

    sample_id: int
    input_ids: Tensor
    labels: Tensor
    row: Row

    @property
    def num_tokens(self) -> int:
        """The number of tokens, prompt included."""
        return len(self.input_ids)


@dataclass(frozen=True)
class EncodingReport:
    """What encoding kept, what it had to cut, and what else one should know of these samples.

    `notes` say how they were read. `problems` are those of the dropped rows for which there is more to say than that
    nothing is left to learn, each with its place.
    """

    num_samples: int
    num_tokens: int
    max_tokens: int
    truncated_ids: Sequence[int]
    num_tokens_cut: int
    dropped_ids: Sequence[int]
    warnings: Sequence[str] = ()
    notes: Sequence[str] = ()
    problems: Sequence[str] = ()

    def __str__(self) -> str:
        lines = [f"{counted(self.num_samples, 'sample')}, {counted(self.num_tokens, 'token')}"]
        if self.truncated_ids:
            cut = f"{counted(len(self.truncated_ids), 'sample')} cut to {self.max_tokens} tokens"
            lines.append(f"{cut} ({counted(self.num_tokens_cut, 'token')} lost)")
        if self.dropped_ids:
            shown = ", ".join(map(str, self.dropped_ids[:5])) + (" …" if len(self.dropped_ids) > 5 else "")
            lines.append(
                f"{counted(len(self.dropped_ids), 'sample')} dropped, nothing left to learn: rows {shown}"
            )
        told = [f"dropped: {problem}" for problem in self.problems[:_PROBLEMS_SHOWN]]
        if len(self.problems) > len(told):
            told.append(f"dropped: {len(self.problems) - len(told)} more")
        warnings = [f"warning: {warning}" for warning in self.warnings]
        return "\n".join(["; ".join(lines), *self.notes, *told, *warnings])


@dataclass(frozen=True)
class Encoded:
    """The samples that can be trained on, and the report on the others."""

    samples: list[Sample]
    report: EncodingReport


@dataclass(frozen=True, eq=False)
class Batch:
    """Right-padded samples: int64 tensors [batch, tokens], `lengths` int64 [batch]; classes are `labels` [batch, 1]."""

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    lengths: Tensor
    sample_ids: list[int]

    def parts(self, number: int) -> "list[Batch]":
        """The samples in their order in `number` batches of nearly equal numbers, or in one each if there are fewer."""
        count = len(self.sample_ids)
        if (number := min(number, count)) < 2:
            return [self]
        edges = [index * count // number for index in range(number + 1)]
        return [self._rows(slice(*edge)) for edge in pairwise(edges)]

    def _rows(self, rows: slice) -> "Batch":
        width = int(self.lengths[rows].max())
        labels = self.labels[rows] if self.labels.shape[1] == 1 else self.labels[rows, :width]
        return Batch(
            self.input_ids[rows, :width],
            self.attention_mask[rows, :width],
            labels,
            self.lengths[rows],
            self.sample_ids[rows],
        )


def encode(rows: Sequence[Row], tokenizer: "PreTrainedTokenizerBase", max_tokens: int = 256) -> Encoded:
    """Tokenise rows; the response ends with the tokenizer's end-of-sequence token where it has one.

    A sample longer than `max_tokens` loses the end of its response; one left with no response token, or without
    anything in the prompt's columns, is dropped. Both are in the report. A row without a prompt is plain text, with
    the loss on all of it.

    Raises:
        DataError: `max_tokens` below two, or no sample left.
    """
    if max_tokens < 2:
        raise DataError(
            f"data.max_tokens is {max_tokens}; a sample needs at least 2: one to read and one to predict"
        )
    if not rows:
        raise DataError("there are no rows to encode")
    opening, _ = added_tokens(tokenizer)
    prompts = _prompt_ids([row.prompt for row in rows], tokenizer, opening)
    responses = _response_ids(rows, tokenizer, opening)
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]

    samples, truncated, dropped, num_tokens_cut = [], [], [], 0
    for row, prompt, response in zip(rows, prompts, responses, strict=True):
        room = max_tokens - len(prompt)
        if row.is_empty or room < 1 or not response or len(prompt) + len(response) < 2:
            dropped.append(row.sample_id)
            continue
        target = response if response[-1:] == end else [*response, *end]
        if len(target) > room:
            truncated.append(row.sample_id)
            num_tokens_cut += len(target) - room
        input_ids = torch.tensor((prompt + target)[:max_tokens])
        labels = input_ids.clone()
        labels[: len(prompt)] = IGNORED
        samples.append(Sample(row.sample_id, input_ids, labels, row))
    num_tokens = sum(sample.num_tokens for sample in samples)
    report = EncodingReport(len(samples), num_tokens, max_tokens, truncated, num_tokens_cut, dropped)
    if not samples:
        raise DataError(
            f"no sample left of {counted(len(rows), 'row')}: {report}; raise data.max_tokens, or fill the "
            "columns of data.prompt "
            "and data.response"
        )
    return Encoded(samples, report)


def encode_tokens(
    rows: Sequence[Row], tokenizer: "PreTrainedTokenizerBase", max_tokens: int = 256
) -> Encoded:
    """Samples of rows that hold token ids; a longer one loses its end, one of which nothing is learnt is dropped.

    Their rows' prompt and response are the text of what stands before the first learnt token, and of the rest.
    Raises DataError if no sample is left.
    """
    samples, truncated, dropped, num_tokens_cut = [], [], [], 0
    for row in rows:
        assert row.tokens is not None
        ids, labels = row.tokens.ids[:max_tokens], row.tokens.labels[:max_tokens]
        if all(label == IGNORED for label in labels[1:]):  # nothing predicts the first token
            dropped.append(row.sample_id)
            continue
        if len(row.tokens.ids) > max_tokens:
            truncated.append(row.sample_id)
            num_tokens_cut += len(row.tokens.ids) - max_tokens
        edge = row.tokens.num_before
        prompt, response = (tokenizer.decode(part) for part in (list(ids[:edge]), list(ids[edge:])))
        read = replace(row, prompt=prompt, response=response)
        samples.append(Sample(row.sample_id, torch.tensor(ids), torch.tensor(labels), read))
    num_tokens = sum(sample.num_tokens for sample in samples)
    report = EncodingReport(len(samples), num_tokens, max_tokens, truncated, num_tokens_cut, dropped)
    if not samples:
        raise DataError(
            f"no sample left of {counted(len(rows), 'row')} of token ids: {report}; labels that are not -100 are learnt"
        )
    return Encoded(samples, report)


def prefixed(encoded: Encoded, ids: Tensor, *, of_classes: bool) -> Encoded:
    """The same samples with `ids`, int64 [tokens], before each, of which nothing is learnt."""
    if not len(ids):
        return encoded
    before = ids.new_empty(0) if of_classes else torch.full_like(ids, IGNORED)
    samples = [
        replace(
            sample,
            input_ids=torch.cat([ids, sample.input_ids]),
            labels=torch.cat([before, sample.labels]),
        )
        for sample in encoded.samples
    ]
    return replace(encoded, samples=samples)


def encode_prompt(prompt: str, tokenizer: "PreTrainedTokenizerBase") -> Tensor:
    """Tokenise one prompt exactly as `encode` does, for generation: int64 [1, tokens]."""
    return torch.tensor(_prompt_ids([prompt], tokenizer, added_tokens(tokenizer)[0]), dtype=torch.int64)


def unknown_marks(template: str, tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """Return what looks like a special token in a template, but is ordinary text to this tokenizer."""
    known = tokenizer.get_vocab()
    return [mark for mark in dict.fromkeys(_MARKS.findall(template)) if mark not in known]


def batches(
    samples: Sequence[Sample],
    batch_size: int,
    seed: int | None = None,
    epoch: int = 0,
    client: int = 0,
    *,
    by_length: bool = False,
) -> list[Batch]:
    """Arrange samples into batches; every sample is in exactly one, the last batch may be smaller.

    The order depends on (seed, client, epoch) and the given order; without a seed it is the given order.
    With `by_length` the shortest samples of each batch come first, so that its parts have less padding.

    Raises:
        DataError: `batch_size` below one.
    """
    if batch_size < 1:
        raise DataError(f"training.batch_size is {batch_size}; it must be at least 1")
    order = list(samples)
    if seed is not None:
        random.Random(f"splitcom/batches/{seed}/{client}/{epoch}").shuffle(order)
    found = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [_pad(sorted(batch, key=lambda one: one.num_tokens) if by_length else batch) for batch in found]


def _pad(samples: Sequence[Sample]) -> Batch:
    """Pad to the longest sample. The mask hides the padding, so its token id (0) is of no importance."""
    lengths = torch.tensor([sample.num_tokens for sample in samples])
    input_ids = pad_sequence([sample.input_ids for sample in samples], batch_first=True)
    labels = pad_sequence([sample.labels for sample in samples], batch_first=True, padding_value=IGNORED)
    mask = (torch.arange(input_ids.shape[1]) < lengths[:, None]).to(torch.int64)
    return Batch(input_ids, mask, labels, lengths, [sample.sample_id for sample in samples])


def added_tokens(tokenizer: "PreTrainedTokenizerBase") -> tuple[list[int], list[int]]:
    """Return the special tokens that a tokenizer puts before a text and after it."""
    whole: list[int] = tokenizer("a")["input_ids"]
    bare: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    starts = (at for at in range(len(whole)) if whole[at : at + len(bare)] == bare)
    start = next(starts, 0) if bare else 1  # a tokenizer without this letter shows its special tokens alone
    return whole[:start], whole[start + len(bare) :]


def _prompt_ids(
    prompts: Sequence[str], tokenizer: "PreTrainedTokenizerBase", opening: list[int]
) -> list[list[int]]:
    """Tokenise prompts with the tokenizer's opening special tokens, but without a closing one.

    Spaces at the end are left to the response, as most tokenizers join a space to the word that follows.
    """
    texts = [prompt.rstrip(" ") for prompt in prompts]
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return [one if opening == one[: len(opening)] else [*opening, *one] for one in ids]


def _response_ids(
    rows: Sequence[Row], tokenizer: "PreTrainedTokenizerBase", opening: list[int]
) -> list[list[int]]:
    """Tokenise responses without special tokens, parted from their prompt by a space."""
    separator, closing = _separator(tokenizer), tokenizer.eos_token or "\n"
    texts = [
        row.response.rstrip() if row.response.rstrip().endswith(closing) else row.response for row in rows
    ]
    texts = [
        separator + text if row.prompt.strip() and row.prompt[-1] not in "\n\t" and text else text
        for row, text in zip(rows, texts, strict=True)
    ]
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    # What opens a text is there already, before the prompt.
    return [one[len(opening) :] if opening and one[: len(opening)] == opening else one for one in ids]


def _separator(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Return what parts two pieces tokenised alone: nothing if the tokenizer marks word starts itself."""
    first, second = tokenizer(["a", "b"], add_special_tokens=False)["input_ids"]
    return " " if tokenizer.decode(first + second) == "ab" else ""
