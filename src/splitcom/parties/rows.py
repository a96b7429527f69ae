"""From a configuration to rows: which train and which are held out, in a simulation or at a client; knows no token."""

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from splitcom.amount import counted
from splitcom.config import Config
from splitcom.data import (
    GENERATED,
    HELD_OUT_DOMAIN,
    Row,
    StoredRows,
    check_classes,
    classes_in,
    find_source,
    first_rows,
    read_rows,
    set_aside,
    shuffled_places,
    told,
)
from splitcom.errors import ConfigError

_HELD_OUT_PART = 5  # of a client's own rows, at most
_FIRST_CHARACTERS = (
    10_000_000  # of rows that are just looked at: all of small sources, half a minute of large ones
)
_OTHER_ROWS = "name others in data.held_out (at a client: --held-out), or none, and rows are set aside"
OnRows = Callable[[str, int, int], None]
"""Hears what is done, of how many rows, of how many; of 0 if nobody knows how many there are."""


@dataclass(frozen=True)
class Look:
    """How rows are looked at: who hears of it, and whether the first ones will do."""

    on_rows: OnRows = lambda what, done, total: None
    first_alone: bool = False

    def at(self, rows: Iterator[Row]) -> Iterator[Row]:
        """All rows, or the first ones."""
        rows = first_rows(rows, _FIRST_CHARACTERS) if self.first_alone else rows
        return told(rows, 0, partial(self.on_rows, "reading rows"))

    def load(self, rows: Iterator[Row], source: str) -> tuple[StoredRows, tuple[str, ...]]:
        """What it looks at, and a warning if that is not all."""
        stored = StoredRows(self.at(rows))
        if next(rows, None) is None:
            return stored, ()
        return stored, (
            f"only the first {counted(len(stored), 'row')} of {source} are looked at, and all numbers are of these; a "
            "run reads every row",
        )


ALL_ROWS, FIRST_ROWS = Look(), Look(first_alone=True)


@dataclass(frozen=True)
class Rows:
    """Rows to train on and held-out ones, and what one should know of the two."""

    train: StoredRows
    held_out: StoredRows
    warnings: tuple[str, ...] = ()


def with_classes(config: Config, look: Look = ALL_ROWS) -> Config:
    """The configuration with all classes of its rows, where it is to learn classes and lists none."""
    data = config.data
    if data.task == "generation" or data.labels is not None:
        return config
    sources = [source for source in (data.source, data.held_out) if source is not None]
    rows = chain.from_iterable(look.at(read_as_set(config, source)) for source in sources)
    return config.override({"data.labels": classes_in(rows)})


def load_all_rows(config: Config, look: Look = ALL_ROWS) -> Rows:
    """The rows that train, and every row that may be held out, of which a run takes the first.

    Raises ConfigError if no row is left to evaluate on that is not trained on.
    """
    _check_held_out(config)
    data = config.data
    generated = data.source == GENERATED
    num_train = data.samples or (600 if generated else None)
    read = partial(
        read_as_set,
        config,
        domain=data.domain or HELD_OUT_DOMAIN,
        count=(num_train or 0) + data.held_out_samples,
    )
    rows, warnings = look.load(read(data.source), data.source)
    rows = _shuffled(rows, "train")
    if data.held_out is not None:
        others, more = look.load(read(data.held_out), data.held_out)
        return _apart(rows[:num_train], _shuffled(others, "held out"), config, (*warnings, *more))
    if len(rows) <= data.held_out_samples:
        raise ConfigError(
            f"data.held_out_samples = {data.held_out_samples}: {data.source} has {counted(len(rows), 'row')} in all; "
            "lower it, or name another source in data.held_out"
        )
    train, held_out = _set_aside(rows, data.held_out_samples, config)
    return _apart(train[:num_train], held_out, config, warnings)


def _set_aside(rows: StoredRows, number: int, config: Config) -> tuple[StoredRows, StoredRows]:
    """The rows to train on, and the first ones held out, or whole groups of them."""
    if config.data.held_out_by is None:
        return rows[number:], rows[:number]
    return set_aside(rows, number, config.data.held_out_by)


def read_as_set(config: Config, source: str, **generated: Any) -> Iterator[Row]:
    """A source's rows as the configuration says."""
    data = config.data
    return read_rows(
        source,
        template=data.prompt,
        response_column=data.response,
        format="columns" if data.format == "auto" else data.format,
        **generated,
    )


def _apart(train: StoredRows, held_out: StoredRows, config: Config, warnings: tuple[str, ...]) -> Rows:
    """Keep evaluation from the rows that are trained on: of a source of its own, these are left out.

    Where one source holds a row more than once, both places may get it, and a warning says so.
    """
    data = config.data
    is_fresh = ~train.teach(held_out)
    num_shared = len(held_out) - int(is_fresh.sum())
    if not num_shared:
        return Rows(train, held_out, warnings)
    if data.held_out is None:
        said = (
            f"held-out rows that are also trained on: {num_shared} of {len(held_out)}, since the source holds them "
            "more than once; their loss says little of new text"
        )
        return Rows(train, held_out, (*warnings, said))
    if not is_fresh.any():
        raise ConfigError(
            f"{data.held_out}: all of its rows are also trained on ({data.source}), so they cannot "
            f"be held out; {_OTHER_ROWS}"
        )
    said = (
        f"rows of {data.held_out} that are also trained on: {num_shared} of {len(held_out)}; they are left out of "
        "the evaluation"
    )
    return Rows(train, held_out.take(np.flatnonzero(is_fresh)), (*warnings, said))


def _check_held_out(config: Config) -> None:
    """Raise ConfigError if the held-out source is the one to train on, by whatever path."""
    source, held_out = config.data.source, config.data.held_out
    if held_out is None:
        return
    generated = GENERATED in (source, held_out)
    if source == held_out or (not generated and find_source(source).is_same(find_source(held_out))):
        raise ConfigError(
            f"{held_out}: these are the rows that are trained on ({source}), so they cannot be held out; {_OTHER_ROWS}"
        )


def load_client_rows(config: Config, look: Look = ALL_ROWS) -> Rows:
    """A client's own rows, from `data.source` and `data.held_out`: to train on, in their order, and held out.

    A client holds out its share of `data.held_out_samples`, of its own source no more than a fifth. Raises DataError
    naming file, row and column, and ConfigError if nothing is left to train on.
    """
    _check_held_out(config)
    data = config.data
    share = math.ceil(data.held_out_samples / config.federation.clients)
    rows, warnings = _known_rows(config, data.source, look)
    if data.held_out is not None:
        others, more = _known_rows(config, data.held_out, look)
        rows_apart = _apart(rows, others, config, (*warnings, *more))
        return replace(rows_apart, held_out=rows_apart.held_out[:share])
    number = min(share, max(1, len(rows) // _HELD_OUT_PART))
    if len(rows) <= number:
        raise ConfigError(
            f"{data.source}: one row alone; bring more, or evaluate on others with --held-out FILE"
        )
    if data.held_out_by is not None:
        parts = _set_aside(rows, number, config)
    else:
        chosen = np.zeros(len(rows), dtype=np.bool_)
        chosen[random.Random("splitcom/held out").sample(range(len(rows)), number)] = True
        parts = rows.take(~chosen), rows.take(chosen)
    apart = _apart(*parts, config, warnings)
    said = (
        f"{data.source}: {number} of {len(rows)} rows held out for evaluation, a fifth, where this client's share of "
        f"data.held_out_samples = {data.held_out_samples} is {share}"
    )
    return apart if number == share else replace(apart, warnings=(*apart.warnings, said))


def _known_rows(config: Config, source: str, look: Look) -> tuple[StoredRows, tuple[str, ...]]:
    """The rows of a source, of classes that the run knows; and a warning if these are not all."""
    rows, warnings = look.load(read_as_set(config, source), source)
    if config.data.classes is not None:
        check_classes(rows, config.data.classes)
    return rows, warnings


def _shuffled(rows: StoredRows, purpose: str) -> StoredRows:
    return rows.take(shuffled_places(len(rows), random.Random(f"splitcom/{purpose}")))
