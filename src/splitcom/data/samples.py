"""Samples of token ids with labels, on the disk until they are asked for; knows no tokenizer and no model.

record   int64 id | int64 place of the row | int32 ids, one for each token | which are learnt, a byte each
                                                                           | of classes: int32 class
"""

import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splitcom.amount import counted
from splitcom.data.load import Progress, Row, told
from splitcom.data.store import Picked, Spool, places_of
from splitcom.errors import DataError

IGNORED = -100
"""The label that transformers' loss leaves out."""

_PROBLEMS_SHOWN = 3
_HEAD = struct.Struct("<qq")


@dataclass(frozen=True, eq=False)
class Sample:
    """One training example, not padded: `input_ids` and `labels` are int64 of shape [tokens].

    For classification `labels` is of shape [1] and holds the class. `_row` may be what reads the row.
    """

    sample_id: int
    input_ids: Tensor
    labels: Tensor
    _row: Row | Callable[[], Row]

    @property
    def row(self) -> Row:
        """What it was made of, as text; read from the disk each time."""
        return self._row() if callable(self._row) else self._row

    @property
    def num_tokens(self) -> int:
        """The number of tokens, prompt included."""
        return len(self.input_ids)

    def __reduce__(self) -> tuple[Any, ...]:
        return Sample, (self.sample_id, self.input_ids, self.labels, self.row)


class Samples(Picked[Sample]):
    """Samples that are read, or made, when they are asked for, and their lengths."""

    def __init__(self, read: Callable[[int], Sample], lengths: np.ndarray) -> None:
        super().__init__(read, places_of(len(lengths)))
        self._lengths = lengths

    @property
    def lengths(self) -> np.ndarray:
        """The number of tokens of each."""
        found: np.ndarray = self._lengths[self.places]
        return found


def lengths_of(samples: Sequence[Sample]) -> np.ndarray:
    """The number of tokens of each sample."""
    if isinstance(samples, Samples):
        return samples.lengths
    return np.array([sample.num_tokens for sample in samples], dtype=np.int64)


@dataclass(frozen=True)
class EncodingReport:
    """What encoding kept, what it had to cut, and what else one should know of these samples.

    `notes` say how they were read. `problems` are those of the first dropped rows, each with its place.
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
            lines.append(f"{counted(len(self.dropped_ids), 'sample')} dropped")
        told = [f"dropped: {problem}" for problem in self.problems]
        if len(self.dropped_ids) > len(told):
            told.append(f"dropped: {len(self.dropped_ids) - len(told)} more")
        warnings = [f"warning: {warning}" for warning in self.warnings]
        return "\n".join(["; ".join(lines), *self.notes, *told, *warnings])


@dataclass(frozen=True)
class Encoded:
    """The samples that can be trained on, the largest of their token ids, and the report on the others."""

    samples: Samples
    report: EncodingReport
    largest_id: int = 0


class Encoding:
    """What encoding keeps of rows and drops, each in its turn.

    Args:
        rows: those that are encoded.
        max_tokens: longer samples lose their end.
        of_classes: a sample has one label, its class.
        shown: what a sample's row is, given the one that was encoded.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        max_tokens: int,
        *,
        of_classes: bool = False,
        shown: Callable[[Row], Row] = lambda row: row,
    ) -> None:
        self._rows, self._max_tokens, self._of_classes, self._shown = rows, max_tokens, of_classes, shown
        self._spool, self._lengths = Spool(), array("i")
        self._truncated, self._dropped = array("q"), array("q")
        self._num_tokens_cut = self._largest_id = self._place = 0
        self._problems: list[str] = []

    def rows(self, on_progress: Progress | None) -> Iterator[Row]:
        """Yield all of them; each is to be added or dropped, in this order."""
        return told(self._rows, len(self._rows), on_progress)

    def add(self, row: Row, ids: Sequence[int], labels: Sequence[int], num_cut: int = 0) -> None:
        """Keep a sample; labels are its tokens or IGNORED, or its class. `num_cut` tokens have been taken from it."""
        num_cut += max(len(ids) - self._max_tokens, 0)
        if num_cut:
            self._truncated.append(row.sample_id)
            self._num_tokens_cut += num_cut
        kept = np.array(ids[: self._max_tokens], dtype=np.int32)
        of = np.array(labels[: self._max_tokens], dtype=np.int32)
        last = of if self._of_classes else of != IGNORED
        self._spool.append(_HEAD.pack(row.sample_id, self._place) + kept.tobytes() + last.tobytes())
        self._lengths.append(len(kept))
        self._largest_id = max(self._largest_id, int(kept.max()))
        self._place += 1

    def drop(self, row: Row, problem: str) -> None:
        """Leave a row out; the problems of the first ones are told."""
        self._dropped.append(row.sample_id)
        if len(self._problems) < _PROBLEMS_SHOWN:
            self._problems.append(f"{row.place}: {problem}")
        self._place += 1

    def finish(self, none_left: str, notes: Sequence[str] = ()) -> Encoded:
        """Return what is kept; DataError with this text, in which {rows} and {report} stand, if that is nothing."""
        lengths = np.frombuffer(self._lengths or array("i", [0]), dtype=np.int32)[: len(self._lengths)]
        report = EncodingReport(
            len(lengths),
            int(lengths.sum()),
            self._max_tokens,
            self._truncated,
            self._num_tokens_cut,
            self._dropped,
            notes=notes,
            problems=self._problems,
        )
        if not len(lengths):
            raise DataError(none_left.format(rows=counted(len(self._rows), "row"), report=report))
        return Encoded(Samples(self._read, lengths), report, self._largest_id)

    def _read(self, index: int) -> Sample:
        record, count = self._spool[index], self._lengths[index]
        sample_id, place = _HEAD.unpack_from(record)
        ids = torch.from_numpy(np.frombuffer(record, np.int32, count, _HEAD.size).astype(np.int64))
        rest = _HEAD.size + 4 * count
        if self._of_classes:
            labels = torch.from_numpy(np.frombuffer(record, np.int32, 1, rest).astype(np.int64))
        else:
            is_learnt = torch.from_numpy(np.frombuffer(record, np.bool_, count, rest).copy())
            labels = ids.where(is_learnt, IGNORED)
        return Sample(sample_id, ids, labels, lambda: self._shown(self._rows[place]))
