"""What one party of a run over a network holds: the server the body, a client the front and its own rows."""

import math
import random
from collections.abc import Mapping
from functools import partial

import torch

from splitcom.config import Config
from splitcom.data import Encoded, Row, encode, load_rows
from splitcom.errors import ConfigError
from splitcom.federation.build import adapt, body_of, front_of
from splitcom.models import Body, Front, adapter_state, load_tokenizer
from splitcom.models.front import outline


def load_server_body(config: Config) -> Body:
    """The body with its adapter; where nothing is split, its outline, since the server only averages."""
    if config.training.split:
        return body_of(config)
    body = outline(config.model.source, Body, config.model.cut)
    adapt(body, config, trains=True)
    return body


def initial_front_adapter(config: Config) -> Mapping[str, torch.Tensor]:
    """The front's adapter before training, which follows from seed, names and shapes alone."""
    front = outline(config.model.source, Front, config.model.cut)
    adapt(front, config, trains=config.lora.train_front)
    return adapter_state(front)


def load_client_parts(config: Config) -> tuple[Front, Body | None]:
    """The front with its adapter, and the body where nothing is split."""
    return front_of(config), None if config.training.split else body_of(config)


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
