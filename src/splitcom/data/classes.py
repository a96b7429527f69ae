"""Rows with a class in place of a response: which classes there are, and rows into samples; knows no model."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from splitcom.amount import counted
from splitcom.data.encode import added_tokens, chunks
from splitcom.data.load import Progress, Row
from splitcom.data.samples import Encoded, Encoding
from splitcom.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SHOWN = 8


def classes_in(rows: Iterable[Row]) -> list[str]:
    """Return the distinct labels of rows that have one, numbers by their value and before words.

    Raises:
        DataError: these are fewer than two, or so many that they must be something else: more than half the rows.
    """
    labels, number = set[str](), 0
    for row in _labelled(rows):
        labels.add(row.label)
        number += 1
    found = sorted(labels, key=_by_value)
    if not 2 <= len(found) <= number / 2:
        raise DataError(
            f"{counted(len(found), 'class', 'classes')} in {counted(number, 'row')} ({_listed(found)}); "
            "expected at least 2 classes, "
            "each in 2 rows or more: name the column that holds them in data.response, or list them in "
            "data.labels"
        )
    return found


def check_classes(rows: Iterable[Row], labels: Sequence[str]) -> None:
    """Raise DataError, naming the first such row, if one that is not empty has a class that is not in `labels`."""
    first, num_unknown, number, known = None, 0, 0, set(labels)
    for row in _labelled(rows):
        number += 1
        if row.label not in known:
            first, num_unknown = first or row, num_unknown + 1
    if first is not None:
        raise DataError(
            f"{first.place}: unknown class {first.label!r} ({num_unknown} of {number} "
            f"rows); the run's classes are {_listed(labels)}: correct data.response or data.labels"
        )


def _labelled(rows: Iterable[Row]) -> Iterator[Row]:
    return (row for row in rows if not row.is_empty)


def encode_classes(
    rows: Sequence[Row],
    tokenizer: "PreTrainedTokenizerBase",
    labels: Sequence[str],
    max_tokens: int = 256,
    on_progress: Progress | None = None,
) -> Encoded:
    """Tokenise rows as classifiers read them; a sample's `labels` are its one place in `labels`, int64 [1].

    A text longer than `max_tokens` loses its end, but not the tokenizer's closing token; one without any token, or
    without a label, is dropped. Both are in the report.

    Raises:
        DataError: a row of another class, or no sample left.
    """
    check_classes(rows, labels)
    kept, places = (
        Encoding(rows, max_tokens, of_classes=True),
        {one: index for index, one in enumerate(labels)},
    )
    for some in chunks(kept.rows(on_progress)):
        texts = _without(tokenizer, [row.prompt.strip() for row in some])
        every: list[list[int]] = tokenizer(texts, verbose=False)["input_ids"]
        for row, text, whole in zip(some, texts, every, strict=True):
            if row.is_empty or not whole:
                has_text = whole and not row.lacks_prompt
                kept.drop(row, "data.response, its class, is empty" if has_text else "it has no text")
                continue
            ids = whole
            if len(whole) > max_tokens:
                ids = tokenizer(text, truncation=True, max_length=max_tokens)["input_ids"]
            kept.add(row, ids, [places[row.label]], num_cut=len(whole) - len(ids))
    return kept.finish(
        "no sample left of {rows}; data.prompt is the template of the text, data.response the column of its class: "
        "{report}"
    )


def _without(tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str]) -> list[str]:
    """Take from texts the special tokens that the tokenizer puts around them, so that none is there twice."""
    opening, closing = (tokenizer.decode(added) for added in added_tokens(tokenizer))
    return [text.removeprefix(opening).removesuffix(closing).strip() for text in texts]


def _by_value(label: str) -> tuple[bool, int, str]:
    return (not label.isdecimal(), int(label) if label.isdecimal() else 0, label)


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(map(repr, labels[:_SHOWN])) + (", …" if len(labels) > _SHOWN else "")
