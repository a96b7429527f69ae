"""From a configuration to encoded text: all rows of a simulation, or one client's own; knows no model part."""

import math
import random
from dataclasses import dataclass
from functools import partial

from splitcom.config import Config
from splitcom.data import (
    HELD_OUT_DOMAIN,
    Encoded,
    Partition,
    Row,
    class_indices,
    classes_in,
    encode,
    encode_classes,
    load_rows,
    partition,
)
from splitcom.errors import ConfigError
from splitcom.models import load_tokenizer
from splitcom.seeds import derive_seed


@dataclass(frozen=True)
class Texts:
    """The data of a run: each client's training samples, and the held-out ones."""

    partition: Partition
    train: Encoded
    held_out: Encoded


def with_classes(config: Config) -> Config:
    """The configuration with all classes of its rows, where it is to learn classes and lists none."""
    data = config.data
    if data.task == "generation" or data.labels is not None:
        return config
    load = partial(load_rows, template=data.prompt, response_column=data.response)
    rows = [row for source in (data.source, data.held_out) if source is not None for row in load(source)]
    return config.override({"data.labels": classes_in(rows)})


def load_texts(config: Config) -> Texts:
    """Load, encode and partition; raises DataError naming file, row and column.

    Which rows train and which are held out does not depend on the run's seed, so that seeds can be compared.
    """
    rows, held_out_rows = load_all_rows(config)
    train, held_out = encode_rows((rows, held_out_rows[: config.data.held_out_samples]), config)
    parts = partition(
        train.samples,
        config.federation.clients,
        kind=config.partition.kind,
        alpha=config.partition.alpha,
        column=config.partition.column,
        seed=derive_seed(config.seed, "partition"),
    )
    return Texts(parts, train, held_out)


def load_all_rows(config: Config) -> tuple[list[Row], list[Row]]:
    """The rows that train, and every row that may be held out, of which a run takes the first."""
    data = config.data
    generated = data.source == "generated"
    num_train = data.samples or (600 if generated else None)
    load = partial(
        load_rows,
        template=data.prompt,
        response_column=data.response,
        domain=data.domain or HELD_OUT_DOMAIN,
        count=(num_train or 0) + data.held_out_samples,
    )
    rows = _shuffled(load(data.source), "train")
    if data.held_out is not None:
        return rows[:num_train], _shuffled(load(data.held_out), "held out")
    if len(rows) <= data.held_out_samples:
        raise ConfigError(
            f"data.held_out_samples = {data.held_out_samples}: {data.source} has {len(rows)} rows in all; "
            "lower it, or name another source in data.held_out"
        )
    return rows[data.held_out_samples :][:num_train], rows[: data.held_out_samples]


def encode_rows(rows: tuple[list[Row], list[Row]], config: Config) -> tuple[Encoded, Encoded]:
    """Tokenise rows to train on and held-out ones, for what the run is to learn: responses or classes."""
    tokenizer, classes = load_tokenizer(config.model.source), config.data.classes
    train, held_out = (
        encode(part, tokenizer, config.data.max_tokens)
        if classes is None
        else encode_classes(part, tokenizer, classes, config.data.max_tokens)
        for part in rows
    )
    return train, held_out


def load_client_rows(config: Config) -> tuple[list[Row], list[Row]]:
    """A client's own rows, from `data.source` and `data.held_out`: to train on, in their order, and held out.

    A client holds out its share of `data.held_out_samples`. Raises DataError naming file, row and column, and
    ConfigError where nothing is left to train on.
    """
    data = config.data
    load = partial(_known_rows, config)
    share = math.ceil(data.held_out_samples / config.federation.clients)
    rows = load(data.source)
    if data.held_out is not None:
        return rows, load(data.held_out)[:share]
    if len(rows) <= share:
        raise ConfigError(
            f"{data.source}: {len(rows)} rows, of which {share} would be held out for evaluation; bring more, or "
            "evaluate on others with --held-out FILE"
        )
    chosen = set(random.Random("splitcom/held out").sample(range(len(rows)), share))
    return (
        [row for index, row in enumerate(rows) if index not in chosen],
        [rows[index] for index in sorted(chosen)],
    )


def _known_rows(config: Config, source: str) -> list[Row]:
    """All rows of a source; of classes that the run knows."""
    rows = load_rows(source, template=config.data.prompt, response_column=config.data.response)
    if config.data.classes is not None:
        class_indices(rows, config.data.classes)
    return rows


def _shuffled(rows: list[Row], purpose: str) -> list[Row]:
    rows = list(rows)
    random.Random(f"splitcom/{purpose}").shuffle(rows)
    return rows
