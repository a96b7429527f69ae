"""What a client of a run needs of memory, from its configuration and the model's shape; loads no weights."""

import re
from collections.abc import Callable
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F

from splitcom.codecs import parse
from splitcom.codecs.lattice import LatticeCodec
from splitcom.config import Config
from splitcom.models import Part, recompute
from splitcom.models.load import load_config
from splitcom.models.memory import peak_of, shapes_of
from splitcom.parties.parts import adapt, guesses_from_labels, runs_front_alone

_MOMENTS = {"adamw": 8, "adamw_fused": 8, "adamw8bit": 2}  # bytes per number that is trained
_ADAPTER_COPIES = 4  # weights, gradients, the shared one as it came, and the one that is sent
_CODE_BYTES = 90_000_000  # of torch's libraries, read from the file in the first step
_MAPPED_AT_ONCE = 1 << 16  # bytes of a file that Linux maps around one that is read
_CODEC_COPIES = 6  # of a step's hidden states in fp32: packed, compared, coded, rebuilt
_LATTICE_PART = 1 / 7  # of what its references take as fp16, at most
_NUMBER_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


@dataclass(frozen=True)
class Need:
    """Bytes of a client at its peak, by what they are for; `libraries` is Python with all that is imported."""

    libraries: int
    weights: int
    adapter: int
    optimizer: int
    activations: int
    codec: int
    references: int

    @property
    def total(self) -> int:
        """All of it at once."""
        return sum(astuple(self))


def need_of_client(config: Config, num_samples: int, num_tokens: int) -> Need:
    """The need of a client with so many samples of so many tokens, all of which are learnt.

    On the CPU, as far as operations show it. Raises CutError and AdapterError as cutting and adding LoRA would.
    """
    weights, trained, peak, moments = 0, 0, 0, 0
    for name in _held(config):
        part = _adapted(name, config)
        weights += sum(tensor.nbytes for tensor in part.parameters() if not tensor.requires_grad)
        weights -= _left_in_file(part, config, num_samples * num_tokens)
        if part.dtype != torch.float32:  # guesses are computed by a copy
            weights += guessing_bytes(part, config)
        own = [tensor.shape for tensor in part.parameters() if tensor.requires_grad]
        trained += sum(shape.numel() for shape in own)
        moments += sum(map(_moments_of(config), own))
        peak = max(peak, peak_of(part, _step(config, num_tokens)))
    width = config.model.crossing_width(part.anatomy.width)
    hidden = config.training.batch_size * num_tokens * width
    return Need(
        libraries=_resident_bytes(),
        weights=weights,
        adapter=trained * 4 * _ADAPTER_COPIES,
        optimizer=moments,
        activations=peak,
        codec=hidden * 4 * _CODEC_COPIES if config.training.split else 0,
        references=_references(config, num_samples * num_tokens, width),
    )


def _held(config: Config) -> list[str]:
    if not config.training.split:
        return ["front", "body"]
    return ["front", "tail"] if config.model.tail_blocks else ["front"]


def _adapted(name: str, config: Config) -> Part:
    model = config.model
    dtype = getattr(torch, model.dtype)
    part = shapes_of(model.source, name, model.cut, model.tail_blocks, dtype, config.data.classes)
    adapt(part, config)
    if config.client.checkpointing:
        recompute(part)
    return part


def _left_in_file(part: Part, config: Config, num_tokens: int) -> int:
    """Bytes of the embeddings that so many tokens do not need, if these stay in the file (see `load_front`)."""
    if not runs_front_alone(config):
        return 0
    rows = cast(torch.Tensor, part.model.get_input_embeddings().weight)
    if rows.requires_grad or rows.dtype != load_config(config.model.source, config.data.classes).dtype:
        return 0
    return max(0, rows.nbytes - num_tokens * max(_MAPPED_AT_ONCE, rows[0].nbytes))


def guessing_bytes(front: Part, config: Config) -> int:
    """What a front's blocks take in fp32, if labels are run through them."""
    if not guesses_from_labels(config):
        return 0
    return sum(
        4 * one.numel() for block in front.blocks for one in block.parameters() if not one.requires_grad
    )


def _step(config: Config, num_tokens: int) -> Callable[[Part], None]:
    """A forward and a backward pass on one pass' samples."""
    rows = -(-config.training.batch_size // config.training.accumulate)

    def step(part: Part) -> None:
        mask = torch.ones(rows, num_tokens, dtype=torch.int64)
        if part.span.first:
            out = part(torch.zeros_like(mask), mask)
            if out.requires_grad:
                torch.autograd.backward(out, torch.ones_like(out))
            return
        width = config.model.crossing_width(part.anatomy.width)
        given = torch.zeros(rows, num_tokens, width, dtype=part.dtype).requires_grad_()
        at = None
        if config.data.classes is None:  # every token but the first has a label
            at = tuple(torch.meshgrid(torch.arange(rows), torch.arange(num_tokens - 1), indexing="ij"))
            at = tuple(places.reshape(-1) for places in at)
        logits = part(given, mask, at=at).float()
        torch.autograd.backward(F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64)))

    return step


def _moments_of(config: Config) -> Callable[[torch.Size], int]:
    def size(shape: torch.Size) -> int:
        if config.training.optimizer == "adafactor":
            return 4 * (sum(shape) if len(shape) > 1 else shape.numel())
        return _MOMENTS[config.training.optimizer] * shape.numel()

    return size


def _references(config: Config, num_tokens: int, width: int) -> int:
    """Of all flows at the cut, as this client keeps them."""
    if not config.training.split:
        return 0
    limit = None if config.references.limit_mb is None else int(config.references.limit_mb * 1e6)
    total = 0
    for flow in config.cut_flows.values():
        codec = parse(flow.codec)
        if not codec.needs_references:
            continue
        size = num_tokens * width * _NUMBER_BYTES[config.references.precision]
        if isinstance(codec, LatticeCodec):
            size = int(num_tokens * width * 2 * _LATTICE_PART)
        total += size if limit is None else min(size, limit)
    return total


def _resident_bytes() -> int:
    """What this process holds, which has imported what a client imports, and the code of a step; 0 if not told."""
    status = Path("/proc/self/status")
    found = re.search(r"VmRSS:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 + _CODE_BYTES if found else 0
