"""What a model would see of a run's rows, sample by sample, with the part that is learnt; loads no weights."""

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from splitcom.config import Config
from splitcom.data import IGNORED, Sample
from splitcom.methods.run import configured
from splitcom.models import load_tokenizer
from splitcom.parties.rows import FIRST_ROWS, with_classes
from splitcom.parties.texts import encode_source, load_texts, with_chat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BINS = 24


@dataclass(frozen=True)
class Shown:
    """One sample as text in pieces, each of which is learnt or only read; of classes, the text and its class."""

    place: str
    num_tokens: int
    num_learnt: int
    pieces: list[tuple[str, bool]]


@dataclass(frozen=True)
class Lengths:
    """Tokens of the samples, and how many samples are in each of equal ranges from the shortest to the longest."""

    shortest: int
    median: float
    longest: int
    counts: list[int]


@dataclass(frozen=True)
class Preview:
    """What `preview` finds: settings as they are decided, reports, and the first samples. `clients` is a table."""

    config: Config
    samples: list[Shown]
    lengths: Lengths
    num_tokens: int
    num_learnt: int
    report: str
    clients: str


def preview(config: Config, num_samples: int, *, alone: bool = False) -> Preview:
    """Read and encode a run's rows as training would; `alone`: those of data.source, with none held out.

    Of a large source these are the first rows alone, which the report says.

    Raises DataError, ConfigError and ModelError as training would before it begins.
    """
    config = with_chat(with_classes(configured(config), FIRST_ROWS))
    if alone:
        encoded = encode_source(config, FIRST_ROWS)
        samples, report, clients = encoded.samples, str(encoded.report), ""
    else:
        texts = load_texts(config, FIRST_ROWS)
        samples, report, clients = texts.train.samples, texts.report, str(texts.partition)
    tokenizer = load_tokenizer(config.model.source)
    classes = config.data.classes
    return Preview(
        config,
        [_shown(sample, tokenizer, classes) for sample in samples[:num_samples]],
        _lengths(samples.lengths.tolist()),
        int(samples.lengths.sum()),
        sum(_num_learnt(sample) for sample in samples),
        report,
        clients,
    )


def source_of(argument: Path) -> tuple[Config, bool]:
    """The configuration that a settings file holds, or that reads a file of rows; and whether it is the latter."""
    if argument.suffix == ".toml":
        return Config.load(argument), False
    return Config().override({"data.source": str(argument)}), True


def _shown(sample: Sample, tokenizer: "PreTrainedTokenizerBase", classes: list[str] | None) -> Shown:
    ids = sample.input_ids.tolist()
    words = [token for token in ids if token >= 0]  # without a soft prompt
    if classes is not None:
        pieces = [
            (tokenizer.decode(words), False),
            (classes[int(sample.labels)], True),
        ]
        return Shown(sample.row.place, len(ids), 1, pieces)
    pieces, end, text = [], 0, ""
    for learnt, run in groupby(sample.labels.tolist(), key=lambda label: label != IGNORED):
        end += len(list(run))
        longer = tokenizer.decode(
            [token for token in ids[:end] if token >= 0], clean_up_tokenization_spaces=False
        )
        pieces.append((longer[len(text) :], learnt))
        text = longer
    return Shown(sample.row.place, len(ids), _num_learnt(sample), pieces)


def _num_learnt(sample: Sample) -> int:
    return int((sample.labels != IGNORED).sum())


def _lengths(lengths: list[int]) -> Lengths:
    low, high = min(lengths), max(lengths)
    counts = [0] * min(_BINS, high - low + 1)
    for length in lengths:
        counts[(length - low) * len(counts) // (high - low + 1)] += 1
    return Lengths(low, median(lengths), high, counts)
