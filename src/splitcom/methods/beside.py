"""What is told beside hidden states: by sizes of packets and flags in them, and by what clients make of the adapter."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from splitcom.aggregation import Update
from splitcom.audit import lengths_told, told_apart
from splitcom.codecs import Context, MemoryReferences, Ragged, parse
from splitcom.config import Config
from splitcom.data import Sample
from splitcom.methods.crossing import Finding, Way, hidden_of, learnt_of
from splitcom.methods.presence import tokens_told
from splitcom.methods.run import train
from splitcom.models import (
    Body,
    Front,
    Tail,
    joined_state,
    load_joined_state,
    read_adapter,
    without_adapters,
)
from splitcom.models.adapters import load_adapter_state
from splitcom.parties.parts import Parts, at_cut, begin_from_adapter, front_of, load_parts
from splitcom.parties.texts import Texts, load_texts
from splitcom.server.observe import Observer
from splitcom.training.loss import losses_through


def side_channels(front: Front, samples: Sequence[Sample], way: Way) -> Iterator[Finding]:
    """What packets of one sample each tell without their numbers: by their sizes, which all see who see the network.

    Each sample is sent twice, first from the base model's front and then from the run's, and a third time under another
    identifier, as a copy of it that somebody else has in the same data.
    """
    with without_adapters([front]):
        first = [_alone(front, sample) for sample in samples]
    later = [_alone(front, sample) for sample in samples]
    sender, receiver = parse(way.codec), parse(way.codec)
    stores = [MemoryReferences() if codec.needs_references else None for codec in (sender, receiver)]
    sizes: list[list[float]] = []
    starts = []
    for visit, rows in enumerate((first, later, first)):
        sizes.append([])
        for index, row in enumerate(rows):
            identifier = index + len(rows) * (visit == 2)
            context = Context(references=stores[0], seed=identifier + len(rows) * visit)
            packet = sender.encode(way.left(row, context.seed), [identifier], context).packet
            sizes[-1].append(float(len(packet)))
            flags = receiver.decode(packet, stores[1]).batch.learnt
            if flags is not None and visit == 0:
                starts.append((_start(flags), _start(row.learnt)))
    lengths = [len(sample.input_ids) for sample in samples]
    told, chance = lengths_told(sizes[0], lengths)
    yield Finding(way.name, 0.0, "length within a twentieth, by a packet's size", share=told, chance=chance)
    for rest, what in ((sizes[1], "a later visit"), (sizes[2], "a copy of a text sent before")):
        share = told_apart(sizes[0], rest)
        yield Finding(way.name, 0.0, f"{what} or not, of pairs, by a packet's size", share=share, chance=0.5)
    if starts:
        right = sum(found == true for found, true in starts) / len(starts)
        true = [true for _, true in starts]
        chance = max(map(true.count, true)) / len(true)
        yield Finding(
            way.name, 0.0, "where a response begins, by the codec's flags", share=right, chance=chance
        )


class _Kept(Observer):
    """Keeps what clients have made of the shared adapter."""

    def __init__(self) -> None:
        self.updates: Sequence[Update] = ()

    def on_merge(self, updates: Sequence[Update]) -> None:
        """Keep it."""
        self.updates = updates


def updates_told(config: Config, count: int) -> Iterator[Finding]:
    """What the adapters of one round tell, which is trained anew: as they reach the server, and merged.

    Of `count` samples of each client, and as many held-out ones. Nothing if clients send no adapter.
    """
    kept = _Kept()
    changes = {
        "training.rounds": config.resting_rounds + 1,  # the first one in which they learn
        "evaluation.generate": 0,
        "evaluation.exact_last": False,
    }
    with tempfile.TemporaryDirectory() as folder:
        run = train(config.override(changes), Path(folder) / "run", observers=[kept])
        merged = read_adapter(run.adapter)
    if not kept.updates:
        return
    parts, texts = load_parts(config), load_texts(config)
    begin_from_adapter(parts, config)
    start = {name: tensor.detach().clone() for name, tensor in joined_state(parts.all).items()}
    load_joined_state(parts.all, merged)
    whole_texts = dict(zip(config.client_names, texts.partition.parts, strict=True))
    clients = {name: part[:count] for name, part in whole_texts.items()}
    held_out = texts.held_out.samples[:count]
    ways = [(update.adapter, [update.client]) for update in kept.updates if update.client in clients]
    found = [_members_told(parts, adapter, clients, names, held_out) for adapter, names in ways]
    shared = {name: merged[name] for name in kept.updates[0].adapter}
    whole = _members_told(parts, shared, clients, [*clients], held_out)
    if found:
        mean = (sum(one) / len(found) for one in zip(*found, strict=True))
        yield from _told("one client's adapter", *mean)
        alone = {update.client: update.adapter for update in kept.updates if update.client in clients}
        first = front_of(at_cut(config, 1)).eval()
        yield from tokens_told(first, start, alone, whole_texts, texts.held_out.samples)
    yield from _told(f"the mean of {len(clients)} clients' adapters", *whole)


def _told(of: str, members: float, owners: float) -> Iterator[Finding]:
    yield Finding(of, 0.0, "member or not, of pairs", share=members, chance=0.5)
    yield Finding(of, 0.0, "whose sample, of pairs", share=owners, chance=0.5)


@torch.no_grad()
def _members_told(
    parts: Parts,
    adapter: Mapping[str, Tensor],
    clients: Mapping[str, Sequence[Sample]],
    names: Sequence[str],
    held_out: Sequence[Sample],
) -> tuple[float, float]:
    """Of pairs of a sample of one of these clients with held-out ones, and with other clients', the share told apart.

    By how far the adapter lowers their losses.
    """
    load_adapter_state(parts.all[0], adapter)
    falls = {name: [loss_fall(parts, sample) for sample in samples] for name, samples in clients.items()}
    strange = [loss_fall(parts, sample) for sample in held_out]
    members = [told_apart(falls[name], strange) for name in names]
    owners = [
        told_apart(falls[name], [fall for other in clients if other != name for fall in falls[other]])
        for name in names
    ]
    return sum(members) / len(names), sum(owners) / len(names)


@torch.no_grad()
def loss_fall(parts: Parts, sample: Sample) -> float:
    """By how much the adapters lower the mean loss of a sample's labels."""
    with without_adapters(parts.all):
        before = _loss(parts, sample)
    return before - _loss(parts, sample)


def _loss(parts: Parts, sample: Sample) -> float:
    ids, labels = sample.input_ids[None], sample.labels[None]
    mask = torch.ones_like(ids)
    hidden, last = parts.front(ids, mask), parts.all[-1]
    for part in parts.all[1:-1]:
        hidden = part(hidden, mask)
    assert isinstance(last, Body | Tail)
    return float(losses_through(last, hidden, mask, labels).losses.mean())


def members_told(parts: Parts, texts: Texts, count: int) -> Finding:
    """Whether samples that were trained on are told from held-out ones, by the adapter that the run has left."""
    members, others = (
        [loss_fall(parts, sample) for sample in samples[:count]]
        for samples in (texts.train.samples, texts.held_out.samples)
    )
    share = told_apart(members, others)
    return Finding("the run's adapter", 0.0, "member or not, of pairs", share=share, chance=0.5)


def _alone(front: Front, sample: Sample) -> Ragged:
    """One sample's hidden states."""
    length = torch.tensor([len(sample.input_ids)])
    return Ragged(hidden_of(front, sample.input_ids), length, learnt_of(sample.labels))


def _start(learnt: Tensor | None) -> int:
    """The first token that is learnt."""
    assert learnt is not None
    return int(learnt.int().argmax())
