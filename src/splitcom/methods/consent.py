"""What a server asks of a client that joins, what the client lets it ask, and what it has agreed to; no I/O.

The server's configuration says which columns are read, how a row becomes text and what leaves the machine. A client
that trusts its server only so far pins what it has agreed to beforehand; and within a run nothing of it may change.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from splitcom.amount import counted
from splitcom.config import Config
from splitcom.data import BUILT_IN, Row, read_prompt
from splitcom.data.tokens import IDS, LABELS
from splitcom.errors import RefusedError

_SHOWN = 200  # characters of the example
_DATA = (
    "task", "format", "prompt", "response", "chat_template", "learn", "labels", "held_out_by", "max_tokens",
)  # fmt: skip


@dataclass(frozen=True)
class Pins:
    """What a client allows: columns that may be read (None: any), and settings that must be as it expects them."""

    columns: frozenset[str] | None = None
    expected: Mapping[str, Any] = field(default_factory=dict)

    def check(self, config: Config) -> None:
        """Raise RefusedError if a setting is another than expected, ConfigError for settings that there are not."""
        for key, value in self.expected.items():
            if config.override({key: value}) != config:
                theirs = _at(config.model_dump(), key)
                raise RefusedError(
                    f"the server has {key} = {theirs!r}, and --expect says {value!r}; nothing has been sent"
                )

    def check_columns(self, asked: Sequence[str]) -> None:
        """Raise RefusedError if other columns would be read than may be."""
        if self.columns is not None and (others := [name for name in asked if name not in self.columns]):
            raise RefusedError(
                f"the server asks for the column {', '.join(map(repr, others))}, and --columns allows "
                f"{', '.join(sorted(self.columns))} alone; nothing has been sent"
            )


def columns_asked(config: Config) -> list[str]:
    """The columns that a server's settings name, in the order of the text; of chat, rows tell which they are."""
    data = config.data
    text: tuple[str, ...] = ()
    if data.format == "tokens":
        text = (IDS,)
    elif data.format != "chat":
        text = (*read_prompt(data.prompt).columns, data.response)
    by = () if data.held_out_by is None else (data.held_out_by,)
    return list(dict.fromkeys([*text, *by]))


def columns_read(config: Config, rows: Iterable[Row]) -> list[str]:
    """The columns of a client's rows that are read at all."""
    asked = columns_asked(config)
    if config.data.format not in ("chat", "tokens"):
        return asked
    of_chat, labels = dict[str, None](), list[str]()
    for row in rows:
        of_chat |= dict.fromkeys(() if row.conversation is None else row.conversation.columns)
        if row.tokens is not None and LABELS in row.columns:
            labels = [LABELS]
    return list(dict.fromkeys([*of_chat, *asked, *labels]))


_LEARNT = {"assistant": "the assistant's turns", "last": "the assistant's last turn", "all": "all tokens"}


def asked(config: Config, model_fingerprint: str) -> dict[str, Any]:
    """What a server asks of its clients, by setting: all that decides what leaves them."""
    tree = config.model_dump(mode="json")
    keys = (
        "method",
        *(f"data.{name}" for name in _DATA),
        *(f"model.{name}" for name in ("cut", "tail_blocks", "dtype")),
        "training.split",
        *(f"flows.{flow}.codec" for flow in config.cut_flows),
        "evaluation.codec",
        "evaluation.exact_last",
        "client.privacy",
        "client.label_noise",
    )
    return {"model": model_fingerprint, **{key: _at(tree, key) for key in keys}}


def check_unchanged(agreed: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise RefusedError if a server asks in the middle of a run for something else than at its beginning."""
    changed = [
        f"{key} was {agreed[key]!r}, is {now.get(key)!r}" for key in agreed if agreed[key] != now.get(key)
    ]
    if changed:
        raise RefusedError(
            f"the server asks for something else than when this client joined the run: {'; '.join(changed)}; nothing "
            "has been sent; if that is right, begin anew with another folder for --state"
        )


def disclosure(config: Config, train: Sequence[Row], held_out: Sequence[Row]) -> list[tuple[str, str]]:
    """What is read and what leaves, in words: pairs of a heading and a line."""
    columns = columns_read(config, chain(train, held_out))
    row, most = train[0], config.data.max_tokens
    unread = [name for name in row.columns if name not in columns]
    seen = f"; {', '.join(unread)} are not read" if unread else ""
    return [
        ("columns", f"{', '.join(columns)}{seen}"),
        ("a row", f"{_short(row.prompt)} | {_short(row.response)}"),
        *_chat_lines(config),
        ("samples", f"{len(train)} to train on, {len(held_out)} held out, {counted(most, 'token')} of each at most"),
        ("leaves", "; ".join(_leaving(config))),
        ("stays", "the rows as text" if config.training.split else "the rows, activations and labels"),
    ]  # fmt: skip


def _leaving(config: Config) -> list[str]:
    if not config.training.split:
        return ["the adapter of the whole model", "numbers of rows and tokens", "losses"]
    model, flows, noise = config.model, config.cut_flows, config.client.privacy
    leaving = [
        f"activations of every token after block {model.cut} ({flows['activation_up'].codec}"
        f"{f' under {noise}' if noise else ''}), from which text can be recovered"
    ]
    if model.tail_blocks:
        leaving.append(
            f"gradients of the last {counted(model.tail_blocks, 'block')} ({flows['gradient_up'].codec})"
        )
        leaving.append("no labels")
    else:
        what = "the class" if config.data.classes is not None else "the token ids"
        of = _LEARNT[config.data.learn] if config.data.format == "chat" else repr(config.data.response)
        of = repr(LABELS) if config.data.format == "tokens" else of
        noise = config.client.label_noise
        leaving.append(f"labels ({what} of {of}{f', in training under {noise}' if noise else ''})")
    return [*leaving, "the front's adapter", "numbers of rows and tokens"]


def _chat_lines(config: Config) -> list[tuple[str, str]]:
    if config.data.format != "chat":
        return []
    chosen = config.data.chat_template
    template = "the model's own" if chosen is None else chosen if chosen in BUILT_IN else _short(chosen)
    return [("template", template), ("learnt", _LEARNT[config.data.learn])]


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")


def _at(tree: Mapping[str, Any], key: str) -> Any:
    value: Any = tree
    for part in key.split("."):
        value = value[part]
    return value
