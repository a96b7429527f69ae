"""An audit of one's own run: how much of its text comes back from what crosses the cut, by codec and attack."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from splitcom.audit import TOP, Inverter, Score, recovered, recovered_labels, score
from splitcom.codecs import Ragged
from splitcom.config import Config
from splitcom.data import IGNORED, Sample
from splitcom.data.columns import as_text
from splitcom.data.generate import domains, generate
from splitcom.data.sources import find_source, read_source
from splitcom.durable import write_atomic
from splitcom.errors import ConfigError
from splitcom.methods.beside import members_told, side_channels, updates_told
from splitcom.methods.crossing import AuditOptions, Finding, Way, hidden_of, learnt_of, ways
from splitcom.methods.run import configured
from splitcom.methods.settings import settings_of
from splitcom.metrics.record import RunFolder
from splitcom.models import Front, load_joined_state, load_tokenizer, read_adapter, without_adapters
from splitcom.parties.parts import Parts, load_parts
from splitcom.parties.texts import load_texts, with_chat
from splitcom.training.loss import losses_through

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

AUDIT = "audit.json"
_PUBLIC_ROWS = 400
_MORE = 16  # times as many candidates are tried at a place if none of the first is near enough
_NEAR = 2.0
_ROUNDING = 1e-6  # of a squared norm: between a text that is run at once and token by token
Progress = Callable[[str], None]


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

    Raises ConfigError if nothing crosses a cut, classes are learnt, or there is a soft prompt; and what reading the run
    raises.
    """
    config, adapter = _of(Path(run), changes or {})
    if not config.training.split or config.data.task != "generation" or config.lora.prompt_tokens:
        raise ConfigError(
            f"{run}: an audit tries to read text from what crosses the cut; nothing crosses one in this "
            "run, or it learns classes and not text, or it has a soft prompt"
        )
    on_progress("loading")
    parts = load_parts(config.for_all)
    if adapter is not None:
        load_joined_state(parts.all, read_adapter(adapter))
    front, tokenizer = parts.front.eval(), load_tokenizer(config.model.source)
    texts = load_texts(config)
    samples = texts.train.samples[: options.samples]
    findings = _text(front, samples, config, options, tokenizer, on_progress)
    if parts.body is not None and parts.tail is not None:
        on_progress("labels, from the gradient at the tail")
        findings += _labels(parts, samples, config, options, tokenizer)
    if sized := texts.train.samples[: options.packets]:
        on_progress("lengths, copies and responses, from packets")
        findings += side_channels(front, sized, ways(config, "activation_up", options)[-1])
    if adapter is not None:
        on_progress("members, from the adapter")
        findings.append(members_told(parts, texts, options.samples))
    if options.updates:
        on_progress("members, from a round of adapters")
        findings += updates_told(config, options.samples)
    if adapter is not None:
        content = json.dumps([asdict(finding) for finding in findings], indent=2)
        write_atomic(Path(run) / AUDIT, content.encode())
    return findings


def _text(
    front: Front,
    samples: Sequence[Sample],
    config: Config,
    options: AuditOptions,
    tokenizer: "PreTrainedTokenizerBase",
    on_progress: Progress,
) -> list[Finding]:
    """What hidden states tell of the samples' first tokens, by each way."""
    truths = [sample.input_ids[: options.tokens] for sample in samples]
    on_progress("reading public text")
    with without_adapters([front]):
        known, learnt = _known(front, tokenizer, options)
    batch = Ragged(
        torch.cat([hidden_of(front, truth) for truth in truths]),
        torch.tensor([len(truth) for truth in truths]),
        torch.cat([learnt_of(sample.labels[: options.tokens]) for sample in samples]),
    )
    attack = _Attack(front, known, learnt, truths, tokenizer, options, on_progress)
    findings = [*_by_chance(truths, torch.split(learnt, known.lengths.tolist()), tokenizer)]
    for way in ways(config, "activation_up", options):
        findings += attack.on(way, batch)
    return findings


@dataclass(frozen=True)
class _Attack:
    """Both attacks on hidden states; `known` are those of public text, as they are, and its tokens `learnt` [N]."""

    front: Front
    known: Ragged
    learnt: Tensor
    truths: Sequence[Tensor]
    tokenizer: "PreTrainedTokenizerBase"
    options: AuditOptions
    on_progress: Progress

    def on(self, way: Way, batch: Ragged) -> Iterator[Finding]:
        """What both tell of what arrives one way."""
        (arrived, bits), lengths = way.arrived(batch), batch.lengths.tolist()
        self.on_progress(f"{way.name}: learning an inverter from public text")
        public = way.arrived(self.known)[0].values
        inverter = Inverter(self.front.model.get_input_embeddings().weight).fit(public, self.learnt)
        rarity = -2 * (public - self.known.values).square().mean() * inverter.log_prior
        # that of 99 of 100 public tokens, whose errors the server knows
        missed = (public - self.known.values).square().sum(1) / public.square().sum(1).clamp_min(1e-30)
        enough = _NEAR * max(float(missed.quantile(0.99)), _ROUNDING)
        error = float((arrived.values - batch.values).norm() / batch.values.norm())
        first = self.options.candidates
        count = max(first * _MORE, TOP)
        ranked = torch.split(inverter.rank(arrived.values, count), lengths)
        yield Finding(way.name, error, "inverter", _score(ranked, self.truths, self.tokenizer), bits=bits)
        nearest: list[Tensor] = []
        for row, ranks in zip(torch.split(arrived.values, lengths), ranked, strict=True):
            self.on_progress(f"{way.name}: dictionary, sample {len(nearest) + 1} of {len(lengths)}")
            tried = ranks[:, : first * _MORE]
            nearest.append(recovered(self.front, row, tried, self.options.beam, rarity[tried], first, enough))
        yield Finding(way.name, error, "dictionary", _score(nearest, self.truths, self.tokenizer), bits=bits)


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
            hidden = body(hidden_of(parts.front, sample.input_ids[:stop])[None], mask).float()
        hidden.requires_grad_()
        losses = losses_through(tail, hidden, mask, labels, config.training.label_smoothing).losses
        torch.autograd.backward(losses.sum() / len(losses))
        assert hidden.grad is not None
        sent.append(hidden.detach()[0])
        gradients.append(Ragged(hidden.grad[0], torch.tensor([hidden.shape[1]])))
        truths.append(labels[0, 1:])
    for place, way in enumerate(ways(config, "gradient_up", options)):
        found, error, whole = [], 0.0, 0.0
        for hidden, gradient, truth in zip(sent, gradients, truths, strict=True):
            count = int((truth != IGNORED).sum())
            arrived = ways(config, "gradient_up", options, 1 / count)[place].arrived(gradient)[0].values
            error += float((arrived - gradient.values).square().sum())
            whole += float(gradient.values.square().sum())
            found.append(recovered_labels(tail, hidden, arrived * count)[:-1][truth != IGNORED])
        learnt = [truth[truth != IGNORED] for truth in truths]
        shares = _score([guess[:, None] for guess in found], learnt, tokenizer)
        yield Finding(way.name, (error / whole) ** 0.5, "labels, from gradients", shares)


def _of(run: Path, changes: Mapping[str, Any]) -> tuple[Config, Path | None]:
    if run.suffix == ".toml":
        return with_chat(configured(Config.load(run, changes))), None
    folder = RunFolder(run)
    return settings_of(folder, changes), folder.ended_adapter()


def _known(
    front: Front, tokenizer: "PreTrainedTokenizerBase", options: AuditOptions
) -> tuple[Ragged, Tensor]:
    """Hidden states of public text, and its tokens [N]."""
    texts = list(_public(options.public))
    ids = [tokenizer(text, return_tensors="pt")["input_ids"][0][: options.tokens] for text in texts]
    known = [tokens for tokens in ids if len(tokens)]
    hidden = torch.cat([hidden_of(front, tokens) for tokens in known])
    return Ragged(hidden, torch.tensor([len(tokens) for tokens in known])), torch.cat(known)


def _public(source: str | None) -> Sequence[str]:
    if source is None:
        names = domains()
        pairs = [pair for name in names for pair in generate(name, _PUBLIC_ROWS // len(names), seed=1)]
        return [f"{pair['mr']} {pair['text']}" for pair in pairs]
    records = islice(read_source(find_source(source)), _PUBLIC_ROWS)
    return [" ".join(map(as_text, record.values())) for _, record in records]


def _by_chance(
    truths: Sequence[Tensor], public: Sequence[Tensor], tokenizer: "PreTrainedTokenizerBase"
) -> Iterator[Finding]:
    """Of somebody who always says the samples' most frequent token, or at each place that of public text."""
    commonest = torch.cat(list(truths)).mode().values
    longest = max(map(len, truths))
    at_places = torch.stack(
        [
            torch.stack([text[place] for text in public if len(text) > place] or [commonest]).mode().values
            for place in range(longest)
        ]
    )
    for attack, guess in (
        ("the commonest token", commonest.expand(longest)),
        ("the commonest token at each place", at_places),
    ):
        guesses = [guess[: len(truth), None] for truth in truths]
        yield Finding("", 1.0, attack, _score(guesses, truths, tokenizer))


def _score(guesses: Any, truths: Sequence[Tensor], tokenizer: "PreTrainedTokenizerBase") -> Score:
    return score(guesses, truths, lambda token: str(tokenizer.decode([token])))
