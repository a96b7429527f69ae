"""What each part of a model weighs, and whether two parties hold the same base model; loads no weights."""

import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from splitcom.models.adapters import Targets, add_lora
from splitcom.models.anatomy import Anatomy, survey
from splitcom.models.checkpoint import stored_tensors
from splitcom.models.load import Labels, failing_as_model_error, load_config, resolve, skeleton
from splitcom.models.split import PARTS, spans, strip

# Settings that say how to load a model rather than what it computes.
_VOLATILE = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache"}
_SAMPLES = 64


@dataclass(frozen=True)
class PartSize:
    """What one part holds."""

    name: str
    blocks: int
    parameters: int
    weight_bytes: int
    lora_parameters: int


@dataclass(frozen=True)
class Description:
    """A model and its parts under one cut."""

    model_type: str
    num_blocks: int
    hidden_size: int
    vocab_size: int
    dtype: torch.dtype
    tied_embeddings: bool
    head_parameters: int  # vocabulary or classes x hidden, held by whoever has the last blocks
    parameters: int
    parts: tuple[PartSize, ...]


def describe(
    source: str | Path,
    cut: int = 2,
    tail_blocks: int = 0,
    rank: int = 8,
    targets: Targets = None,
    dtype: torch.dtype | None = None,
    head: bool = False,
    labels: Labels = None,
) -> Description:
    """Measure the parts from the configuration alone; `dtype` None takes the configuration's.

    With tied embeddings a part that holds the LM head counts its copy of them, and so the parts add up to more
    than the model. Raises CutError and AdapterError as cutting and adding LoRA would.
    """
    config = load_config(source, labels)
    dtype = dtype or getattr(config, "dtype", None) or torch.float32
    model = skeleton(config, dtype, labels)
    anatomy = survey(model)
    parts = []
    for name, span in spans(anatomy.num_blocks, cut, tail_blocks).items():
        part = PARTS[name](strip(skeleton(config, dtype, labels), anatomy, span), anatomy, span)
        weights = list(part.parameters())
        size = sum(weight.numel() for weight in weights), sum(weight.nbytes for weight in weights)
        add_lora(part, rank, targets=targets, head=head)
        trained = sum(weight.numel() for weight in part.parameters() if weight.requires_grad)
        parts.append(PartSize(name, span.stop - span.start, *size, trained))
    text = config.get_text_config()
    return Description(
        model_type=config.model_type,
        num_blocks=anatomy.num_blocks,
        hidden_size=text.hidden_size,
        vocab_size=text.vocab_size,
        dtype=dtype,
        tied_embeddings=anatomy.tied,
        head_parameters=_num_head_parameters(model, anatomy),
        parameters=sum(weight.numel() for weight in model.parameters()),
        parts=tuple(parts),
    )


def _num_head_parameters(model: PreTrainedModel, anatomy: Anatomy) -> int:
    lm_head = model.get_output_embeddings()
    heads = [model.get_submodule(name) for name in anatomy.head] if lm_head is None else [lm_head]
    return sum(weight.numel() for head in heads for weight in head.parameters())


def fingerprint(source: str | Path) -> str:
    """Return a SHA-256 digest that two parties share exactly if they hold the same base model.

    Covers the configuration, every tensor's name, shape and dtype, and some 64 evenly spaced values of each:
    enough to tell fine-tuned or differently initialised weights apart without reading them whole, but no
    protection against someone who changes weights on purpose. How the checkpoint is sharded does not matter; all
    shards must be there (on the hub they are fetched).
    """
    config = {k: v for k, v in load_config(source).to_dict().items() if k not in _VOLATILE}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    with failing_as_model_error(source, "weights"):
        for name, stored in sorted(stored_tensors(resolve(source)).items()):
            values = stored.every(max(1, math.prod(stored.shape) // _SAMPLES)).view(torch.uint8)
            digest.update(f"{name} {stored.shape} {stored.dtype}".encode() + values.numpy().tobytes())
    return digest.hexdigest()
