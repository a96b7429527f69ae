"""Parts for parties that lack their weights: their shapes alone, or a folder that holds just what a client runs."""

from pathlib import Path

import torch
from torch import Tensor, nn

from splitcom.errors import ModelError
from splitcom.models.load import (
    Labels,
    anatomy_of,
    belongs,
    load_config,
    load_front,
    load_tail,
    load_tokenizer,
    quiet,
    skeleton,
)
from splitcom.models.split import PARTS, Front, Part, PartT, Tail, spans, strip

_NARROW = (torch.bfloat16, torch.float16)
_MAX_BLOCKS = 1_000
_HEADER_BYTES = 1 << 24


def outline(
    source: str | Path, part: type[PartT], cut: int, tail_blocks: int = 0, labels: Labels = None
) -> PartT:
    """A Front, Body or Tail without weights, to which LoRA can be added as to the real one.

    Its frozen parameters have their shapes, all elements of each being one and the same in memory.
    """
    config = load_config(source, labels)
    anatomy = anatomy_of(config, labels)
    name = next(name for name, kind in PARTS.items() if kind is part)
    span = spans(anatomy.num_blocks, cut, tail_blocks)[name]
    model = strip(skeleton(config, labels=labels), anatomy, span)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            element = torch.zeros(1, dtype=parameter.dtype).expand(parameter.shape)
            module.register_parameter(name, nn.Parameter(element, requires_grad=False))
    return part(model, anatomy, span)


def write_front(
    source: str | Path,
    cut: int,
    dtype: torch.dtype,
    folder: Path,
    tail_blocks: int = 0,
    labels: Labels = None,
) -> None:
    """Write a model folder of which `load_front` with this cut and dtype gives the same front, bit for bit.

    With `tail_blocks`, so does `load_tail`. Holds configuration, tokenizer, and the parts' tensors, in 16 bits where
    that loses nothing.
    """
    front = load_front(source, cut, dtype, labels=labels)
    tensors = front.model.state_dict()
    if tail_blocks:
        tail = load_tail(source, tail_blocks, dtype, labels=labels)
        tied = tail.model.all_tied_weights_keys  # they are tied again when loaded
        tensors |= {
            name: tensor
            for name, tensor in tail.model.state_dict().items()
            if name not in tied and not belongs(name, tail.anatomy.head)
        }
    state = {name: _narrowed(tensor) for name, tensor in tensors.items()}
    with quiet():
        front.model.save_pretrained(folder, state_dict=state)
        load_tokenizer(source).save_pretrained(folder)


def plausible_bytes(source: str | Path, cut: int, tail_blocks: int = 0, labels: Labels = None) -> int:
    """How large the weights that `write_front` writes can be, by the model's configuration alone.

    Raises ModelError if that is none, or of more blocks than any model has.
    """
    num_blocks = getattr(load_config(source, labels).get_text_config(), "num_hidden_layers", None) or 0
    if num_blocks > _MAX_BLOCKS:
        raise ModelError(f"{source}: {num_blocks} blocks, where at most {_MAX_BLOCKS} are expected")
    kinds: list[type[Part]] = [Front, Tail] if tail_blocks else [Front]
    outlines = [outline(source, kind, cut, tail_blocks, labels) for kind in kinds]
    num_values: int = sum(tensor.numel() for part in outlines for tensor in part.model.state_dict().values())
    return _HEADER_BYTES + 4 * num_values


def _narrowed(tensor: Tensor) -> Tensor:
    for dtype in _NARROW:
        if tensor.dtype == torch.float32 and torch.equal(narrow := tensor.to(dtype), tensor):
            return narrow
    return tensor
