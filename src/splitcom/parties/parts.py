"""From a configuration to the parts of a model with their adapters, of one party or of all."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from splitcom.codecs import parse
from splitcom.config import Config
from splitcom.data import domains, generate
from splitcom.engines import ENGINES
from splitcom.errors import AdapterError, ConfigError
from splitcom.models import (
    Body,
    Front,
    Part,
    Tail,
    adapter_state,
    add_lora,
    base_front,
    load_adapter_state,
    load_body,
    load_front,
    load_joined_state,
    load_tail,
    load_tokenizer,
    read_adapter,
    recompute,
    renew_head,
    settings_of_adapter,
    share_embeddings,
)
from splitcom.models.adapters import add_bottleneck, add_prompt, begin_narrow, freeze_a
from splitcom.models.config import LoraConfig
from splitcom.models.front import outline
from splitcom.models.split import NARROWS, WIDENS
from splitcom.models.views import share_frozen
from splitcom.models.whole import train_whole
from splitcom.seeds import derive_seed
from splitcom.training.labelled import LabelFront

_TEXTS_OF_A_DOMAIN = 8


@dataclass(frozen=True)
class Parts:
    """The parts of a model with their adapters; a party may hold outlines of what it does not run, or nothing."""

    front: Front
    body: Body | None = None
    tail: Tail | None = None
    base: Front | None = None
    """The front as `base_front` gives it, where `front` is an outline and labels are to tell of activations."""

    @cached_property
    def label_front(self) -> LabelFront:
        """What labels are turned into guesses of activations by."""
        return LabelFront(self.base or base_front(self.front))

    @property
    def all(self) -> list[Part]:
        """Those that are there, in the order of the model."""
        return [part for part in (self.front, self.body, self.tail) if part is not None]


def load_parts(config: Config, *, for_engine: bool = False) -> Parts:
    """All parts with their adapters, on the configured device; for an engine the body is where that wants it.

    If clients have cuts of their own, the front is the largest and the body begins at the smallest cut.
    """
    front = front_of(_whole_at(config, config.cuts[-1]))
    body = body_of(at_cut(config, config.cuts[0]), for_engine=for_engine)
    _match(front, body)
    if not config.model.tail_blocks:
        share_embeddings(front, body)
    return Parts(front, body, tail_of(config, front))


def guesses_from_labels(config: Config) -> bool:
    """Whether labels tell both ends of activations: they are the text's ids, the server has them, and a codec asks."""
    flows = (config.cut_flows["activation_up"].codec, config.evaluation.codec)
    has_labels = config.training.split and not config.model.tail_blocks and config.data.task == "generation"
    is_plain = config.model.bottleneck is None and not config.lora.prompt_tokens
    stays = config.federation.cuts.every is None
    return has_labels and is_plain and stays and any(parse(text).wants_guess for text in flows)


def at_cut(config: Config, cut: int) -> Config:
    """A configuration whose model is cut elsewhere."""
    return config if cut == config.model.cut else config.override({"model.cut": cut})


def _whole_at(config: Config, cut: int) -> Config:
    """Of the shared adapter's front: it has the rank of all in its last block, too."""
    return at_cut(config if config.lora.cut_rank is None else config.override({"lora.cut_rank": None}), cut)


def most_blocks(own: Config) -> int:
    """How many blocks a client's front may come to have."""
    cuts = own.federation.cuts
    return own.model.cut if cuts.every is None or cuts.most is None else max(own.model.cut, cuts.most)


def with_adapter(config: Config) -> Config:
    """The configuration with what the adapter it begins from settles; ConfigError if it asks for something else."""
    if config.lora.init is None:
        return config
    defaults, changes = LoraConfig(), {}
    for name, value in settings_of_adapter(config.lora.init).items():
        given = getattr(config.lora, name)
        given = sorted(given) if isinstance(given, list) else given
        if given not in (value, getattr(defaults, name), None):
            raise ConfigError(
                f"lora.{name} = {given!r}: the adapter in lora.init = {config.lora.init!r} has {value!r}; leave it out"
            )
        changes[f"lora.{name}"] = value
    return config.override(changes)


def begin_from_adapter(parts: Parts, config: Config) -> None:
    """Have parts begin with the adapter in `lora.init`, if there is one; AdapterError if it does not fit them."""
    if config.lora.init is None:
        return
    try:
        load_joined_state(parts.all, read_adapter(config.lora.init))
    except AdapterError as error:
        raise AdapterError(f"lora.init = {config.lora.init!r}: {error}") from error


def front_of(config: Config, *, alone: bool = False) -> Front:
    """The front with its adapter, on the configured device; `alone` if no other part uses its embeddings."""
    front = load_front(config.model.source, config.model.cut, rows_in_file=alone, **_place(config))
    adapt(front, config, config.lora.cut_rank)
    if config.model.bottleneck is not None:
        begin_narrow(front, _public_texts(config))
    if config.client.checkpointing:
        recompute(front)
    return front


def _public_texts(config: Config) -> list[Tensor]:
    """Ids of text that ships with the package, from which a bottleneck begins."""
    tokenizer = load_tokenizer(config.model.source)
    texts = [row["text"] for domain in domains() for row in generate(domain, _TEXTS_OF_A_DOMAIN)]
    return [torch.tensor(tokenizer(text)["input_ids"]) for text in texts]


def _match(front: Front, body: Body) -> None:
    """Have a body widen what the front narrows as it does at first: with the transpose of that."""
    narrows, widens = (getattr(part.model, name, None) for part, name in ((front, NARROWS), (body, WIDENS)))
    if narrows is not None and widens is not None:
        with torch.no_grad():
            widens.copy_(narrows.mT)


def body_of(config: Config, *, for_engine: bool = False) -> Body:
    """The body with its adapter, on the configured device, or where the engine wants it."""
    model, place = config.model, _place(config)
    if for_engine and ENGINES[config.engine.kind].begins_on_cpu:
        place["device"] = "cpu"
    body = load_body(model.source, model.cut, model.tail_blocks, quantization=model.quantization, **place)
    adapt(body, config)
    if config.engine.checkpointing if config.training.split else config.client.checkpointing:
        recompute(body)
    return body


def tail_of(config: Config, front: Front) -> Tail | None:
    """The tail of the party that has this front, with its adapter; None in the standard form."""
    if not config.model.tail_blocks:
        return None
    tail = load_tail(config.model.source, config.model.tail_blocks, **_place(config))
    share_embeddings(front, tail)
    adapt(tail, config)
    if config.client.checkpointing:
        recompute(tail)
    return tail


def _place(config: Config) -> dict[str, Any]:
    return {
        "dtype": getattr(torch, config.model.dtype),
        "device": device_of(config),
        "attn_implementation": None if config.model.attention == "auto" else config.model.attention,
        "labels": config.data.classes,
    }


def device_of(config: Config) -> torch.device:
    """The configured device; raises ConfigError if it is not there."""
    name = config.model.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"model.device = {name!r}: {str(error).splitlines()[0]}; use 'auto' or 'cpu'"
        ) from error
    return device


def adapt(part: Part, config: Config, cut_rank: int | None = None) -> None:
    """Add the configured LoRA to a part, or none where it is not trained, what is trained whole, and a soft prompt.

    With `cut_rank` that of the part's last block has this rank, at the same scale. A classification head is new.
    """
    lora = config.lora
    trains = _trains(part, config)
    add_lora(
        part,
        rank=lora.rank if trains else 0,
        alpha=lora.alpha,
        dropout=lora.dropout,
        targets=lora.targets,
        head=lora.train_head,
        rslora=lora.use_rslora,
        dora=lora.use_dora,
        seed=derive_seed(config.seed, "lora"),
        last=None
        if cut_rank is None
        else (min(cut_rank, lora.rank), config.alpha_of(min(cut_rank, lora.rank))),
    )
    if not lora.train_a:
        freeze_a(part)
    renew_head(part, derive_seed(config.seed, "head"))
    if trains and lora.modules_to_save:
        train_whole(part, lora.modules_to_save)
    if lora.prompt_tokens and isinstance(part, Front):
        add_prompt(part, lora.prompt_tokens, derive_seed(config.seed, "prompt"))
    if config.model.bottleneck is not None and isinstance(part, Front | Body):
        add_bottleneck(part, config.model.crossing_width(part.model.config.get_text_config().hidden_size))


def _trains(part: Part, config: Config) -> bool:
    if isinstance(part, Front):
        return config.lora.train_front is not False
    return config.lora.train_body or not isinstance(part, Body)


def load_server_parts(config: Config) -> Parts:
    """The body, and outlines of what clients run: an adapter before training follows from seed, names and shapes alone.

    Where nothing is split, the body is an outline too, since the server only averages. DoRA's adapter and modules
    trained whole begin from the weights, which are read for that and not kept.
    """
    parts = _outlined(config)
    if config.lora.use_dora or config.lora.modules_to_save or config.model.bottleneck is not None:
        split, front = config.training.split, front_of(_whole_at(config, config.cuts[-1]))
        theirs = {
            parts.front: front,
            (parts.tail if split else parts.body): (tail_of(config, front) if split else body_of(config)),
        }
        for outlined, real in theirs.items():
            if outlined is not None and real is not None:
                load_adapter_state(outlined, adapter_state(real))
        if parts.body is not None:
            _match(front, parts.body)
    return parts


def _outlined(config: Config) -> Parts:
    model, classes = config.model, config.data.classes
    front = outline(model.source, Front, config.cuts[-1], model.tail_blocks, classes)
    adapt(front, config)
    tail = None
    if model.tail_blocks:
        tail = outline(model.source, Tail, model.cut, model.tail_blocks, classes)
        adapt(tail, config)
    if config.training.split:
        body = body_of(at_cut(config, config.cuts[0]), for_engine=True)
        base = None
        if guesses_from_labels(config):
            base = base_front(load_front(model.source, config.cuts[-1], rows_in_file=True, **_place(config)))
        return Parts(front, body, tail, base)
    body = outline(model.source, Body, model.cut, labels=classes)
    adapt(body, config)
    return Parts(front, body)


def parts_of_client(own: Config, config: Config, parts: Parts) -> Parts:
    """What a client of this process runs, by its `own` configuration: those of the run, or others.

    On the same device they share the frozen weights of these.
    """
    is_near = device_of(own) == device_of(config)
    is_whole = (own.model.cut, own.lora.rank) == (parts.front.span.stop, config.lora.rank)
    if is_near and is_whole and own.lora.cut_rank is None:
        return parts
    found = load_client_parts(own)
    for mine, theirs in zip(
        (found.front, found.body, found.tail), (parts.front, parts.body, parts.tail), strict=True
    ):
        if is_near and mine is not None and theirs is not None:
            share_frozen(mine, theirs)
    return found


def runs_front_alone(config: Config) -> bool:
    """Whether a client has the front and no other part, whose head might be the front's embeddings."""
    return config.training.split and not config.model.tail_blocks


def client_front(config: Config) -> Front:
    """The front of a client that has a process of its own, with its adapter."""
    return front_of(config, alone=runs_front_alone(config))


def load_client_parts(config: Config) -> Parts:
    """What a client runs: the front, the tail in the U-shape, the body where nothing is split."""
    front = client_front(config)
    return Parts(front, None if config.training.split else body_of(config), tail_of(config, front))
