"""From a configuration to encoded text: all rows of a simulation, or one client's own; knows no model part."""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from splitcom.amount import counted
from splitcom.config import Config
from splitcom.data import (
    BUILT_IN,
    GENERATED,
    HELD_OUT_DOMAIN,
    ChatTemplate,
    Encoded,
    Partition,
    Row,
    Sample,
    class_indices,
    classes_in,
    encode,
    encode_chats,
    encode_classes,
    encode_tokens,
    find_source,
    load_rows,
    partition,
    prefixed,
    recognised,
    set_aside,
    template_text,
    unknown_marks,
)
from splitcom.errors import ConfigError, DataError
from splitcom.models import ModelLimits, limits_of, load_tokenizer, soft_prompt_ids
from splitcom.seeds import derive_seed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_HELD_OUT_PART = 5  # of a client's own rows, at most
_OTHER_ROWS = "name others in data.held_out (at a client: --held-out), or none, and rows are set aside"


@dataclass(frozen=True)
class Rows:
    """Rows to train on and held-out ones, and what one should know of the two."""

    train: list[Row]
    held_out: list[Row]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Texts:
    """The data of a run: each client's training samples, and the held-out ones."""

    partition: Partition
    train: Encoded
    held_out: Encoded

    @property
    def report(self) -> str:
        """What encoding kept and cut of both, and its warnings."""
        return f"{self.train.report}\nheld out: {self.held_out.report}"


def with_classes(config: Config) -> Config:
    """The configuration with all classes of its rows, where it is to learn classes and lists none."""
    data = config.data
    if data.task == "generation" or data.labels is not None:
        return config
    load = _loader(config)
    rows = [row for source in (data.source, data.held_out) if source is not None for row in load(source)]
    return config.override({"data.labels": classes_in(rows)})


def with_chat(config: Config, *, has_rows: bool = True) -> Config:
    """The configuration with the data.format that its rows are recognised as, and its chat template's text.

    A party without rows recognises nothing: there, "auto" means columns.
    """
    data = config.data
    changes: dict[str, str] = {}
    if has_rows and data.format == "auto" and data.task == "generation":
        found = recognised(data.source, template=data.prompt, response_column=data.response)
        changes |= {"data.format": found} if found != "columns" else {}
    if data.chat_template is not None and data.chat_template not in BUILT_IN:
        changes["data.chat_template"] = template_text(data.chat_template)
    return config.override(changes)


def chat_template_of(config: Config, tokenizer: "PreTrainedTokenizerBase") -> ChatTemplate | None:
    """The template of a run's conversations, None if it learns from columns; DataError if there is none."""
    return ChatTemplate(tokenizer, config.data.chat_template) if config.data.format == "chat" else None


def check_template(config: Config) -> None:
    """Raise DataError if a run is to learn from conversations and there is no template for them."""
    chat_template_of(config, load_tokenizer(config.model.source))


def load_texts(config: Config) -> Texts:
    """Load, encode and partition; raises DataError naming file, row and column.

    Which rows train and which are held out does not depend on the run's seed, so that seeds can be compared.
    """
    rows = load_all_rows(config)
    rows = replace(rows, held_out=rows.held_out[: config.data.held_out_samples])
    train, held_out = encode_rows(rows, config)
    parts = partition(
        train.samples,
        config.federation.clients,
        kind=config.partition.kind,
        alpha=config.partition.alpha,
        column=config.partition.column,
        seed=derive_seed(config.seed, "partition"),
    )
    return Texts(parts, train, held_out)


def load_all_rows(config: Config) -> Rows:
    """The rows that train, and every row that may be held out, of which a run takes the first.

    Raises ConfigError if no row is left to evaluate on that is not trained on.
    """
    _check_held_out(config)
    data = config.data
    generated = data.source == GENERATED
    num_train = data.samples or (600 if generated else None)
    load = partial(
        _loader(config),
        domain=data.domain or HELD_OUT_DOMAIN,
        count=(num_train or 0) + data.held_out_samples,
    )
    rows = _shuffled(load(data.source), "train")
    if data.held_out is not None:
        return _apart(rows[:num_train], _shuffled(load(data.held_out), "held out"), config)
    if len(rows) <= data.held_out_samples:
        raise ConfigError(
            f"data.held_out_samples = {data.held_out_samples}: {data.source} has {counted(len(rows), 'row')} in all; "
            "lower it, or name another source in data.held_out"
        )
    train, held_out = _set_aside(rows, data.held_out_samples, config)
    return _apart(train[:num_train], held_out, config)


def _set_aside(rows: list[Row], number: int, config: Config) -> tuple[list[Row], list[Row]]:
    """The rows to train on, and the first ones held out, or whole groups of them."""
    if config.data.held_out_by is None:
        return rows[number:], rows[:number]
    return set_aside(rows, number, config.data.held_out_by)


def _loader(config: Config) -> Callable[..., list[Row]]:
    """What loads a source's rows as the configuration says."""
    data = config.data
    return partial(
        load_rows,
        template=data.prompt,
        response_column=data.response,
        format="columns" if data.format == "auto" else data.format,
    )


def _apart(train: list[Row], held_out: list[Row], config: Config) -> Rows:
    """Keep evaluation from the rows that are trained on: of a source of its own, these are left out.

    Where one source holds a row more than once, both places may get it, and a warning says so.
    """
    data = config.data
    known = {_content(row) for row in train if not row.is_empty}
    fresh = [row for row in held_out if _content(row) not in known]
    num_shared = len(held_out) - len(fresh)
    if not num_shared:
        return Rows(train, held_out)
    if data.held_out is None:
        return Rows(
            train,
            held_out,
            (
                f"held-out rows that are also trained on: {num_shared} of {len(held_out)}, since the source holds them "
                "more than once; their loss says little of new text",
            ),
        )
    if not fresh:
        raise ConfigError(
            f"{data.held_out}: all of its rows are also trained on ({data.source}), so they cannot "
            f"be held out; {_OTHER_ROWS}"
        )
    return Rows(
        train,
        fresh,
        (
            f"rows of {data.held_out} that are also trained on: {num_shared} of {len(held_out)}; they are left out of "
            "the evaluation",
        ),
    )


def _content(row: Row) -> tuple[object, ...]:
    if row.tokens is not None:
        return row.tokens.ids
    return row.prompt.strip(), row.response.strip()


def _check_held_out(config: Config) -> None:
    """Raise ConfigError if the held-out source is the one to train on, by whatever path."""
    source, held_out = config.data.source, config.data.held_out
    if held_out is None:
        return
    generated = GENERATED in (source, held_out)
    if source == held_out or (not generated and find_source(source).is_same(find_source(held_out))):
        raise ConfigError(
            f"{held_out}: these are the rows that are trained on ({source}), so they cannot be held out; {_OTHER_ROWS}"
        )


def encode_rows(rows: Rows, config: Config) -> tuple[Encoded, Encoded]:
    """Tokenise rows to train on and held-out ones, for what the run is to learn: responses or classes.

    What the model cannot take is refused here, before any of its weights are loaded: ConfigError for texts beyond its
    positions, DataError for tokens that it does not know.
    """
    (train, held_out), warnings = _encode_parts(
        {"to train on": rows.train, "held out": rows.held_out}, config
    )
    warnings = (*rows.warnings, *warnings)
    return replace(train, report=replace(train.report, warnings=warnings)), held_out


def encode_source(config: Config) -> Encoded:
    """All rows of `data.source` as they would be trained on, none held out; raises what `encode_rows` does."""
    (encoded,), warnings = _encode_parts(
        {f"of {config.data.source}": _loader(config)(config.data.source)}, config
    )
    return replace(encoded, report=replace(encoded.report, warnings=warnings))


def _encode_parts(parts: Mapping[str, list[Row]], config: Config) -> tuple[list[Encoded], tuple[str, ...]]:
    """Each part tokenised, and what one should know of all of them."""
    limits = check_max_tokens(config)
    tokenizer = load_tokenizer(config.model.source)
    template = chat_template_of(config, tokenizer)
    encoded = [_encoded(what, part, tokenizer, template, config) for what, part in parts.items()]
    samples = [sample for one in encoded for sample in one.samples]
    _check_tokens(samples, limits, tokenizer)
    marks = _warnings_of_marks(samples, config.data.prompt, template, tokenizer)
    return encoded, (*marks, *_warnings_of_length(samples, limits))


def _encoded(
    what: str,
    rows: list[Row],
    tokenizer: "PreTrainedTokenizerBase",
    template: ChatTemplate | None,
    config: Config,
) -> Encoded:
    classes, max_tokens = config.data.classes, config.data.max_tokens - config.lora.prompt_tokens
    try:
        if template is not None:
            encoded = encode_chats(rows, template, config.data.learn, max_tokens)
        elif config.data.format == "tokens":
            encoded = encode_tokens(rows, tokenizer, max_tokens)
        elif classes is None:
            encoded = encode(rows, tokenizer, max_tokens)
        else:
            encoded = encode_classes(rows, tokenizer, classes, max_tokens)
    except DataError as error:
        raise DataError(f"rows {what}: {error}") from error
    prompt = soft_prompt_ids(config.lora.prompt_tokens)
    return prefixed(encoded, prompt, of_classes=classes is not None)


def check_max_tokens(config: Config) -> ModelLimits:
    """The model's limits; raises ConfigError if `data.max_tokens` is beyond the positions that it has."""
    limits, max_tokens = limits_of(config.model.source, config.data.classes), config.data.max_tokens
    if limits.is_table and limits.positions is not None and max_tokens > limits.positions:
        raise ConfigError(
            f"data.max_tokens = {max_tokens}: the model {config.model.source} has {limits.positions} positions and "
            f"fails on longer texts; set data.max_tokens = {limits.positions} or less"
        )
    return limits


def _check_tokens(
    samples: Sequence[Sample], limits: ModelLimits, tokenizer: "PreTrainedTokenizerBase"
) -> None:
    for sample in samples:
        what = "data.prompt" if sample.row.conversation is None else "data.chat_template"
        token = int(sample.input_ids.max())
        if token >= limits.vocab_size and sample.row.tokens is not None:
            raise DataError(
                f"{sample.row.place}: the token {token}, but the model's embedding has {limits.vocab_size} rows; make "
                "token ids with the model's own tokenizer"
            )
        if token >= limits.vocab_size:
            text = tokenizer.convert_ids_to_tokens(token)
            raise DataError(
                f"{sample.row.place}: the token {text!r} has the number {token}, but the model's embedding has "
                f"{limits.vocab_size} rows, so that it does not know it; take {text!r} out of {what} and the rows"
                ", or enlarge the model with resize_token_embeddings and save it again"
            )


def _warnings_of_marks(
    samples: Sequence[Sample],
    prompt: str,
    template: ChatTemplate | None,
    tokenizer: "PreTrainedTokenizerBase",
) -> list[str]:
    """What looks like a special token and is none; and in conversations, what is one and should not be."""
    if template is None and any(sample.row.tokens is not None for sample in samples):
        return []
    if template is None:
        return [
            f"data.prompt holds {mark!r}, which is no token of this model but is read as ordinary text; correct it "
            "if it is meant as a special token"
            for mark in unknown_marks(prompt, tokenizer)
        ]
    warnings = []
    if marks := unknown_marks(template.text, tokenizer):
        warnings.append(
            f"the chat template writes {', '.join(map(repr, marks))}, which are no tokens of this model but are read "
            "as ordinary text; that works, and costs tokens"
        )
    special = tokenizer.all_special_tokens
    holding = sum(
        any(mark in message.content for message in sample.row.conversation.messages for mark in special)
        for sample in samples
        if sample.row.conversation is not None
    )
    if holding:
        warnings.append(
            f"special tokens of the model, such as {special[0]!r}, stand in the text of "
            f"{counted(holding, 'conversation')}, and are read as if the template had written them; take them out if "
            "that is not meant"
        )
    return warnings


def _warnings_of_length(samples: Sequence[Sample], limits: ModelLimits) -> list[str]:
    warnings = []
    lengths = [sample.num_tokens for sample in samples]
    if limits.positions is not None and (beyond := sum(n > limits.positions for n in lengths)):
        warnings.append(
            f"{counted(beyond, 'sample')} with more tokens than the {limits.positions} positions that the model was "
            f"trained for (the longest has {max(lengths)}); if their loss is high, lower data.max_tokens"
        )
    return warnings


def load_client_rows(config: Config) -> Rows:
    """A client's own rows, from `data.source` and `data.held_out`: to train on, in their order, and held out.

    A client holds out its share of `data.held_out_samples`, of its own source no more than a fifth. Raises DataError
    naming file, row and column, and ConfigError if nothing is left to train on.
    """
    _check_held_out(config)
    data = config.data
    load = partial(_known_rows, config)
    share = math.ceil(data.held_out_samples / config.federation.clients)
    rows = load(data.source)
    if data.held_out is not None:
        rows_apart = _apart(rows, load(data.held_out), config)
        return replace(rows_apart, held_out=rows_apart.held_out[:share])
    number = min(share, max(1, len(rows) // _HELD_OUT_PART))
    if len(rows) <= number:
        raise ConfigError(
            f"{data.source}: one row alone; bring more, or evaluate on others with --held-out FILE"
        )
    if data.held_out_by is not None:
        parts = _set_aside(rows, number, config)
    else:
        chosen = set(random.Random("splitcom/held out").sample(range(len(rows)), number))
        parts = [r for i, r in enumerate(rows) if i not in chosen], [rows[i] for i in sorted(chosen)]
    apart = _apart(*parts, config)
    told = (
        f"{data.source}: {number} of {len(rows)} rows held out for evaluation, a fifth, where this client's share of "
        f"data.held_out_samples = {data.held_out_samples} is {share}"
    )
    return apart if number == share else replace(apart, warnings=(*apart.warnings, told))


def _known_rows(config: Config, source: str) -> list[Row]:
    """All rows of a source; of classes that the run knows."""
    rows = _loader(config)(source)
    if config.data.classes is not None:
        class_indices(rows, config.data.classes)
    return rows


def _shuffled(rows: list[Row], purpose: str) -> list[Row]:
    rows = list(rows)
    random.Random(f"splitcom/{purpose}").shuffle(rows)
    return rows
