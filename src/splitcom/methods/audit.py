"""An audit of one's own run: how much of its text comes back from what crosses the cut, by codec and attack."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from splitcom.audit import TOP, Inverter, Score, recovered, recovered_labels, score, told_apart
from splitcom.codecs import Context, MemoryReferences, Ragged, parse
from splitcom.config import Config
from splitcom.data import IGNORED, Sample
from splitcom.data.columns import as_text
from splitcom.data.generate import domains, generate
from splitcom.data.sources import find_source, read_source
from splitcom.durable import write_atomic
from splitcom.errors import ConfigError
from splitcom.methods.run import configured
from splitcom.methods.settings import settings_of
from splitcom.metrics.record import RunFolder
from splitcom.models import (
    Body,
    Front,
    Tail,
    load_joined_state,
    load_tokenizer,
    read_adapter,
    without_adapters,
)
from splitcom.parties.parts import Parts, load_parts
from splitcom.parties.texts import Texts, load_texts, with_chat
from splitcom.privacy import Gaussian
from splitcom.privacy import parse as parse_mechanism
from splitcom.seeds import derive_seed
from splitcom.training.loss import learnt_tokens, losses_through

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AUDIT = "audit.json"
_PUBLIC_ROWS = 400
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Finding:
    """What one attack tells from what one codec lets through. `error` is the codec's, of the values' norm."""

    codec: str
    error: float
    attack: str
    score: Score | None
    told_apart: float | None = None  # of pairs of samples, one of which was trained on


@dataclass(frozen=True)
class AuditOptions:
    """How much is tried: of so many samples the first `tokens`, among so many candidates for each."""

    samples: int = 8
    tokens: int = 48
    candidates: int = 32
    public: str | None = None  # a source of text for the inverter to learn from; None: generated text
    beam: int = 1  # texts that the dictionary follows at a time
    visits: int | None = None  # of which noise is averaged; None: all that a sample has in the run


def audit(
    run: str | Path,
    options: AuditOptions,
    changes: Mapping[str, Any] | None = None,
    on_progress: Progress = lambda _: None,
) -> list[Finding]:
    """Attack a run's own samples as its server could, and write audit.json into the run folder.

    `run` is a run folder, or a settings file: then the front is that of the base model. `changes` are to its settings,
    such as another codec. Samples are coded as when they
    cross the cut for the first time.

    Raises ConfigError if nothing crosses a cut, or classes are learnt; and what reading the run raises.
    """
    config, adapter = _of(Path(run), changes or {})
    if not config.training.split or config.data.task != "generation":
        raise ConfigError(
            f"{run}: an audit is of text that crosses a cut; this run has none, or learns classes"
        )
    on_progress("loading")
    parts = load_parts(config)
    if adapter is not None:
        load_joined_state(parts.all, read_adapter(adapter))
    front, tokenizer = parts.front.eval(), load_tokenizer(config.model.source)
    texts = load_texts(config)
    samples = texts.train.samples[: options.samples]
    truths = [sample.input_ids[: options.tokens] for sample in samples]
    on_progress("learning an inverter from public text")
    with without_adapters([front]):
        inverter = _inverter(front, tokenizer, options)
    batch = Ragged(
        torch.cat([_hidden(front, truth) for truth in truths]),
        torch.tensor([len(truth) for truth in truths]),
        torch.cat([_learnt(sample.labels[: options.tokens]) for sample in samples]),
    )
    attack = _Attack(front, inverter, truths, tokenizer, options, on_progress)
    findings = [_by_chance(truths, tokenizer)]
    for way in _ways(config, "activation_up", options):
        findings += attack.on(way, batch)
    if parts.body is not None and parts.tail is not None:
        on_progress("labels, from the gradient at the tail")
        findings += _labels(parts, samples, config, options, tokenizer)
    if adapter is not None:
        on_progress("members, from the adapter")
        findings.append(_members(parts, texts, options.samples))
        content = json.dumps([asdict(finding) for finding in findings], indent=2)
        write_atomic(Path(run) / AUDIT, content.encode())
    return findings


class _Way:
    """What is done to a flow before it arrives: noise, if the run has some, and a codec; `name` says so."""

    def __init__(
        self, codec: str, mechanism: Gaussian | None = None, clip: float = 0.0, visits: int = 1
    ) -> None:
        self._codec, self._mechanism, self._clip, self._visits = codec, mechanism, clip, visits
        self.name = codec if mechanism is None else f"{mechanism} > {codec}"
        if mechanism is not None and visits > 1:
            self.name += f", mean of {visits} visits"

    def arrived(self, batch: Ragged) -> Ragged:
        """What arrives of samples that are sent for the first time; under noise, the mean of so many visits."""
        if self._mechanism is None:
            return _through(self._codec, batch)
        mechanism, total = self._mechanism, torch.zeros(batch.values.shape)
        for visit in range(self._visits):
            noised = mechanism.released(batch.values, self._clip, derive_seed(mechanism.seed, "audit", visit))
            total += _through(self._codec, replace(batch, values=noised)).values
        return replace(batch, values=total / self._visits)


def _ways(config: Config, flow: str, options: AuditOptions, scale: float = 1.0) -> list[_Way]:
    """fp16 without noise, and what the run does; `scale` is that of what gradients are of."""
    codec = config.flows.codec(flow)
    if config.client.privacy is None:
        return [_Way(text) for text in dict.fromkeys(["fp16", codec])]
    mechanism = parse_mechanism(config.client.privacy)
    clip = scale * mechanism.gradients if flow == "gradient_up" else mechanism.clip
    all_visits = 1 if not config.lora.train_front else config.training.rounds * config.training.local_epochs
    visits = all_visits if options.visits is None else options.visits
    return [_Way("fp16"), *(_Way(codec, mechanism, clip, count) for count in sorted({1, visits}))]


@dataclass(frozen=True)
class _Attack:
    """Both attacks on hidden states."""

    front: Front
    inverter: Inverter
    truths: Sequence[Tensor]
    tokenizer: "PreTrainedTokenizerBase"
    options: AuditOptions
    on_progress: Progress

    def on(self, way: _Way, batch: Ragged) -> Iterator[Finding]:
        """What both tell of what arrives one way."""
        arrived, lengths = way.arrived(batch), batch.lengths.tolist()
        error = float((arrived.values - batch.values).norm() / batch.values.norm())
        count = max(self.options.candidates, TOP)
        ranked = torch.split(self.inverter.rank(arrived.values, count), lengths)
        yield Finding(way.name, error, "inverter", _score(ranked, self.truths, self.tokenizer))
        nearest: list[Tensor] = []
        for row, ranks in zip(torch.split(arrived.values, lengths), ranked, strict=True):
            self.on_progress(f"{way.name}: dictionary, sample {len(nearest) + 1} of {len(lengths)}")
            tried = ranks[:, : self.options.candidates]
            nearest.append(recovered(self.front, row, tried, self.options.beam))
        yield Finding(way.name, error, "dictionary", _score(nearest, self.truths, self.tokenizer))


def _labels(
    parts: Parts,
    samples: Sequence[Sample],
    config: Config,
    options: AuditOptions,
    tokenizer: "PreTrainedTokenizerBase",
) -> Iterator[Finding]:
    """What the gradients at the tail tell of each sample's first labels, of which there is no other trace."""
    assert parts.body is not None and parts.tail is not None
    body, tail = parts.body.eval(), parts.tail.eval()
    sent, gradients, truths = [], [], []
    for sample in samples:
        stop = int((sample.labels != IGNORED).nonzero()[0]) + options.tokens
        labels = sample.labels[None, :stop]
        mask = torch.ones_like(labels)
        with torch.no_grad():
            hidden = body(_hidden(parts.front, sample.input_ids[:stop])[None], mask).float()
        hidden.requires_grad_()
        losses = losses_through(tail, hidden, mask, labels, config.training.label_smoothing).losses
        torch.autograd.backward(losses.sum() / len(losses))
        assert hidden.grad is not None
        sent.append(hidden.detach()[0])
        gradients.append(Ragged(hidden.grad[0], torch.tensor([hidden.shape[1]])))
        truths.append(labels[0, 1:])
    for place, way in enumerate(_ways(config, "gradient_up", options)):
        found, error, whole = [], 0.0, 0.0
        for hidden, gradient, truth in zip(sent, gradients, truths, strict=True):
            count = int((truth != IGNORED).sum())
            arrived = _ways(config, "gradient_up", options, 1 / count)[place].arrived(gradient).values
            error += float((arrived - gradient.values).square().sum())
            whole += float(gradient.values.square().sum())
            found.append(recovered_labels(tail, hidden, arrived * count)[:-1][truth != IGNORED])
        learnt = [truth[truth != IGNORED] for truth in truths]
        shares = _score([guess[:, None] for guess in found], learnt, tokenizer)
        yield Finding(way.name, (error / whole) ** 0.5, "labels, from gradients", shares)


@torch.no_grad()
def _members(parts: Parts, texts: Texts, count: int) -> Finding:
    """Whether samples that were trained on are told from held-out ones, by how far the adapter lowers their losses."""
    for part in parts.all:
        part.eval()

    def fall(sample: Sample) -> float:
        with without_adapters(parts.all):
            before = _loss(parts, sample)
        return before - _loss(parts, sample)

    members, others = (
        [fall(sample) for sample in samples[:count]]
        for samples in (texts.train.samples, texts.held_out.samples)
    )
    return Finding("the adapter", 0.0, "member or not", None, told_apart(members, others))


def _loss(parts: Parts, sample: Sample) -> float:
    """The mean loss of a sample's labels."""
    ids, labels = sample.input_ids[None], sample.labels[None]
    mask = torch.ones_like(ids)
    hidden, last = parts.front(ids, mask), parts.all[-1]
    for part in parts.all[1:-1]:
        hidden = part(hidden, mask)
    assert isinstance(last, Body | Tail)
    return float(losses_through(last, hidden, mask, labels).losses.mean())


def _of(run: Path, changes: Mapping[str, Any]) -> tuple[Config, Path | None]:
    if run.suffix == ".toml":
        return with_chat(configured(Config.load(run, changes))), None
    folder = RunFolder(run)
    return settings_of(folder, changes), folder.ended_adapter()


def _inverter(front: Front, tokenizer: "PreTrainedTokenizerBase", options: AuditOptions) -> Inverter:
    texts = list(_public(options.public))
    ids = [tokenizer(text, return_tensors="pt")["input_ids"][0][: options.tokens] for text in texts]
    known = [tokens for tokens in ids if len(tokens)]
    embeddings = front.model.get_input_embeddings().weight
    return Inverter(embeddings).fit(torch.cat([_hidden(front, tokens) for tokens in known]), torch.cat(known))


def _public(source: str | None) -> Sequence[str]:
    if source is None:
        names = domains()
        pairs = [pair for name in names for pair in generate(name, _PUBLIC_ROWS // len(names), seed=1)]
        return [f"{pair['mr']} {pair['text']}" for pair in pairs]
    records = islice(read_source(find_source(source)), _PUBLIC_ROWS)
    return [" ".join(map(as_text, record.values())) for _, record in records]


@torch.no_grad()
def _hidden(front: Front, tokens: Tensor) -> Tensor:
    hidden: Tensor = front(tokens[None], torch.ones_like(tokens)[None])
    return hidden[0].float()


def _learnt(labels: Tensor) -> Tensor:
    learnt = learnt_tokens(labels[None])
    return torch.ones_like(labels, dtype=torch.bool) if learnt is None else learnt[0]


def _through(text: str, batch: Ragged) -> Ragged:
    """What arrives of samples that are sent for the first time."""
    sender, receiver = parse(text), parse(text)
    stores = [MemoryReferences() if codec.needs_references else None for codec in (sender, receiver)]
    packet = sender.encode(batch, list(range(len(batch.lengths))), Context(references=stores[0])).packet
    return receiver.decode(packet, stores[1]).batch


def _by_chance(truths: Sequence[Tensor], tokenizer: "PreTrainedTokenizerBase") -> Finding:
    """Of somebody who always says the most frequent token."""
    commonest = torch.cat(list(truths)).mode().values
    guesses = [torch.full_like(truth, int(commonest))[:, None] for truth in truths]
    return Finding("", 1.0, "the commonest token", _score(guesses, truths, tokenizer))


def _score(guesses: Any, truths: Sequence[Tensor], tokenizer: "PreTrainedTokenizerBase") -> Score:
    return score(guesses, truths, lambda token: str(tokenizer.decode([token])))
