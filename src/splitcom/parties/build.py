"""From a configuration to one party: the server, or a client."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from splitcom.client.client import Client
from splitcom.client.ends import EndsTrainer
from splitcom.client.front import FrontTrainer
from splitcom.client.whole import WholeTrainer
from splitcom.client.wrapper import wrapped
from splitcom.codecs import FileReferences, MemoryReferences, ReferenceStore, parse
from splitcom.config import Config
from splitcom.data import Sample, Samples, lengths_of
from splitcom.engines import engine_of
from splitcom.flows import FLOWS
from splitcom.models import Front, adapter_state, joined_state, replicate
from splitcom.models.views import block_of
from splitcom.parties.parts import Parts, guesses_from_labels
from splitcom.privacy import parse_response
from splitcom.protocol.limits import KindLimits
from splitcom.scheduling import scheduling_of
from splitcom.server.observe import Observer
from splitcom.server.rounds import Federation, Served
from splitcom.training.channel import Channel, Channels, RestChannel
from splitcom.training.limits import largest, limits_of
from splitcom.training.store import PartyStore
from splitcom.transports.events import Transport


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
    adapter = _shared_adapter(config, parts)
    engine = engine_of(parts.body, config) if split and parts.body is not None else None
    device = torch.device("cpu") if engine is None else engine.device
    return Federation(
        config,
        transport,
        Served(engine, adapter, model_fingerprint, _blocks_of(parts.front)),
        lambda name: _channels_of(config, name, folder / "references", parts, device) if split else {},
        PartyStore(folder, config.training.keep_checkpoints),
        scheduling_of(config),
        observer,
    )


def most_message_bytes(config: Config, parts: Parts) -> int:
    """The largest message that either side may send in this run."""
    return largest(_limits(config, parts))


def _limits(config: Config, parts: Parts) -> KindLimits:
    hidden_size = parts.front.model.config.get_text_config().hidden_size
    width = config.model.crossing_width(hidden_size) if config.training.split else None
    return limits_of(config, width, _shared_adapter(config, parts))


def build_client(
    name: str,
    config: Config,
    parts: Parts,
    samples: Sequence[Sample],
    held_out: Sequence[Sample],
    model_fingerprint: str,
    folder: Path,
    fronts: Callable[[int], Front] | None = None,
) -> Client:
    """A client at the beginning of a conversation, with copies of `parts`; its state goes below `folder`.

    `fronts` gives one of so many blocks, for a run whose cuts move.

    The tail is needed in the U-shape, the body where nothing is split.
    """
    samples = with_label_noise(samples, name, config, folder)
    front = replicate(parts.front)
    trainer: WholeTrainer | FrontTrainer | EndsTrainer
    device, own = next(front.parameters()).device, folder / "references"
    channels = _channels_of(config, name, own, parts, device) if config.training.split else {}
    if not config.training.split:
        assert parts.body is not None
        trainer = WholeTrainer(name, front, replicate(parts.body), samples, held_out, config)
    elif parts.tail is None:
        trainer = FrontTrainer(name, front, samples, held_out, channels, config)
    else:
        trainer = EndsTrainer(name, front, replicate(parts.tail), samples, held_out, channels, config)
    trainer.fronts = None if fronts is None else lambda cut: replicate(fronts(cut))
    whole = wrapped(trainer, name, config, folder)
    store = PartyStore(folder, config.training.keep_checkpoints)
    return Client(name, whole, channels, config, model_fingerprint, store, _limits(config, parts))


def with_label_noise(
    samples: Sequence[Sample], client: str, config: Config, folder: Path
) -> Sequence[Sample]:
    """A client's samples with the classes that they are trained as; what these are drawn with is kept in `folder`."""
    if config.client.label_noise is None or config.data.classes is None:
        return samples
    response = parse_response(config.client.label_noise)
    num_classes, key = len(config.data.classes), response.key(folder, client)

    def noisy(index: int) -> Sample:
        sample = samples[index]
        drawn = response.drawn([int(sample.labels)], [sample.sample_id], num_classes, key)
        return replace(sample, labels=torch.tensor(drawn))

    return Samples(noisy, lengths_of(samples))


def _shared_adapter(config: Config, parts: Parts) -> dict[str, Tensor]:
    """What clients train and share."""
    theirs = (parts.front, parts.tail if config.training.split else parts.body)
    return joined_state([part for part in theirs if part is not None])


def _blocks_of(front: Front) -> dict[str, int]:
    """The blocks of a front's tensors that are in one."""
    return {name: block for name in adapter_state(front) if (block := block_of(front, name)) is not None}


def _channels_of(config: Config, client: str, folder: Path, parts: Parts, device: torch.device) -> Channels:
    channels = open_channels(config, client, folder, device)
    if guesses_from_labels(config):
        front = parts.label_front.at(config.of_client(client).model.cut)
        for flow in ("activation_up", "evaluation_up"):
            channels[flow].guess = front.guess
    return channels


def open_channels(config: Config, client: str, folder: Path, device: torch.device | str = "cpu") -> Channels:
    """One side's ends of the flows of one client; `device` is where this side runs its part of the model."""
    channels: dict[str, Channel] = {}

    def open_channel(
        flow: str, text: str, base: Channel | None = None, answers: Channel | None = None
    ) -> None:
        codec = parse(text)
        references = _references(config, folder / client / flow) if codec.needs_references else None
        channels[flow] = Channel(flow, client, codec, references, config.seed, base, answers)
        channels[flow].device = device

    for flow, settings in config.cut_flows.items():
        # none in the standard form
        base = channels.get(FLOWS[flow].base or "") if settings.residual else None
        is_sent = FLOWS[flow].cut != "front" or config.lora.front_learns
        answers = channels.get(FLOWS[flow].answers or "") if is_sent else None
        if answers is not None and not answers.codec.knows_the_receiver:
            answers = None
        open_channel(flow, settings.codec, base, answers)
    text = config.evaluation.codec
    codec = parse(text)
    has_base = codec.needs_references and codec.knows_the_receiver
    for direction in ("up", "down") if config.model.tail_blocks else ("up",):
        base = channels["evaluation_up"] if direction == "down" and has_base else None
        open_channel(f"evaluation_{direction}", text, base)
        rest_base = channels.get("evaluation_up_exact") if base is not None else None
        channels[f"evaluation_{direction}_exact"] = RestChannel(
            channels[f"evaluation_{direction}"], rest_base
        )
    channels["activation_up"].follows = channels["evaluation_up"]
    return channels


def _references(config: Config, folder: Path) -> ReferenceStore:
    settings = config.references
    limit_bytes = None if settings.limit_mb is None else int(settings.limit_mb * 1e6)
    if settings.store == "memory" or limit_bytes is None:
        return MemoryReferences(settings.precision, limit_bytes)
    return FileReferences(folder, limit_bytes, settings.precision)
