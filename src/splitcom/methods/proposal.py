"""A first settings file for somebody's rows: what is guessed of them, each with its reason; trains nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import tomli_w
import torch

from splitcom.amount import counted
from splitcom.config import Config
from splitcom.config.reference import reference
from splitcom.data.columns import as_text
from splitcom.data.load import column_value, recognised
from splitcom.data.sources import find_source, read_source
from splitcom.errors import ConfigError, DataError
from splitcom.methods.preview import preview
from splitcom.models import describe, load_config, load_tokenizer
from splitcom.models.description import Description
from splitcom.models.limits import limits_of
from splitcom.parties.rows import FIRST_ROWS, load_all_rows
from splitcom.parties.texts import with_chat

_LOOKED_AT = 500  # rows
_RATE_OF_NARROW, _NARROW = 0.003, 576  # measured: SmolLM2-135M and the bundled model
_ASKED = (
    "question",
    "instruction",
    "prompt",
    "input",
    "source",
    "query",
    "context",
    "mr",
    "document",
    "article",
)
_ANSWERED = ("answer", "response", "output", "completion", "target", "reply", "ref", "summary", "text")
_CLASSES = ("label", "class", "category", "sentiment", "intent", "labels")
_MOST_CLASSES = 50
_WITHOUT_TEMPLATE = "chatml"
_TOKENS_STEP, _MOST_TOKENS = 64, 1024
_CLIENTS = 3
_HELD_OUT_PART = 5  # one of so many rows, if there are few
_WEIGHTS_PART = 0.5  # of a client's memory; the rest is for activations, optimizer and references


@dataclass
class Proposal:
    """Settings by dotted key, and for some of them why they are as they are."""

    settings: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def set(self, key: str, value: Any, reason: str = "") -> None:
        """Settle one of them."""
        self.settings[key] = value
        if reason:
            self.reasons[key] = reason

    @property
    def config(self) -> Config:
        """The configuration that it makes."""
        return Config().override(self.settings, "--set")

    def toml(self, folder: Path, name: str) -> str:
        """A file of this name in this folder: each setting below what it means, and why it is so."""
        lines = [
            f"# splitcom train {name} --out runs/first     `splitcom settings` shows all that can be set",
            "",
        ]
        meanings = {row.key: row.meaning for group in reference() for row in group.settings}
        for table in dict.fromkeys(key.rpartition(".")[0] for key in self.settings):
            lines.append(f"[{table}]")
            for key, value in self.settings.items():
                if key.rpartition(".")[0] == table:
                    lines += [f"# {text}" for text in (meanings[key], self.reasons.get(key)) if text]
                    lines.append(tomli_w.dumps({key.rpartition(".")[2]: _from(folder, value)}).strip())
            lines.append("")
        return "\n".join(lines)


def _from(folder: Path, value: Any) -> Any:
    """A path as it is read from a file in `folder`."""
    if not (isinstance(value, str) and value and Path(value).expanduser().exists()):
        return value
    path, base = Path(value).expanduser().resolve(), folder.resolve()
    return str(path.relative_to(base)) if path.is_relative_to(base) else str(path)


def propose(
    source: str,
    model: str,
    *,
    clients: int | None = None,
    by_column: str | None = None,
    labels_stay: bool = False,
    memory_gb: float | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Proposal:
    """Look at the first rows of `source` and at the model's shape, and settle what a first run needs.

    Args:
        source: a file, a folder, or a data set on the hub.
        model: "bundled", a folder, or a name on the hub.
        clients: in a simulation, or that a server waits for; None: three, or as many as there are rows to train on.
        by_column: the column whose values are clients; None deals rows out at random.
        labels_stay: the U-shape.
        memory_gb: of a client, in 10^9 bytes; the cut is then as deep as its weights fit, to half of the blocks.
        changes: settings by dotted key, which are not guessed.

    Raises:
        DataError: rows cannot be read, or their columns not be guessed.
        ConfigError: no cut fits into the memory, or there are too few rows for what is asked for.
        ModelError: the model cannot be read.
    """
    found, changes, records = Proposal(), changes or {}, _first_rows(source)
    found.set("model.source", model)
    _set_cut(found, model, labels_stay, memory_gb)
    found.set("data.source", source)
    if not {"data.prompt", "data.response"} <= changes.keys():
        _set_columns(found, source, records, model)
    found.settings |= {key: value for key, value in changes.items() if key.startswith("data.")}
    num_values = 0 if by_column is None else _num_values(by_column, source, records)
    _set_sizes(found, model, len(records))
    _set_clients(found, source, changes.get("federation.clients", clients), by_column, num_values)
    found.set("training.rounds", found.config.training.rounds)
    _set_rate(found, model)
    found.settings |= changes
    return found


def how_to_read(source: str, model: str) -> dict[str, Any]:
    """The settings that read rows, guessed as `propose` does, by dotted key; raises DataError as it does."""
    found = Proposal()
    _set_columns(found, source, _first_rows(source), model)
    return found.settings


def _first_rows(source: str) -> list[Mapping[str, Any]]:
    records = [record for _, record in islice(read_source(find_source(source)), _LOOKED_AT)]
    if not records:
        raise DataError(f"{source}: no rows; expected at least one")
    return records


def _num_values(column: str, source: str, records: Sequence[Mapping[str, Any]]) -> int:
    """How many values a column has; raises DataError if there is no such column."""
    if not any(column in record for record in records):
        found = ", ".join(map(str, records[0]))
        raise DataError(f"{source}: no column {column!r} (asked for by --by); found: {found}")
    return len({as_text(record.get(column)).strip() for record in records})


def _set_clients(
    found: Proposal, source: str, asked: int | None, by_column: str | None, num_values: int
) -> None:
    """How many clients there are, no more than a run has rows for; raises ConfigError if more are asked for."""
    train = load_all_rows(with_chat(found.config), FIRST_ROWS).train
    most, reason = len(train), f"{source} has {counted(len(train), 'row')} to train on"
    if num_values > most:
        raise ConfigError(
            f"--by {by_column}: it has {counted(num_values, 'value')}, each of which would be a client, and {reason}; "
            "name a column with fewer values, or bring more rows"
        )
    if by_column is not None:
        most = len({column_value(row, by_column).strip() for row in train})
        reason = f"{by_column} has {counted(most, 'value')} in the rows to train on"
    proposed = min(_CLIENTS, most) if by_column is None else most
    found.set("federation.clients", proposed if asked is None else asked, reason if proposed == most else "")
    if (number := found.config.federation.clients) > most:
        raise ConfigError(
            f"--clients {number}: {reason}, and each client needs one; take {most} or fewer, or bring more rows"
        )
    if by_column is not None:
        found.set("partition.kind", "column")
        found.set("partition.column", by_column)


def _set_cut(found: Proposal, model: str, labels_stay: bool, memory_gb: float | None) -> None:
    tail, dtype = int(labels_stay), getattr(torch, Config().model.dtype)
    shallow = describe(model, cut=1, tail_blocks=tail, dtype=dtype)
    cut = max(1, min(2, shallow.num_blocks - 1 - tail))
    reason = f"the model has {counted(shallow.num_blocks, 'block')}"
    if memory_gb is not None:
        room, first = memory_gb * 1e9 * _WEIGHTS_PART, _client_bytes(shallow)
        if first > room:
            raise ConfigError(
                f"a client with {memory_gb:g} GB cannot hold a front of one block of {model}: its weights alone are "
                f"{first / 1e9:.2f} GB, and half of the memory is for the rest; take a smaller model, or more memory"
            )
        block = _client_bytes(describe(model, cut=cut, tail_blocks=tail, dtype=dtype)) - first
        cut = min(1 + int((room - first) / block), shallow.num_blocks // 2) if block else cut
        size = first + (cut - 1) * block
        reason += f"; the client's weights are then {size / 1e9:.2f} of its {memory_gb:g} GB"
    found.set("model.cut", cut, reason)
    if labels_stay:
        found.set("model.tail_blocks", tail, "labels do not leave the client, and twice as much is sent")


def _client_bytes(found: Description) -> int:
    return sum(part.weight_bytes for part in found.parts if part.name != "body")


def _set_columns(found: Proposal, source: str, records: Sequence[Mapping[str, Any]], model: str) -> None:
    kind = recognised(source, template=Config().data.prompt, response_column=Config().data.response)
    if kind == "tokens":
        found.set("data.format", "tokens", "the first row has token ids")
        return
    if kind == "chat":
        found.set("data.format", "chat", "the first row is a conversation")
        if load_tokenizer(model).chat_template is None:
            reason = f"{model} has none of its own; `splitcom data` shows what the text looks like"
            found.set("data.chat_template", _WITHOUT_TEMPLATE, reason)
        return
    columns = [str(column) for column in records[0]]
    texts = [column for column in columns if any(as_text(record.get(column)).strip() for record in records)]
    if _set_classes(found, records, texts):
        return
    if len(texts) == 1:
        found.set("data.prompt", "", "the rows have one column of text: the model learns all of it")
        found.set("data.response", texts[0])
        return
    asked, answered = _named(texts, _ASKED), _named(texts, _ANSWERED)
    if len(texts) == 2 and (asked is None or answered in (None, asked)):
        asked = asked or next(column for column in texts if column != answered)
        answered = next(column for column in texts if column != asked)
    if asked is None or answered is None or asked == answered:
        raise DataError(
            f"{source}: cannot tell which of the columns {', '.join(columns)} is asked and which is answered; give "
            'both, such as --set data.prompt="{question} =>" --set data.response=answer'
        )
    found.set("data.prompt", f"{{{asked}}} =>", "what is asked, and a mark after which the response begins")
    found.set("data.response", answered)


def _set_classes(found: Proposal, records: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> bool:
    """Whether the rows have a column of few labels, which is then what is learnt."""
    labels = _named(texts, _CLASSES)
    if labels is None or len(texts) < 2:
        return False
    classes = {as_text(record.get(labels)).strip() for record in records}
    if not 2 <= len(classes) <= min(_MOST_CLASSES, len(records) // 2):
        return False
    text = _named(texts, _ASKED) or next(column for column in texts if column != labels)
    found.set("data.task", "classification", f"{labels} has {len(classes)} values in the first rows")
    found.set("data.prompt", f"{{{text}}}")
    found.set("data.response", labels)
    return True


def _named(columns: Sequence[str], names: Sequence[str]) -> str | None:
    lower = {column.lower(): column for column in columns}
    return next((lower[name] for name in names if name in lower), None)


def _set_sizes(found: Proposal, model: str, num_rows: int) -> None:
    held_out = num_rows // _HELD_OUT_PART
    if num_rows == 1 and "data.held_out" not in found.settings:
        raise ConfigError(
            f"{found.config.data.source}: one row alone, and a run needs one to train on and one to evaluate on; bring "
            "more, or name others with --set data.held_out=FILE"
        )
    if "data.held_out_samples" not in found.settings and held_out < Config().data.held_out_samples:
        found.set("data.held_out_samples", max(1, held_out), f"a fifth of the {num_rows} rows")

    limit = min(limits_of(model).positions or _MOST_TOKENS, _MOST_TOKENS)
    looked_at = found.config.override({"data.max_tokens": limit, "data.samples": num_rows})
    lengths = preview(looked_at, 0, alone=True).lengths
    tokens = min(limit, -(-lengths.longest // _TOKENS_STEP) * _TOKENS_STEP)
    found.set("data.max_tokens", tokens, f"the longest of {num_rows:,} rows has {lengths.longest:,} tokens")


def _set_rate(found: Proposal, model: str) -> None:
    default, width = found.config.training.lr, load_config(model).get_text_config().hidden_size
    if width <= _NARROW:
        reason = f"at the default, {default:g}, a model of width {width} learns little in few epochs"
        found.set("training.lr", _RATE_OF_NARROW, reason)
    else:
        found.set("training.lr", default)


def write_proposal(proposal: Proposal, path: Path) -> None:
    """Write the file; raises ConfigError if it is there already."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(proposal.toml(path.absolute().parent, path.name))
    except FileExistsError as error:
        raise ConfigError(f"{path} is there already; name another with --out, or move it away") from error
