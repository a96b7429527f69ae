"""LoRA on the parts of a cut model, through peft: add, read, set, switch off; knows no files.

The head of a classifier is trained whole and belongs to the adapter, as peft's `modules_to_save`.

Parts keep the whole model's names for their weights, so the joined adapter is the union of the parts' states.
"""

import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from splitcom.errors import AdapterError
from splitcom.models.anatomy import Anatomy, survey
from splitcom.models.quantised import is_quantised
from splitcom.models.split import NARROWS, SOFT_PROMPT, WIDENS, Body, Front, Part, frozen_view
from splitcom.models.whole import NAME, widened

Targets = str | list[str] | None
State = Mapping[str, Tensor]

ALL_LINEAR = "all-linear"
_EXPERT_NAMES = {"gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"}


def add_lora(
    part: Part,
    rank: int = 8,
    alpha: float = 16,
    dropout: float = 0.0,
    targets: Targets = None,
    seed: int = 0,
    head: bool = False,
    rslora: bool = False,
    dora: bool = False,
    last: tuple[int, float] | None = None,
) -> None:
    """Add LoRA to the part's blocks in place; nothing else of the part is trained. `rank` 0 adds nothing.

    With `head`, also to the LM head where the part has it. One that is tied to the embeddings is refused: its update
    could not be merged into the weights without changing the embeddings, which another part may hold.

    `targets` are names of linear modules or a regular expression, as in peft; "all-linear" takes every linear module of
    the blocks (in mixtures of experts, of their attention); None takes peft's default for the model type or, where peft
    has none, all of them. `rslora` and `dora` are peft's. The initial values depend on `seed` and a module's name in
    the whole model alone, and DoRA's on its weights: not on the cut, the order of calls or the device.
    `last` is rank and alpha of the part's last block, if they are others there.
    Raises AdapterError if no module fits, one lies outside the blocks, or there is LoRA already.
    """
    if adapter_state(part):
        raise AdapterError("the part has LoRA already; add it once per part")
    if rank == 0:
        return
    if rank < 0 or not 0.0 <= dropout < 1.0:
        raise AdapterError(f"rank = {rank} and dropout = {dropout}: expected rank >= 0 and 0 <= dropout < 1")
    chosen = _chosen_modules(part, targets) | (_head_of(part) if head and part.span.last else {})
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(chosen),
        use_rslora=rslora,
        use_dora=dora,
        **({} if last is None else _patterns(part, chosen, *last)),
    )
    config.fan_in_fan_out = any(isinstance(module, Conv1D) for module in chosen.values())
    try:
        inject_adapter_in_model(config, part.model, adapter_name=NAME)
    except ValueError as error:
        raise AdapterError(f"peft cannot add LoRA: {error}") from error
    for name, module in part.model.named_modules():
        if isinstance(module, LoraLayer):
            _initialise(module, zlib.crc32(f"{seed}:{name}".encode()))


def _patterns(
    part: Part, chosen: Mapping[str, nn.Module], rank: int, alpha: float
) -> dict[str, dict[str, float]]:
    """What tells peft rank and alpha of the modules of a part's last block."""
    inside = f"{part.anatomy.blocks}.{part.span.stop - 1}."
    names = [re.escape(name) for name in chosen if name.startswith(inside)]
    return {"rank_pattern": dict.fromkeys(names, rank), "alpha_pattern": dict.fromkeys(names, alpha)}


def check_targets(model: PreTrainedModel, targets: Targets) -> None:
    """Raise AdapterError, naming them, if some names of `targets` are those of no module of a whole model."""
    if targets is None or isinstance(targets, str):  # of an expression that fits nothing every part says so
        return
    names = [f".{name}" for name, _ in model.named_modules()]
    if unknown := [one for one in targets if not any(name.endswith(f".{one}") for name in names)]:
        linear = linear_modules(model, survey(model))
        raise AdapterError(
            f"lora.targets: {', '.join(map(repr, unknown))}: {model.config.model_type} has no module of that name; "
            f"name some of {sorted({leaf(name) for name in linear})}"
        )


def renew_head(part: Part, seed: int = 0) -> None:
    """Draw the classification head that the part holds, if it holds one, and train it whole.

    Call it after `add_lora`, which freezes all but LoRA. As with LoRA, the values depend on `seed` and names alone;
    matrices are drawn as transformers does, with the configuration's `initializer_range`. It is float32 and takes
    hidden states of 16 bits, since it is trained.
    """
    if not part.span.last:
        return
    std = getattr(part.model.config.get_text_config(), "initializer_range", 0.02)
    for head in part.anatomy.head:
        for path, module in part.model.get_submodule(head).named_modules(prefix=head):
            for name, parameter in list(module.named_parameters(recurse=False)):
                generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}:{path}.{name}".encode()))
                drawn = torch.full(parameter.shape, float(name == "weight"))  # a norm's weight, or a bias
                if drawn.dim() > 1:
                    drawn.normal_(0.0, std, generator=generator)
                module.register_parameter(name, nn.Parameter(drawn.to(parameter.device)))
            if isinstance(module, nn.Linear | nn.LayerNorm):
                module.register_forward_pre_hook(widened)


def add_prompt(front: Front, number: int, seed: int = 0) -> None:
    """Have a front learn so many vectors that stand before each text (prompt tuning, Lester et al. 2021, 2104.08691).

    Call it after `add_lora`, which freezes all but LoRA. The vectors are drawn as embeddings are, from `seed` alone.
    """
    config = front.model.config.get_text_config()
    drawn = torch.empty(number, front.anatomy.width)
    std = getattr(config, "initializer_range", 0.02)
    drawn.normal_(0.0, std, generator=torch.Generator().manual_seed(zlib.crc32(f"{seed}:prompt".encode())))
    front.model.register_parameter(SOFT_PROMPT, nn.Parameter(drawn.to(_device_of(front))))


def add_bottleneck(part: Front | Body, width: int) -> None:
    """Have a part learn its matrix at a cut that so many numbers of a token cross; at first nothing but zeros."""
    hidden_size = part.model.config.get_text_config().hidden_size
    name, shape = NARROWS, (width, hidden_size)
    if isinstance(part, Body):
        name, shape = WIDENS, (hidden_size, width)
    part.model.register_parameter(name, nn.Parameter(torch.zeros(shape, device=_device_of(part))))


@torch.no_grad()
def begin_narrow(front: Front, texts: Sequence[Tensor]) -> None:
    """Have a front with a bottleneck begin with the directions in which its hidden states are largest.

    `texts` are ids, int64 [tokens] each, of text that is nobody's.
    """
    narrows = front.model._parameters.pop(NARROWS)
    assert narrows is not None
    mode = front.training
    front.eval()
    rows = torch.cat([front(ids[None].to(_device_of(front)))[0].double().cpu() for ids in texts])
    front.train(mode)
    vectors = torch.linalg.eigh(rows.mT @ rows).eigenvectors.flip(1)[:, : len(narrows)]
    signs = vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
    narrows.copy_((vectors * signs).mT)
    front.model.register_parameter(NARROWS, narrows)


def freeze_a(part: Part) -> None:
    """Leave the matrices A of the part's LoRA as they are, so that only B learns."""
    for name, parameter in part.model.named_parameters():
        if ".lora_A." in name:
            parameter.requires_grad_(False)


def adapter_state(part: Part) -> dict[str, Tensor]:
    """Return copies of the part's trained tensors on the CPU, sorted by their names in the whole model."""
    return {name: tensor.detach().cpu().clone() for name, tensor in _trained_parameters(part).items()}


def load_adapter_state(part: Part, state: State) -> None:
    """Set the part's trained tensors; AdapterError, and no change, where names or shapes do not fit."""
    own = _trained_parameters(part)
    if missing := sorted(own.keys() ^ state.keys()):
        raise AdapterError(
            f"the adapter does not fit the part: it has {len(state)} tensors where the part has {len(own)}; "
            f"only one of them has {missing[:3]}"
        )
    for name, tensor in own.items():
        if state[name].shape != tensor.shape:
            raise AdapterError(
                f"the adapter does not fit the part: {name} has shape {list(state[name].shape)}, "
                f"expected {list(tensor.shape)}"
            )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])


def joined_state(parts: Sequence[Part]) -> dict[str, Tensor]:
    """Return the trained tensors of several parts; their names are those in the whole model, so they never clash."""
    return {name: tensor for part in parts for name, tensor in adapter_state(part).items()}


def load_joined_state(parts: Sequence[Part], state: State) -> None:
    """Set the trained tensors of several parts, which may share some; AdapterError where they do not fit."""
    shares = [{name: state[name] for name in adapter_state(part) if name in state} for part in parts]
    rest = {name: state[name] for name in state.keys() - {name for share in shares for name in share}}
    for part, share in zip(parts, [{**shares[0], **rest}, *shares[1:]], strict=True):
        load_adapter_state(part, share)


@contextmanager
def without_adapters(parts: Sequence[Part]) -> Iterator[None]:
    """Have the parts run as the base model does, for the moment."""
    layers = [layer for part in parts for layer in _layers(part)]
    try:
        for layer in layers:
            layer.enable_adapters(False)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def base_front(front: Front) -> Front:
    """A front that runs as the base model does, in fp32 and evaluation mode.

    It shares what is fp32, and the token embeddings.
    """
    base = frozen_view(front).eval()
    for layer in _layers(base):
        layer.enable_adapters(False)
    if front.dtype != torch.float32:
        words = cast(nn.Module, base.model.get_input_embeddings())
        words.register_forward_hook(lambda _, __, found: found.float())
        kept = words.original_module if isinstance(words, ModulesToSaveWrapper) else words
        for module in base.modules():
            for name, tensor in module.named_parameters(recurse=False) if module is not kept else ():
                module.register_parameter(name, nn.Parameter(tensor.float()))
    return base.requires_grad_(False)


def _layers(part: Part) -> list[LoraLayer | ModulesToSaveWrapper]:
    """What can be switched off, so that the part runs as the base model does."""
    return [module for module in part.modules() if isinstance(module, LoraLayer | ModulesToSaveWrapper)]


def _trained_parameters(part: Part) -> dict[str, nn.Parameter]:
    return {
        name.replace(f".modules_to_save.{NAME}.", ".").replace(f".{NAME}.", "."): parameter
        for name, parameter in sorted(part.model.named_parameters())
        if parameter.requires_grad
        or ".lora_A." in name  # which may be left as it was drawn, and belongs to it
    }


def linear_modules(model: nn.Module, anatomy: Anatomy) -> dict[str, nn.Linear | Conv1D]:
    """Return the blocks' linear modules by name, without those that peft would take for something else."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and name.startswith(f"{anatomy.blocks}.")
        # In mixtures of experts peft takes these names for the stacked weights of the experts of all layers.
        and not (anatomy.mixture and leaf(name) in _EXPERT_NAMES)
    }


def head_module(model: PreTrainedModel) -> dict[str, nn.Linear | Conv1D]:
    """Return the LM head by its name; nothing if it is no linear module."""
    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if module is head and isinstance(head, nn.Linear)
    }


def _head_of(part: Part) -> dict[str, nn.Linear | Conv1D]:
    if part.anatomy.tied:
        raise AdapterError(
            f"the LM head of {part.model.config.model_type} is tied to the embeddings and cannot be trained by "
            "itself; set lora.train_head = false"
        )
    return head_module(part.model)


def _chosen_modules(part: Part, targets: Targets) -> dict[str, nn.Linear | Conv1D]:
    model, model_type = part.model, part.model.config.model_type
    linear = linear_modules(model, part.anatomy)
    if targets == ALL_LINEAR:
        return {name: module for name, module in linear.items() if _is_plain(model, name)}
    wanted = targets or TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model_type)
    if wanted is None:
        return {name: module for name, module in linear.items() if _is_plain(model, name)}
    config = LoraConfig(target_modules=wanted)
    matching = [name for name, _ in model.named_modules() if check_target_module_exists(config, name)]
    stray = [name for name in matching if name not in linear] if targets else []
    chosen = {name: linear[name] for name in matching if name in linear}
    if stray or not chosen:
        named = wanted if isinstance(wanted, str) else sorted(wanted)
        raise AdapterError(
            f"lora.targets = {named!r}{'' if targets else f' (the default for {model_type})'}: "
            f"{f'{stray[:5]} are not linear modules of blocks' if stray else 'no linear module of blocks is called so'}"
            f"; name some of {sorted({leaf(name) for name in linear})}"
        )
    return chosen


def _is_plain(model: nn.Module, name: str) -> bool:
    # Subclasses may be routers, which return tuples. peft refuses the output projection of state-space mixers,
    # whose kernels read its weight directly.
    module = model.get_submodule(name)
    plain = type(module) in (nn.Linear, Conv1D) or is_quantised(module)
    return plain and not (leaf(name) == "out_proj" and hasattr(model.get_submodule(_parent(name)), "conv1d"))


def leaf(name: str) -> str:
    """The last of a module's dotted names."""
    return name.rpartition(".")[2]


def _device_of(part: Part) -> torch.device:
    return next(part.parameters()).device


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _initialise(layer: LoraLayer, seed: int) -> None:
    """Draw A as peft does by default, but from a generator of its own; B is zero already.

    As peft does for its own models, both train in float32 where the base has fewer bits.
    """
    if layer.weight.dtype != torch.float32:
        for tensors in (layer.lora_A, layer.lora_B, layer.lora_magnitude_vector):
            tensors.float()
    weight = layer.lora_A[NAME].weight
    drawn = torch.empty(weight.shape)
    nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        weight.copy_(drawn)
