"""The samples of a step, and how they are split into passes through the body; knows no model."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import torch

from splitcom.codecs import Ragged
from splitcom.data import IGNORED
from splitcom.engines.engine import Arrival
from splitcom.protocol.labels import Labels


def plan_passes(lengths: Sequence[int], max_tokens: int | None) -> list[list[int]]:
    """Rows in passes of at most so many tokens with their padding; a sample that is longer is a pass of its own.

    One pass, in the order given, if everything fits; else rows of similar length are together, the shortest first.

    >>> plan_passes([3, 9, 4, 8], None), plan_passes([3, 9, 4, 8], 16)
    ([[0, 1, 2, 3]], [[0, 2], [3], [1]])
    """
    rows = list(range(len(lengths)))
    if max_tokens is None or max(lengths) * len(lengths) <= max_tokens:
        return [rows]
    passes: list[list[int]] = [[]]
    for row in sorted(rows, key=lambda row: lengths[row]):
        if passes[-1] and lengths[row] * (len(passes[-1]) + 1) > max_tokens:
            passes.append([])
        passes[-1].append(row)
    return passes


def even_passes(lengths: Sequence[int], max_tokens: int | None, num_processes: int) -> list[list[int]]:
    """Rows in passes for so many processes that work side by side, each pass within `max_tokens` as in `plan_passes`.

    Passes have as many rows as they can; the number of them is that of the fewest turns that will do.

    >>> even_passes([3, 9, 4, 8], None, 2), even_passes([3, 9, 4, 8], 10, 2), even_passes([5], None, 2)
    ([[0, 2], [3, 1]], [[0], [2], [3], [1]], [[0]])
    """
    rows = sorted(range(len(lengths)), key=lambda row: lengths[row])
    for turns in count(1):
        size = -(-len(rows) // (turns * num_processes))
        passes = [rows[first : first + size] for first in range(0, len(rows), size)]
        largest = max(lengths[part[-1]] * len(part) for part in passes)
        if size == 1 or max_tokens is None or largest <= max_tokens:
            return passes
    raise AssertionError


@dataclass(frozen=True)
class Pass:
    """What goes through the body at once, on its device."""

    rows: list[int]  # of the step; none if this process only keeps others company
    hidden: torch.Tensor  # [batch, tokens, hidden]
    mask: torch.Tensor  # int64 [batch, tokens]
    labels: torch.Tensor | None  # int64 [batch, tokens], or [batch, 1] for classes
    cut: int | None = None  # the block at which it enters; None: the body's first

    def real_tokens(self, padded: torch.Tensor | None) -> dict[int, torch.Tensor]:
        """What `padded` [batch, tokens, hidden] holds of each row, [tokens, hidden]; nothing of None."""
        if padded is None or not self.rows:
            return {}
        return dict(zip(self.rows, samples_of(Ragged.from_padded(padded, self.mask)), strict=True))


class Rows:
    """The samples of all clients of a step, one after the other."""

    def __init__(self, arrivals: Mapping[str, Arrival]) -> None:
        batches = [arrival.decoded.batch for arrival in arrivals.values()]
        self.values = [row for batch in batches for row in samples_of(batch)]
        self.labels: list[Labels] = [row for arrival in arrivals.values() for row in arrival.labels]
        self.trains_fronts = any(arrival.trains_front for arrival in arrivals.values())
        self.spans: dict[str, range] = {}
        self.cuts: list[int | None] = []  # of each row
        for client, arrival in arrivals.items():
            first = len(self.cuts)
            self.spans[client] = range(first, first + arrival.num_samples)
            self.cuts += [arrival.cut] * arrival.num_samples

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [len(row) for row in self.values]

    @property
    def by_cut(self) -> list[list[int]]:
        """The rows that enter the body at the same block; in their order."""
        cuts = list(dict.fromkeys(self.cuts))
        return [[row for row, own in enumerate(self.cuts) if own == cut] for cut in cuts]

    @property
    def num_labels(self) -> int:
        """Labels that a loss is computed of: the first token of a text is predicted from nothing."""
        return _num_labels(self.labels)

    def num_labels_of(self, client: str) -> int:
        """Those of one client."""
        span = self.spans[client]
        return _num_labels(self.labels[span.start : span.stop])

    def ragged(self, rows: Iterable[int], parts: Mapping[int, torch.Tensor]) -> Ragged:
        """The `parts` [tokens, hidden] of these rows together."""
        return join([parts[row] for row in rows])

    def take(self, rows: list[int], device: torch.device, dtype: torch.dtype) -> Pass:
        """Lay rows out as one pass, padded to the longest of them; of no rows two tokens without labels."""
        if not rows:
            hidden = torch.zeros(1, 2, self.values[0].shape[1])
            mask = torch.ones(1, 2, dtype=torch.int64)
        else:
            ragged = join([self.values[row] for row in rows])
            mask = mask_of(ragged.lengths)
            hidden = ragged.to_padded(mask)
        labels = self._labels_of(rows, device)
        return Pass(
            rows, hidden.to(device, dtype), mask.to(device), labels, self.cuts[rows[0]] if rows else None
        )

    def _labels_of(self, rows: list[int], device: torch.device) -> torch.Tensor | None:
        if not self.labels:
            return None
        if not rows:
            return torch.full((1, min(len(self.labels[0]), 2)), IGNORED, device=device)
        labels = torch.full((len(rows), max(len(self.labels[row]) for row in rows)), IGNORED)
        for place, row in enumerate(rows):
            labels[place, : len(self.labels[row])] = torch.from_numpy(self.labels[row])
        return labels.to(device)


def _num_labels(labels: Iterable[Labels]) -> int:
    return sum(1 if len(row) == 1 else int((row[1:] != IGNORED).sum()) for row in labels)


def samples_of(ragged: Ragged) -> Sequence[torch.Tensor]:
    """Each sample of a batch, [tokens, hidden]."""
    return torch.split(ragged.values, ragged.lengths.tolist())


def join(parts: Sequence[torch.Tensor]) -> Ragged:
    """One ragged batch of several samples [tokens, hidden]."""
    return Ragged(torch.cat(list(parts)), torch.tensor([len(part) for part in parts]))


def mask_of(lengths: torch.Tensor) -> torch.Tensor:
    """Which tokens are real if all samples are padded at the end, int64 [batch, tokens] on the CPU."""
    return (torch.arange(int(lengths.max())) < lengths[:, None]).to(torch.int64)
