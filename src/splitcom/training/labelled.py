"""What labels alone tell of activations: in the standard form the server holds them, and anyone has the base model.

    labels  – – – – 17 5 9 2   ─► 17 5 9 2 17 5 9 2 ─► base front ─► values of the tokens that have a label
            (not known: –)          filled up

Text that is not known is replaced by text that is: other words of the same sample are a better context than none. Both
ends compute this for samples that the receiver has not seen, and packets hold what it misses. Values are nothing that
the server could not compute without the client.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from splitcom.codecs.wire import Bools, Ints
from splitcom.data import IGNORED
from splitcom.models import Front
from splitcom.models.views import shallower
from splitcom.protocol.labels import Labels

_TOKENS_PER_PASS = 4096


class LabelFront:
    """The front of the base model, without an adapter and in fp32; can be used by several threads."""

    def __init__(self, front: Front) -> None:
        self._front = front
        self._num_ids = front.model.config.get_text_config().vocab_size
        self._lock = Lock()
        self._shallower: dict[int, LabelFront] = {}

    def at(self, cut: int) -> "LabelFront":
        """That of a client with so many blocks, which are no more than here."""
        if cut == self._front.span.stop:
            return self
        with self._lock:
            if cut not in self._shallower:
                self._shallower[cut] = LabelFront(shallower(self._front, cut))
            return self._shallower[cut]

    def guess(self, labels: Mapping[int, Labels]) -> "LabelGuess":
        """What these labels, by sample id, tell of activations."""
        return LabelGuess(self, labels)

    @torch.no_grad()
    def values(self, labels: Sequence[Labels]) -> Tensor | None:
        """fp32 `[tokens with a label, hidden]`, sample after sample; None if the model has no such ids."""
        if any((row >= self._num_ids).any() for row in labels):
            return None
        device = next(self._front.parameters()).device
        found = []
        for rows in _passes(labels):
            ids = pad_sequence([torch.from_numpy(_filled(row)) for row in rows], batch_first=True)
            known = pad_sequence([torch.from_numpy(row != IGNORED) for row in rows], batch_first=True)
            there = pad_sequence([torch.ones(len(row), dtype=torch.int64) for row in rows], batch_first=True)
            with self._lock:
                hidden = self._front(ids.to(device), there.to(device))
            found.append(hidden.float()[known.to(device)])
        return torch.cat(found)


@dataclass(frozen=True)
class LabelGuess:
    """A `codecs.Guess` from the labels of some samples."""

    front: LabelFront
    labels: Mapping[int, Labels]

    def of(self, ids: Sequence[int], lengths: Ints) -> tuple[Bools, Tensor] | None:
        """Those tokens that have a label; None if any sample has none, or others than its length."""
        found = [self.labels.get(sample_id) for sample_id in ids]
        rows = [
            row for row, length in zip(found, lengths, strict=True) if row is not None and len(row) == length
        ]
        if len(rows) < len(found):
            return None
        values = self.front.values(rows)
        return None if values is None else (np.concatenate(rows) != IGNORED, values)


def _filled(labels: Labels) -> Ints:
    """Ids, those that are not known replaced by those that are, over and over."""
    known = labels != IGNORED
    ids: Ints = labels.copy()
    ids[~known] = np.resize(labels[known], int((~known).sum()))
    return ids


def _passes(labels: Sequence[Labels]) -> Iterator[list[Labels]]:
    """Samples that run through the front at once."""
    some: list[Labels] = []
    for row in labels:
        if some and (len(some) + 1) * max(len(one) for one in (*some, row)) > _TOKENS_PER_PASS:
            yield some
            some = []
        some.append(row)
    yield some
