"""What one party of a run over a network holds: the server the body, a client the front (and tail) and its own rows."""

import math
import random
from functools import partial

from splitcom.config import Config
from splitcom.data import Encoded, Row, encode, load_rows
from splitcom.errors import ConfigError
from splitcom.federation.build import Parts, adapt, body_of, front_of, tail_of
from splitcom.models import Body, Front, Tail, load_tokenizer
from splitcom.models.front import outline


def load_server_parts(config: Config) -> Parts:
    """The body, and outlines of what clients run: an adapter before training follows from seed, names and shapes alone.

    Where nothing is split, the body is an outline too, since the server only averages.
    """
    model = config.model
    front = outline(model.source, Front, model.cut, model.tail_blocks)
    adapt(front, config, trains=config.lora.train_front)
    tail = outline(model.source, Tail, model.cut, model.tail_blocks) if model.tail_blocks else None
    if tail is not None:
        adapt(tail, config, trains=True)
    if config.training.split:
        return Parts(front, body_of(config), tail)
    body = outline(model.source, Body, model.cut)
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
    load = partial(load_rows, template=data.prompt, response_column=data.response)
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


def encode_client_rows(rows: tuple[list[Row], list[Row]], config: Config) -> tuple[Encoded, Encoded]:
    """Tokenise what `load_client_rows` gave."""
    tokenizer = load_tokenizer(config.model.source)
    train, held_out = (encode(part, tokenizer, config.data.max_tokens) for part in rows)
    return train, held_out
