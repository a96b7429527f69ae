"""Rows into token ids with labels, and token ids into padded batches; knows no file and no model.

    prompt   <s> name [ A lder ] =>             labels -100: no loss
    response                        Ġ It Ġ is … </s>   labels = ids: the loss is taken here

Prompt and response are tokenised apart, so that the boundary is the same in training and in generation. An opening or
closing token that the text has already is not added once more.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from splitcom.amount import counted
from splitcom.data.load import Progress, Row
from splitcom.data.samples import IGNORED, Encoded, Encoding, Sample, Samples
from splitcom.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARKS = re.compile(r"<\|[^|<>\s]+\|>|</?s>|<(?:bos|eos|start_of_turn|end_of_turn)>")
_TOGETHER = 256  # rows that a tokenizer is given at a time: enough for its threads, and few in memory


def encode(
    rows: Sequence[Row],
    tokenizer: "PreTrainedTokenizerBase",
    max_tokens: int = 256,
    on_progress: Progress | None = None,
) -> Encoded:
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
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    kept = Encoding(rows, max_tokens)
    for some in chunks(kept.rows(on_progress)):
        prompts = _prompt_ids([row.prompt for row in some], tokenizer, opening)
        responses = _response_ids(some, tokenizer, opening)
        for row, prompt, response in zip(some, prompts, responses, strict=True):
            if problem := _problem_of(row, len(prompt), len(response), max_tokens):
                kept.drop(row, problem)
                continue
            target = response if response[-1:] == end else [*response, *end]
            kept.add(row, prompt + target, [IGNORED] * len(prompt) + target)
    return kept.finish(
        "no sample left of {rows}; raise data.max_tokens, or fill the columns of data.prompt and data.response: "
        "{report}"
    )


def _problem_of(row: Row, num_prompt: int, num_response: int, max_tokens: int) -> str:
    """Why there is nothing to learn from a row with so many tokens; "" if there is."""
    if row.is_empty:
        return "all columns of data.prompt are empty" if row.lacks_prompt else "data.response is empty"
    if num_prompt >= max_tokens:
        return f"the prompt alone has {counted(num_prompt, 'token')}, of {max_tokens} (data.max_tokens)"
    return "" if num_response and num_prompt + num_response > 1 else "a text of one token, or of none"


def encode_tokens(
    rows: Sequence[Row],
    tokenizer: "PreTrainedTokenizerBase",
    max_tokens: int = 256,
    on_progress: Progress | None = None,
) -> Encoded:
    """Samples of rows that hold token ids; a longer one loses its end, one of which nothing is learnt is dropped.

    Their rows' prompt and response are the text of what stands before the first learnt token, and of the rest.
    Raises DataError if no sample is left.
    """

    def as_text(row: Row) -> Row:
        assert row.tokens is not None
        ids, edge = list(row.tokens.ids[:max_tokens]), row.tokens.num_before
        return replace(row, prompt=tokenizer.decode(ids[:edge]), response=tokenizer.decode(ids[edge:]))

    kept = Encoding(rows, max_tokens, shown=as_text)
    for row in kept.rows(on_progress):
        assert row.tokens is not None
        if all(
            label == IGNORED for label in row.tokens.labels[1:max_tokens]
        ):  # nothing predicts the first token
            kept.drop(row, f"nothing to learn in its first {counted(max_tokens, 'token')} (data.max_tokens)")
        else:
            kept.add(row, row.tokens.ids, row.tokens.labels)
    return kept.finish("no sample left of {rows} of token ids; labels that are not -100 are learnt: {report}")


def chunks(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """As many rows at a time as a tokenizer is given."""
    while some := list(islice(rows, _TOGETHER)):
        yield some


def prefixed(encoded: Encoded, ids: Tensor, *, of_classes: bool) -> Encoded:
    """The same samples with `ids`, int64 [tokens], before each, of which nothing is learnt."""
    if not len(ids):
        return encoded
    before = ids.new_empty(0) if of_classes else torch.full_like(ids, IGNORED)
    bare = encoded.samples

    def behind(index: int) -> Sample:
        sample = bare[index]
        whole, labels = torch.cat([ids, sample.input_ids]), torch.cat([before, sample.labels])
        return replace(sample, input_ids=whole, labels=labels)

    return replace(encoded, samples=Samples(behind, bare.lengths + len(ids)))


def encode_prompt(prompt: str, tokenizer: "PreTrainedTokenizerBase") -> Tensor:
    """Tokenise one prompt exactly as `encode` does, for generation: int64 [1, tokens]."""
    return torch.tensor(_prompt_ids([prompt], tokenizer, added_tokens(tokenizer)[0]), dtype=torch.int64)


def unknown_marks(template: str, tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """Return what looks like a special token in a template, but is ordinary text to this tokenizer."""
    known = tokenizer.get_vocab()
    return [mark for mark in dict.fromkeys(_MARKS.findall(template)) if mark not in known]


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
