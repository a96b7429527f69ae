"""Samples into padded batches, which are made when they are asked for; knows no tokenizer and no file."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self, overload

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from splitcom.data.samples import IGNORED, Sample
from splitcom.data.store import places_of, shuffled_places, taken
from splitcom.errors import DataError


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


class Batches(Sequence[Batch]):
    """Batches of samples, each of which is made anew whenever it is asked for.

    Args:
        samples: what they are made of.
        order: the samples' places in the batches, one after the other.
        edges: where in `order` each batch begins and ends, int64 [batches, 2].
        by_length: the shortest samples of each come first.
    """

    def __init__(
        self, samples: Sequence[Sample], order: np.ndarray, edges: np.ndarray, *, by_length: bool
    ) -> None:
        self._samples, self._order, self._edges, self._by_length = samples, order, edges, by_length

    def __len__(self) -> int:
        return len(self._edges)

    @overload
    def __getitem__(self, index: int) -> Batch: ...

    @overload
    def __getitem__(self, index: slice) -> Self: ...

    def __getitem__(self, index: int | slice) -> Batch | Self:
        if isinstance(index, slice):
            return type(self)(self._samples, self._order, self._edges[index], by_length=self._by_length)
        start, end = self._edges[index]
        batch: Sequence[Sample] = list(taken(self._samples, self._order[start:end]))
        return _pad(sorted(batch, key=lambda one: one.num_tokens) if self._by_length else batch)

    def __add__(self, other: "Batches") -> Self:
        """These batches, and then others of the same samples."""
        order = np.concatenate([self._order, other._order])
        edges = np.concatenate([self._edges, other._edges + len(self._order)])
        return type(self)(self._samples, order, edges, by_length=self._by_length)


def batches(
    samples: Sequence[Sample],
    batch_size: int,
    seed: int | None = None,
    epoch: int = 0,
    client: int = 0,
    *,
    by_length: bool = False,
) -> Batches:
    """Arrange samples into batches; every sample is in exactly one, the last batch may be smaller.

    The order depends on (seed, client, epoch) and the given order; without a seed it is the given order.
    With `by_length` the shortest samples of each batch come first, so that its parts have less padding.

    Raises:
        DataError: `batch_size` below one.
    """
    if batch_size < 1:
        raise DataError(f"training.batch_size is {batch_size}; it must be at least 1")
    order = places_of(len(samples))
    if seed is not None:
        order = shuffled_places(len(samples), random.Random(f"splitcom/batches/{seed}/{client}/{epoch}"))
    starts = np.arange(0, len(samples), batch_size)
    edges = np.stack([starts, np.minimum(starts + batch_size, len(samples))], axis=1)
    return Batches(samples, order, edges, by_length=by_length)


def _pad(samples: Sequence[Sample]) -> Batch:
    """Pad to the longest sample. The mask hides the padding, so its token id (0) is of no importance."""
    lengths = torch.tensor([sample.num_tokens for sample in samples])
    input_ids = pad_sequence([sample.input_ids for sample in samples], batch_first=True)
    labels = pad_sequence([sample.labels for sample in samples], batch_first=True, padding_value=IGNORED)
    mask = (torch.arange(input_ids.shape[1]) < lengths[:, None]).to(torch.int64)
    return Batch(input_ids, mask, labels, lengths, [sample.sample_id for sample in samples])
