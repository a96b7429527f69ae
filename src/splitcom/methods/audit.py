"""An audit of one's own run: how much of its text comes back from what crosses the cut, by codec and attack."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from splitcom.audit import Inverter, Score, recovered, score
from splitcom.codecs import Context, MemoryReferences, Ragged, parse
from splitcom.config import Config
from splitcom.data.columns import as_text
from splitcom.data.generate import domains, generate
from splitcom.data.sources import find_source, read_source
from splitcom.durable import write_atomic
from splitcom.errors import ConfigError
from splitcom.methods.run import configured
from splitcom.methods.settings import settings_of
from splitcom.metrics.record import RunFolder
from splitcom.models import Front, load_joined_state, load_tokenizer, read_adapter, without_adapters
from splitcom.parties.parts import load_parts
from splitcom.parties.texts import load_texts, with_chat
from splitcom.training.loss import learnt_tokens

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
    score: Score


@dataclass(frozen=True)
class AuditOptions:
    """How much is tried: of so many samples the first `tokens`, among so many candidates for each."""

    samples: int = 8
    tokens: int = 48
    candidates: int = 32
    public: str | None = None  # a source of text for the inverter to learn from; None: generated text


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
    samples = load_texts(config).train.samples[: options.samples]
    truths = [sample.input_ids[: options.tokens] for sample in samples]
    on_progress("learning an inverter from public text")
    with without_adapters([front]):
        inverter = _inverter(front, tokenizer, options)
    batch = Ragged(
        torch.cat([_hidden(front, truth) for truth in truths]),
        torch.tensor([len(truth) for truth in truths]),
        torch.cat([_learnt(sample.labels[: options.tokens]) for sample in samples]),
    )
    findings = [_by_chance(truths, tokenizer)]
    for text in dict.fromkeys(["fp16", config.flows.codec("activation_up")]):
        findings += _attacked(
            text, batch, inverter, front, truths, tokenizer, options.candidates, on_progress
        )
    if adapter is not None:
        content = json.dumps([asdict(finding) for finding in findings], indent=2)
        write_atomic(Path(run) / AUDIT, content.encode())
    return findings


def _attacked(
    text: str,
    batch: Ragged,
    inverter: Inverter,
    front: Front,
    truths: Sequence[Tensor],
    tokenizer: "PreTrainedTokenizerBase",
    candidates: int,
    on_progress: Progress,
) -> Iterator[Finding]:
    """What both attacks tell of what a codec lets through."""
    arrived, lengths = _through(text, batch), batch.lengths.tolist()
    error = float((arrived.values - batch.values).norm() / batch.values.norm())
    ranked = torch.split(inverter.rank(arrived.values, candidates), lengths)
    likeliest = [ranks[:, 0] for ranks in ranked]
    yield Finding(text, error, "inverter", _score(likeliest, truths, tokenizer))
    nearest: list[Tensor] = []
    for row, ranks in zip(torch.split(arrived.values, lengths), ranked, strict=True):
        on_progress(f"{text}: dictionary, sample {len(nearest) + 1} of {len(lengths)}")
        nearest.append(recovered(front, row, ranks))
    yield Finding(text, error, "dictionary", _score(nearest, truths, tokenizer))


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
    guesses = [torch.full_like(truth, int(commonest)) for truth in truths]
    return Finding("", 1.0, "the commonest token", _score(guesses, truths, tokenizer))


def _score(guesses: Any, truths: Sequence[Tensor], tokenizer: "PreTrainedTokenizerBase") -> Score:
    return score(guesses, truths, lambda token: str(tokenizer.decode([token])))
