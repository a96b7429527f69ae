"""From a configuration to encoded text, and what is refused or said of it beforehand; knows no model part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from splitcom.amount import counted
from splitcom.config import Config
from splitcom.data import (
    BUILT_IN,
    ChatTemplate,
    Encoded,
    Partition,
    Sample,
    Samples,
    StoredRows,
    encode,
    encode_chats,
    encode_classes,
    encode_tokens,
    partition,
    prefixed,
    recognised,
    template_text,
    unknown_marks,
)
from splitcom.errors import ConfigError, DataError
from splitcom.models import ModelLimits, limits_of, load_tokenizer, soft_prompt_ids
from splitcom.parties.rows import ALL_ROWS, Look, Rows, load_all_rows, read_as_set
from splitcom.seeds import derive_seed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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


def load_texts(config: Config, look: Look = ALL_ROWS) -> Texts:
    """Load, encode and partition; raises DataError naming file, row and column.

    Which rows train and which are held out does not depend on the run's seed, so that seeds can be compared.
    """
    rows = load_all_rows(config, look)
    rows = replace(rows, held_out=rows.held_out[: config.data.held_out_samples])
    train, held_out = encode_rows(rows, config, look)
    parts = partition(
        train.samples,
        config.federation.clients,
        kind=config.partition.kind,
        alpha=config.partition.alpha,
        column=config.partition.column,
        seed=derive_seed(config.seed, "partition"),
    )
    return Texts(parts, train, held_out)


def encode_rows(rows: Rows, config: Config, look: Look = ALL_ROWS) -> tuple[Encoded, Encoded]:
    """Tokenise rows to train on and held-out ones, for what the run is to learn: responses or classes.

    What the model cannot take is refused here, before any of its weights are loaded: ConfigError for texts beyond its
    positions, DataError for tokens that it does not know.
    """
    (train, held_out), warnings = _encode_parts(
        {"to train on": rows.train, "held out": rows.held_out}, config, look
    )
    warnings = (*rows.warnings, *warnings)
    return replace(train, report=replace(train.report, warnings=warnings)), held_out


def encode_source(config: Config, look: Look = ALL_ROWS) -> Encoded:
    """All rows of `data.source` as they would be trained on, none held out; raises what `encode_rows` does."""
    source = config.data.source
    rows, warnings = look.load(read_as_set(config, source), source)
    (encoded,), more = _encode_parts({f"of {source}": rows}, config, look)
    return replace(encoded, report=replace(encoded.report, warnings=(*warnings, *more)))


def _encode_parts(
    parts: Mapping[str, StoredRows], config: Config, look: Look
) -> tuple[list[Encoded], tuple[str, ...]]:
    """Each part tokenised, and what one should know of all of them."""
    limits = check_max_tokens(config)
    tokenizer = load_tokenizer(config.model.source)
    template = chat_template_of(config, tokenizer)
    encoded = [_encoded(what, part, tokenizer, template, config, look) for what, part in parts.items()]
    for one in encoded:
        if one.largest_id >= limits.vocab_size:
            _check_tokens(one.samples, limits, tokenizer)
    marks = _warnings_of_marks([one.samples for one in encoded], config, template, tokenizer)
    lengths = np.concatenate([one.samples.lengths for one in encoded])
    return encoded, (*marks, *_warnings_of_length(lengths, limits))


def _encoded(
    what: str,
    rows: StoredRows,
    tokenizer: "PreTrainedTokenizerBase",
    template: ChatTemplate | None,
    config: Config,
    look: Look,
) -> Encoded:
    classes, max_tokens = config.data.classes, config.data.max_tokens - config.lora.prompt_tokens
    on_progress = partial(look.on_rows, f"encoding rows {what}")
    try:
        if template is not None:
            encoded = encode_chats(rows, template, config.data.learn, max_tokens, on_progress)
        elif config.data.format == "tokens":
            encoded = encode_tokens(rows, tokenizer, max_tokens, on_progress)
        elif classes is None:
            encoded = encode(rows, tokenizer, max_tokens, on_progress)
        else:
            encoded = encode_classes(rows, tokenizer, classes, max_tokens, on_progress)
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
    parts: Sequence[Samples],
    config: Config,
    template: ChatTemplate | None,
    tokenizer: "PreTrainedTokenizerBase",
) -> list[str]:
    """What looks like a special token and is none; and in conversations, what is one and should not be."""
    if config.data.format == "tokens":
        return []
    if template is None:
        return [
            f"data.prompt holds {mark!r}, which is no token of this model but is read as ordinary text; correct it "
            "if it is meant as a special token"
            for mark in unknown_marks(config.data.prompt, tokenizer)
        ]
    warnings = []
    if marks := unknown_marks(template.text, tokenizer):
        warnings.append(
            f"the chat template writes {', '.join(map(repr, marks))}, which are no tokens of this model but are read "
            "as ordinary text; that works, and costs tokens"
        )
    special = tokenizer.all_special_tokens
    conversations = (sample.row.conversation for samples in parts for sample in samples)
    holding = sum(
        any(mark in message.content for message in conversation.messages for mark in special)
        for conversation in conversations
        if conversation is not None
    )
    if holding:
        warnings.append(
            f"special tokens of the model, such as {special[0]!r}, stand in the text of "
            f"{counted(holding, 'conversation')}, and are read as if the template had written them; take them out if "
            "that is not meant"
        )
    return warnings


def _warnings_of_length(lengths: np.ndarray, limits: ModelLimits) -> list[str]:
    if limits.positions is None or not (beyond := int((lengths > limits.positions).sum())):
        return []
    return [
        f"{counted(beyond, 'sample')} with more tokens than the {limits.positions} positions that the model was "
        f"trained for (the longest has {lengths.max()}); if their loss is high, lower data.max_tokens"
    ]
