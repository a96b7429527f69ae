"""Rows with a class in place of a response: which classes there are, and rows into samples; knows no model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from splitcom.amount import counted
from splitcom.data.encode import Encoded, EncodingReport, Sample, added_tokens
from splitcom.data.load import Row
from splitcom.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SHOWN = 8


def classes_in(rows: Sequence[Row]) -> list[str]:
    """Return the distinct labels of rows that have one, numbers by their value and before words.

    Raises:
        DataError: these are fewer than two, or so many that they must be something else: more than half the rows.
    """
    rows = [row for row in rows if not row.is_empty]
    found = sorted({row.label for row in rows}, key=_by_value)
    if not 2 <= len(found) <= len(rows) / 2:
        raise DataError(
            f"{counted(len(found), 'class', 'classes')} in {counted(len(rows), 'row')} ({_listed(found)}); "
            "expected at least 2 classes, "
            "each in 2 rows or more: name the column that holds them in data.response, or list them in "
            "data.labels"
        )
    return found


def class_indices(rows: Sequence[Row], labels: Sequence[str]) -> list[int]:
    """Return the place in `labels` of each row that is not empty; DataError, naming the row, for an unknown class."""
    rows = [row for row in rows if not row.is_empty]
    places = {label: index for index, label in enumerate(labels)}
    if unknown := [row for row in rows if row.label not in places]:
        raise DataError(
            f"{unknown[0].place}: unknown class {unknown[0].label!r} ({len(unknown)} of {len(rows)} "
            f"rows); the run's classes are {_listed(labels)}: correct data.response or data.labels"
        )
    return [places[row.label] for row in rows]


def encode_classes(
    rows: Sequence[Row], tokenizer: "PreTrainedTokenizerBase", labels: Sequence[str], max_tokens: int = 256
) -> Encoded:
    """Tokenise rows as classifiers read them; a sample's `labels` are its one place in `labels`, int64 [1].

    A text longer than `max_tokens` loses its end, but not the tokenizer's closing token; one without any token, or
    without a label, is dropped. Both are in the report.

    Raises:
        DataError: a row of another class, or no sample left.
    """
    dropped = [row.sample_id for row in rows if row.is_empty]
    kept_rows = [row for row in rows if not row.is_empty]
    indices = class_indices(kept_rows, labels)
    texts = _without(tokenizer, [row.prompt.strip() for row in kept_rows])
    ids: list[list[int]] = tokenizer(texts, verbose=False)["input_ids"] if texts else []
    samples, truncated, num_tokens_cut = [], [], 0
    for row, text, index, whole in zip(kept_rows, texts, indices, ids, strict=True):
        if not whole:
            dropped.append(row.sample_id)
            continue
        kept = whole
        if len(whole) > max_tokens:
            kept = tokenizer(text, truncation=True, max_length=max_tokens)["input_ids"]
            truncated.append(row.sample_id)
            num_tokens_cut += len(whole) - len(kept)
        samples.append(Sample(row.sample_id, torch.tensor(kept), torch.tensor([index]), row))
    num_tokens = sum(sample.num_tokens for sample in samples)
    report = EncodingReport(len(samples), num_tokens, max_tokens, truncated, num_tokens_cut, dropped)
    if not samples:
        raise DataError(
            f"no sample left of {counted(len(rows), 'row')}: {report}; data.prompt is the template of the "
            "text, data.response "
            "the column of its class"
        )
    return Encoded(samples, report)


def _without(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[str]:
    """Take from texts the special tokens that the tokenizer puts around them, so that none is there twice."""
    opening, closing = (tokenizer.decode(added) for added in added_tokens(tokenizer))
    return [text.removeprefix(opening).removesuffix(closing).strip() for text in texts]


def _by_value(label: str) -> tuple[bool, int, str]:
    return (not label.isdecimal(), int(label) if label.isdecimal() else 0, label)


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(map(repr, labels[:_SHOWN])) + (", …" if len(labels) > _SHOWN else "")
