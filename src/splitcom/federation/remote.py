"""What one party of a run over a network holds: the server the body, a client the front (and tail) and its own rows."""

import math
import random
from functools import partial

from splitcom.config import Config
from splitcom.data import Row, class_indices, load_rows
from splitcom.errors import ConfigError
from splitcom.federation.build import Parts, adapt, body_of, front_of, tail_of
from splitcom.models import Body, Front, Tail
from splitcom.models.front import outline


def load_server_parts(config: Config) -> Parts:
    """The body, and outlines of what clients run: an adapter before training follows from seed, names and shapes alone.

    Where nothing is split, the body is an outline too, since the server only averages.
    """
    model, classes = config.model, config.data.classes
    front = outline(model.source, Front, model.cut, model.tail_blocks, classes)
    adapt(front, config, trains=config.lora.train_front)
    tail = None
    if model.tail_blocks:
        tail = outline(model.source, Tail, model.cut, model.tail_blocks, classes)
        adapt(tail, config, trains=True)
    if config.training.split:
        return Parts(front, body_of(config), tail)
    body = outline(model.source, Body, model.cut, labels=classes)
    adapt(body, config, trains=True)
    return Parts(front, body)


def load_client_parts(config: Config) -> Parts:
    """What a client runs: the front, the tail in the U-shape, the body where nothing is split."""
    front = front_of(config)
    return Parts(front, None if config.training.split else body_of(config), tail_of(config, front))


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
