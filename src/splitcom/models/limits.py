"""What a model can take: how long a text, and which token ids; from its configuration alone, loads no weights."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from torch import Tensor, nn
from transformers import PreTrainedConfig

from splitcom.models.load import Architecture, Labels, architecture, load_config, skeleton

# Tables of positions, learned or computed once: wpe, embed_positions, position_embeddings, pos_encoding, ...
_POSITION_TABLE = re.compile(r"(.*\.)?(wpe|\w*pos\w*)(\.weight)?")
_SPARE = 8  # rows that a table may have beyond the positions; families with an offset have 2


@dataclass(frozen=True)
class ModelLimits:
    """`positions` is a number of tokens, None if any will do.

    A text beyond them fails if there `is_table` of them; else, as with rotary positions, it is only beyond what the
    model was trained for. Token ids lie below `vocab_size`.
    """

    positions: int | None
    is_table: bool
    vocab_size: int


_LIMITS: dict[Architecture, ModelLimits] = {}


def limits_of(source: str | Path, labels: Labels = None) -> ModelLimits:
    """Return a model's limits; raises ModelError and CutError as loading would."""
    config = load_config(source, labels)
    key = architecture(config, labels)
    if key not in _LIMITS:
        _LIMITS[key] = _limits_of(config, labels)
    return _LIMITS[key]


def _limits_of(config: PreTrainedConfig, labels: Labels) -> ModelLimits:
    text = config.get_text_config()
    positions, is_table = getattr(text, "max_position_embeddings", None), False
    if getattr(getattr(text, "attn_config", None), "alibi", False):  # MPT makes its biases for a fixed length
        positions, is_table = text.max_seq_len, True
    elif positions is not None:
        usable = list(_usable_rows(skeleton(config, labels=labels), positions))
        positions, is_table = min([positions, *usable]), bool(usable)
    return ModelLimits(positions, is_table, text.vocab_size)


def _usable_rows(model: nn.Module, positions: int) -> Iterator[int]:
    """Yield, for each table of positions, the number of tokens that it serves."""
    tensors: Iterator[tuple[str, Tensor]] = chain(model.named_parameters(), model.named_buffers())
    for name, tensor in tensors:
        is_table = tensor.dim() == 2 and tensor.is_floating_point() and _POSITION_TABLE.fullmatch(name)
        if not is_table or not positions <= len(tensor) <= positions + _SPARE:
            continue
        module = model.get_submodule(name.rpartition(".")[0])
        padding = getattr(module, "padding_idx", None)
        # RoBERTa counts positions from behind the padding's number; OPT and BART keep an offset of their own.
        offset = getattr(module, "offset", 0 if padding is None else padding + 1)
        yield len(tensor) - offset
