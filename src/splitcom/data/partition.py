"""Who holds which samples: splits of one data set over clients; knows no federation.

    iid               shuffled and dealt out: sizes differ by one at most
    dirichlet_label   each value of a column is spread over the clients in shares drawn from Dirichlet(alpha)
    dirichlet_length  the same for ranges of text length in place of a column
    column            each value of a column lives at one client alone

Dirichlet shares as a model of clients that differ: Hsu, Qi and Brown, arXiv 1909.06335. They draw each
client's mix of labels; here, as became usual, each label's spread over the clients is drawn, so that every
sample has a place.
"""

import random
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from splitcom.amount import counted
from splitcom.data.load import StoredRows, column_value
from splitcom.data.samples import Sample, lengths_of
from splitcom.data.store import CHUNK, places_of, taken
from splitcom.errors import DataError

Kind = Literal["iid", "dirichlet_label", "dirichlet_length", "column"]

MAX_DRAWS = 100  # of Dirichlet proportions, until every client has enough samples
NUM_LENGTH_RANGES = 4  # quartiles: enough to show a skew, few enough to fill
MAX_GROUPS_SHOWN = 6


@dataclass(frozen=True)
class _Groups:
    """The group of each of many things: its index in `names`, int32; names are in the order of their first place."""

    names: list[str]
    indices: np.ndarray

    @classmethod
    def of(cls, names: Iterable[str]) -> "_Groups":
        """Those whose names these are, one for each thing."""
        known: dict[str, int] = {}
        indices = array("i", (known.setdefault(name, len(known)) for name in names))
        return cls(list(known), np.frombuffer(indices, dtype=np.int32))

    def counts(self, of: np.ndarray) -> Counter[str]:
        """How many of the things at these places are in each group, in the order of the first ones."""
        total = Counter[str]()
        for start in range(0, len(of), CHUNK):
            some = self.indices[of[start : start + CHUNK]]
            found, first, counts = np.unique(some, return_index=True, return_counts=True)
            for place in np.argsort(first):
                total[self.names[found[place]]] += int(counts[place])
        return total


@dataclass(frozen=True)
class ClientSummary:
    """What one client holds: `groups` counts its samples per column value, or per range of length."""

    client: int
    num_samples: int
    num_tokens: int
    groups: Counter[str]


@dataclass(frozen=True)
class Partition:
    """The samples of each client, in the order of the source, and a summary that prints as a table."""

    parts: list[Sequence[Sample]]
    summary: list[ClientSummary]

    def __str__(self) -> str:
        totals: Counter[str] = Counter()
        for client in self.summary:
            totals += client.groups
        # With few groups the order of the source tells more (lengths ascend); else the largest ones.
        shown = (
            list(totals)
            if len(totals) <= MAX_GROUPS_SHOWN
            else [g for g, _ in totals.most_common(MAX_GROUPS_SHOWN)]
        )
        rest = ["other"] if len(totals) > len(shown) else []
        rows = [["client", "samples", "tokens", *sorted(shown, key=_natural), *rest]]
        for client in self.summary:
            cells = [client.groups[group] for group in sorted(shown, key=_natural)]
            others = [client.num_samples - sum(cells)] if rest else []
            rows.append(
                [str(v) for v in (client.client, client.num_samples, client.num_tokens, *cells, *others)]
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join(
            "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
        )


def partition(
    samples: Sequence[Sample],
    clients: int,
    kind: Kind = "iid",
    *,
    alpha: float = 0.5,
    column: str | None = None,
    seed: int = 0,
    min_per_client: int = 1,
) -> Partition:
    """Give every sample to exactly one client.

    Args:
        samples: what to split; the result depends on their order and on nothing else but the arguments.
        clients: how many clients there are.
        kind: see the module's text.
        alpha: Dirichlet concentration: small is skewed, large is close to iid.
        column: whose values to go by ("dirichlet_label", "column"), or just to count in the summary.
        seed: of the shuffle or the draws.
        min_per_client: Dirichlet shares are drawn again, up to 100 times, until every client has as many.

    Raises:
        DataError: too few samples or values for the clients, no such column, or every draw too uneven.
    """
    _check_possible(len(samples), clients, kind, alpha, column, min_per_client)
    lengths = lengths_of(samples)
    if column is None or kind == "dirichlet_length":
        groups = _length_ranges(lengths)
    else:
        groups = _Groups.of(column_value(sample.row, column).strip() for sample in samples)
    rng = np.random.default_rng(seed)
    match kind:
        case "iid":
            owners = rng.permutation(places_of(len(samples)) % clients)
        case "dirichlet_label" | "dirichlet_length":
            owners = _dirichlet(groups, clients, alpha, min_per_client, rng)
        case "column":
            owners = _whole_groups(groups, clients, str(column))
        case _:
            raise DataError(
                f"unknown partition.kind {kind!r}; choose iid, dirichlet_label, dirichlet_length or column"
            )
    if (smallest := np.bincount(owners, minlength=clients).min()) < min_per_client:
        raise DataError(
            f"a client would have {counted(smallest, 'sample')}, not {min_per_client}; lower federation.clients"
        )
    return _collect(samples, lengths, groups, owners, clients)


def _check_possible(
    num_samples: int, clients: int, kind: Kind, alpha: float, column: str | None, min_per_client: int
) -> None:
    if clients < 1 or min_per_client < 1 or alpha <= 0:
        raise DataError(
            f"clients={clients}, min_per_client={min_per_client}, alpha={alpha}: all must be positive"
        )
    if num_samples < clients * min_per_client:
        raise DataError(
            f"{counted(num_samples, 'sample')} to train on, too few for {counted(clients, 'client')} with at least "
            f"{min_per_client} each; lower federation.clients or data.held_out_samples, or bring more data"
        )
    if column is None and kind in ("dirichlet_label", "column"):
        raise DataError(f"partition.kind = {kind!r} needs a column; name it in partition.column")


def set_aside(rows: StoredRows, number: int, column: str) -> tuple[StoredRows, StoredRows]:
    """Part rows in two, in their order, of which the second has whole groups: rows with the same value of a column.

    The second has `number` rows at most, or the smallest group if that is larger.

    Raises:
        DataError: no such column, or just one group.
    """
    found = _Groups.of(column_value(row, column, "data.held_out_by").strip() for row in rows)
    groups = found.counts(places_of(len(rows)))
    if len(groups) < 2:
        raise DataError(
            f"data.held_out_by = {column!r}: all rows have the same value, so no group can be held out; "
            "name another column, or other rows in data.held_out"
        )
    order = sorted(groups)
    random.Random("splitcom/held out groups").shuffle(order)
    chosen, count = set[str](), 0
    for group in order:
        if count + groups[group] <= number and len(chosen) < len(groups) - 1:
            chosen.add(group)
            count += groups[group]
    chosen = chosen or {min(order, key=lambda group: groups[group])}
    apart = np.array([name in chosen for name in found.names])[found.indices]
    return rows.take(np.flatnonzero(~apart)), rows.take(np.flatnonzero(apart))


def _collect(
    samples: Sequence[Sample], lengths: np.ndarray, groups: _Groups, owners: np.ndarray, clients: int
) -> Partition:
    parts, summary = [], []
    for client in range(clients):
        held = np.flatnonzero(owners == client)
        parts.append(taken(samples, held))
        summary.append(ClientSummary(client, len(held), int(lengths[held].sum()), groups.counts(held)))
    return Partition(parts, summary)


def _dirichlet(
    groups: _Groups, clients: int, alpha: float, min_per_client: int, rng: np.random.Generator
) -> np.ndarray:
    """Return each sample's client; redraws until every client has `min_per_client` samples."""
    members = [np.flatnonzero(groups.indices == index) for index in range(len(groups.names))]
    for _ in range(MAX_DRAWS):
        owners = np.empty(len(groups.indices), dtype=np.int64)
        for member in members:
            bounds = np.cumsum(rng.dirichlet(np.full(clients, alpha)))[:-1] * len(member)
            for client, part in enumerate(
                np.split(rng.permutation(member), np.round(bounds).astype(np.int64))
            ):
                owners[part] = client
        if np.bincount(owners, minlength=clients).min() >= min_per_client:
            return owners
    raise DataError(
        f"{MAX_DRAWS} draws with alpha={alpha} each left one of {counted(clients, 'client')} with fewer than "
        f"{min_per_client} of {counted(len(groups.indices), 'sample')}; raise partition.alpha or lower "
        "federation.clients"
    )


def _whole_groups(groups: _Groups, clients: int, column: str) -> np.ndarray:
    """Give each value, the most frequent first, to the client that has the fewest samples so far."""
    counts = np.bincount(groups.indices).tolist()
    if len(counts) < clients:
        raise DataError(
            f"column {column!r} has {counted(len(counts), 'value')}, too few for "
            f"{counted(clients, 'client')}; lower federation.clients"
        )
    load, owners = [0] * clients, np.empty(len(counts), dtype=np.int64)
    for index in sorted(range(len(counts)), key=lambda index: -counts[index]):
        owners[index] = load.index(min(load))
        load[owners[index]] += counts[index]
    found: np.ndarray = owners[groups.indices]
    return found


def _length_ranges(lengths: np.ndarray) -> _Groups:
    """Name each sample's quartile of length, e.g. "41-60 tokens"."""
    quantiles = np.quantile(lengths, np.linspace(0, 1, NUM_LENGTH_RANGES + 1), method="lower")
    edges = np.unique([lengths.min() - 1, *quantiles[1:]])
    names = [
        f"{high if low + 1 == high else f'{low + 1}-{high}'} tokens" for low, high in pairwise(edges.tolist())
    ]
    chunks = (lengths[start : start + CHUNK] for start in range(0, len(lengths), CHUNK))
    return _Groups.of(names[index] for some in chunks for index in np.searchsorted(edges, some) - 1)


def _natural(name: str) -> tuple[int, str]:
    """Order "5-9 tokens" before "10-20 tokens"."""
    digits = name.split("-")[0].removesuffix(" tokens")
    return (int(digits) if digits.isdecimal() else 0, name)
