"""From a configuration to the parties of a simulation: every client and the server, in this process."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from splitcom.codecs import FileReferences, MemoryReferences, ReferenceStore, parse
from splitcom.config import ENTERING, Config, FlowConfig
from splitcom.data import (
    HELD_OUT_DOMAIN,
    Encoded,
    Partition,
    Row,
    Sample,
    classes_in,
    encode,
    encode_classes,
    load_rows,
    partition,
)
from splitcom.errors import ConfigError
from splitcom.federation.body import BodyTrainer
from splitcom.federation.channel import Channel, Channels
from splitcom.federation.client import Client, Trainer
from splitcom.federation.controllers import Controllers
from splitcom.federation.ends import EndsTrainer
from splitcom.federation.front import FrontTrainer
from splitcom.federation.observe import Observer
from splitcom.federation.rounds import Federation
from splitcom.federation.store import PartyStore
from splitcom.federation.whole import WholeTrainer
from splitcom.models import (
    Body,
    Front,
    Part,
    Tail,
    add_lora,
    fingerprint,
    joined_state,
    load_body,
    load_front,
    load_tail,
    load_tokenizer,
    renew_head,
    replicate,
    share_embeddings,
)
from splitcom.seeds import derive_seed
from splitcom.transports.events import Transport
from splitcom.transports.inproc import InProcess
from splitcom.transports.link import VirtualClock


@dataclass(frozen=True)
class Texts:
    """The data of a run: each client's training samples, and the held-out ones."""

    partition: Partition
    train: Encoded
    held_out: Encoded


@dataclass(frozen=True)
class Parts:
    """The parts of a model with their adapters; a party may hold outlines of what it does not run, or nothing."""

    front: Front
    body: Body | None = None
    tail: Tail | None = None


class Simulation:
    """All parties of a run in this process.

    `parts` are those of `load_parts`: the server trains this very body, clients train copies of the others. `folder`
    is where the parties keep their states and, where so configured, their references.
    """

    def __init__(
        self,
        config: Config,
        texts: Texts,
        parts: Parts,
        folder: Path,
        observer: Observer | None = None,
    ) -> None:
        _check_times(config)
        self._config = config
        self._parts = parts
        self._folder = folder
        self._fingerprint = fingerprint(config.model.source)
        names = config.client_names
        self._samples = dict(zip(names, texts.partition.parts, strict=True))
        self._held_out = {
            name: texts.held_out.samples[index :: len(names)] for index, name in enumerate(names)
        }
        self._clients: dict[str, Client] = {}
        self.clock = VirtualClock(config.links, config.seed)
        transport = InProcess(names, self._make_client, self.clock)
        self.federation = build_server(
            config, transport, parts, self._fingerprint, folder / "server", observer
        )

    def close(self) -> None:
        """Let go of references that are kept in files."""
        self.federation.close()
        for client in self._clients.values():
            client.close()

    def _make_client(self, name: str) -> Client:
        if name in self._clients:
            self._clients[name].close()
        self._clients[name] = build_client(
            name,
            self._config,
            self._parts,
            self._samples[name],
            self._held_out[name],
            self._fingerprint,
            self._folder / name,
        )
        return self._clients[name]


def _check_times(config: Config) -> None:
    """Raise ConfigError where the order of events would depend on how busy this machine is."""
    links = config.links
    steps = [links.clients.get(name, links).step_s for name in config.client_names]
    if not config.federation.waits_for_all and None in (*steps, links.server_step_s):
        raise ConfigError(
            "federation.deadline_s, over_select and asynchronous scheduling go by time, which with all clients in this "
            "process must be given, or else every run would give other bits: set links.step_s, links.server_step_s and "
            "step_s of every entry of links.clients, such as 0.1"
        )


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


def build_server(
    config: Config,
    transport: Transport,
    parts: Parts,
    model_fingerprint: str,
    folder: Path,
    observer: Observer | None = None,
) -> Federation:
    """The server; its state goes below `folder`.

    It runs the body where the model is split; of the parts that clients train it needs no more than outlines.
    """
    split = config.training.split
    theirs = (parts.front, parts.tail if split else parts.body)
    adapter = joined_state([part for part in theirs if part is not None])
    return Federation(
        config,
        transport,
        BodyTrainer(parts.body, config) if split and parts.body is not None else None,
        adapter,
        lambda name: open_channels(config, name, folder / "references") if split else {},
        model_fingerprint,
        PartyStore(folder),
        Controllers(config),
        observer,
    )


def build_client(
    name: str,
    config: Config,
    parts: Parts,
    samples: Sequence[Sample],
    held_out: Sequence[Sample],
    model_fingerprint: str,
    folder: Path,
) -> Client:
    """A client at the beginning of a conversation, with copies of `parts`; its state goes below `folder`.

    The tail is needed in the U-shape, the body where nothing is split.
    """
    front = replicate(parts.front)
    trainer: Trainer
    channels = open_channels(config, name, folder / "references") if config.training.split else {}
    if not config.training.split:
        assert parts.body is not None
        trainer = WholeTrainer(name, front, replicate(parts.body), samples, held_out, config)
    elif parts.tail is None:
        trainer = FrontTrainer(name, front, samples, held_out, channels, config)
    else:
        trainer = EndsTrainer(name, front, replicate(parts.tail), samples, held_out, channels, config)
    return Client(name, trainer, channels, config, model_fingerprint, PartyStore(folder))


def load_parts(config: Config) -> Parts:
    """All parts with their adapters, on the configured device."""
    front = front_of(config)
    return Parts(front, body_of(config), tail_of(config, front))


def front_of(config: Config) -> Front:
    """The front with its adapter, on the configured device."""
    front = load_front(config.model.source, config.model.cut, **_place(config))
    adapt(front, config, trains=config.lora.train_front)
    return front


def body_of(config: Config) -> Body:
    """The body with its adapter, on the configured device."""
    model = config.model
    body = load_body(model.source, model.cut, model.tail_blocks, **_place(config))
    adapt(body, config, trains=True)
    return body


def tail_of(config: Config, front: Front) -> Tail | None:
    """The tail of the party that has this front, with its adapter; None in the standard form."""
    if not config.model.tail_blocks:
        return None
    tail = load_tail(config.model.source, config.model.tail_blocks, **_place(config))
    share_embeddings(front, tail)
    adapt(tail, config, trains=True)
    return tail


def _place(config: Config) -> dict[str, Any]:
    return {
        "dtype": getattr(torch, config.model.dtype),
        "device": device_of(config),
        "attn_implementation": config.model.attention,
        "labels": config.data.classes,
    }


def device_of(config: Config) -> torch.device:
    """The configured device; raises ConfigError where it is not there."""
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


def open_channels(config: Config, client: str, folder: Path) -> Channels:
    """One side's ends of the flows of one client."""
    flows = config.cut_flows | {"evaluation": FlowConfig(codec=config.evaluation.codec)}
    channels: dict[str, Channel] = {}
    for flow, settings in flows.items():
        codec = parse(settings.codec)
        references = _references(config, folder / client / flow) if codec.needs_references else None
        base = channels.get(ENTERING[flow]) if settings.residual else None  # none in the standard form
        channels[flow] = Channel(flow, client, codec, references, config.seed, base)
    return channels


def _references(config: Config, folder: Path) -> ReferenceStore:
    settings = config.references
    limit_bytes = None if settings.limit_mb is None else int(settings.limit_mb * 1e6)
    if settings.store == "memory" or limit_bytes is None:
        return MemoryReferences(settings.precision, limit_bytes)
    return FileReferences(folder, limit_bytes, settings.precision)


def adapt(part: Part, config: Config, trains: bool) -> None:
    """Add the configured LoRA to a part, or none where it is not trained; a classification head is new."""
    lora = config.lora
    add_lora(
        part,
        rank=lora.rank if trains else 0,
        alpha=lora.alpha,
        dropout=lora.dropout,
        targets=lora.targets,
        head=lora.train_head,
        seed=derive_seed(config.seed, "lora"),
    )
    renew_head(part, derive_seed(config.seed, "head"))


def _shuffled(rows: list[Row], purpose: str) -> list[Row]:
    rows = list(rows)
    random.Random(f"splitcom/{purpose}").shuffle(rows)
    return rows
