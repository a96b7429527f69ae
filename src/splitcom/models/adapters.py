"""LoRA on the parts of a cut model, through peft: add, read, write, export as one standard adapter, merge.

The head of a classifier is trained whole and belongs to the adapter, as peft's `modules_to_save`.

Parts keep the whole model's names for their weights, so the joined adapter is the union of the parts' states.
"""

import math
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from splitcom.errors import AdapterError
from splitcom.models.anatomy import Anatomy, survey
from splitcom.models.load import Labels, load_config, load_model, load_tokenizer, quiet, resolve, skeleton
from splitcom.models.split import Part

Targets = str | list[str] | None
State = Mapping[str, Tensor]

_NAME = "default"
_EXPERT_NAMES = {"gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"}


def add_lora(
    part: Part,
    rank: int = 8,
    alpha: float = 16,
    dropout: float = 0.0,
    targets: Targets = None,
    seed: int = 0,
    head: bool = False,
) -> None:
    """Add LoRA to the part's blocks in place; nothing else of the part is trained. `rank` 0 adds nothing.

    With `head`, also to the LM head where the part has it. One that is tied to the embeddings is refused: its update
    could not be merged into the weights without changing the embeddings, which another part may hold.

    `targets` are names of linear modules or a regular expression, as in peft; None takes peft's default for
    the model type or, where peft has none, every linear module of the blocks (in mixtures of experts, of their
    attention). The initial values depend on `seed` and a module's name in the whole model alone: not on the
    cut, the order of calls or the device.
    Raises AdapterError where no module fits, one lies outside the blocks, or there is LoRA already.
    """
    if adapter_state(part):
        raise AdapterError("the part has LoRA already; add it once per part")
    if rank == 0:
        return
    if rank < 0 or not 0.0 <= dropout < 1.0:
        raise AdapterError(f"rank = {rank} and dropout = {dropout}: expected rank >= 0 and 0 <= dropout < 1")
    chosen = _chosen_modules(part, targets)
    if head and part.span.last:
        if part.anatomy.tied:
            raise AdapterError(
                f"the LM head of {part.model.config.model_type} is tied to the embeddings and cannot be trained by "
                "itself; set lora.train_head = false"
            )
        chosen |= _head_module(part.model)
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(chosen))
    config.fan_in_fan_out = any(isinstance(module, Conv1D) for module in chosen.values())
    try:
        inject_adapter_in_model(config, part.model, adapter_name=_NAME)
    except ValueError as error:
        raise AdapterError(f"peft cannot add LoRA: {error}") from error
    for name, module in part.model.named_modules():
        if isinstance(module, LoraLayer):
            _initialise(module, zlib.crc32(f"{seed}:{name}".encode()))


def check_targets(model: PreTrainedModel, targets: Sequence[str]) -> None:
    """Raise AdapterError, naming them, if some names of `targets` are those of no module of a whole model."""
    names = [f".{name}" for name, _ in model.named_modules()]
    if unknown := [one for one in targets if not any(name.endswith(f".{one}") for name in names)]:
        linear = _linear_modules(model, survey(model))
        raise AdapterError(
            f"lora.targets: {', '.join(map(repr, unknown))}: {model.config.model_type} has no module of that name; "
            f"name some of {sorted({_leaf(name) for name in linear})}"
        )


def renew_head(part: Part, seed: int = 0) -> None:
    """Draw the classification head that the part holds, if it holds one, and train it whole.

    Call it after `add_lora`, which freezes all but LoRA. As with LoRA, the values depend on `seed` and names alone;
    matrices are drawn as transformers does, with the configuration's `initializer_range`. The dtype stays the model's.
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
                new = nn.Parameter(drawn.to(parameter.device, parameter.dtype))
                module.register_parameter(name, new)


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
    """Set the trained tensors of several parts; AdapterError where names or shapes do not fit."""
    rest = dict(state)
    shares = [{name: rest.pop(name) for name in adapter_state(part) if name in rest} for part in parts]
    for part, share in zip(parts, [{**shares[0], **rest}, *shares[1:]], strict=True):
        load_adapter_state(part, share)


def export_adapter(
    folder: str | Path,
    base: str | Path,
    front: State,
    body: State,
    tail: State | None = None,
    *,
    cut: int,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    labels: Labels = None,
) -> None:
    """Join the parts' states into one standard PEFT adapter for the whole model, a classifier's with its head.

    Any of them may be empty (a part without LoRA). `PeftModel.from_pretrained(base_model, folder)` then gives
    the split model's logits. Raises AdapterError where the states are not those of parts of `base` cut so.
    """
    model = skeleton(load_config(base, labels), labels=labels)
    anatomy = survey(model)
    state = {**front, **body, **(tail or {})}
    linear = _linear_modules(model, anatomy) | _head_module(model)
    head = {f"{name}.{own}" for name in anatomy.head for own in model.get_submodule(name).state_dict()}
    lora_state = {name: tensor for name, tensor in state.items() if name not in head}
    if missing := head - state.keys():
        raise AdapterError(f"there is no classification head in any part: {sorted(missing)} are missing")
    adapted = sorted({name.rsplit(".lora_", 1)[0] for name in lora_state})
    _check_fit(lora_state, linear, rank)
    for name in adapted:
        if not name.startswith(f"{anatomy.blocks}."):  # the head
            continue
        index = int(name.removeprefix(f"{anatomy.blocks}.").split(".")[0])
        if (index < cut) != any(key.startswith(f"{name}.") for key in front):
            raise AdapterError(f"{name}: cut = {cut} puts block {index} into the other of front and body")
    leaves = {_leaf(name) for name in adapted}
    whole = adapted == sorted(name for name in linear if _leaf(name) in leaves)
    lora = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=sorted(leaves) if whole else adapted,
        fan_in_fan_out=any(isinstance(linear[name], Conv1D) for name in adapted),
        task_type="SEQ_CLS" if anatomy.classifies else "CAUSAL_LM",
        modules_to_save=list(anatomy.head) or None,
        base_model_name_or_path=resolve(base),
        inference_mode=True,
    )
    Path(folder).mkdir(parents=True, exist_ok=True)
    lora.save_pretrained(str(folder))
    tensors = {f"base_model.model.{name}": tensor.contiguous() for name, tensor in sorted(state.items())}
    save_file(tensors, Path(folder) / "adapter_model.safetensors", metadata={"format": "pt"})


def load_adapted(base: str | Path, adapter_folder: str | Path, labels: Labels = None) -> PeftModel:
    """Load the whole base model with a PEFT adapter on it; AdapterError where the adapter does not fit."""
    model = load_model(base, labels=labels)
    try:
        with warnings.catch_warnings():
            # peft asks transformers for a property by the name that transformers has since deprecated, and only
            # warns of tensors that the folder lacks; those are found below.
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
            warnings.filterwarnings("ignore", "Found missing adapter keys", UserWarning)
            adapted = PeftModel.from_pretrained(model, str(adapter_folder))
        with safe_open(Path(adapter_folder) / "adapter_model.safetensors", framework="pt") as stored:
            own = get_peft_model_state_dict(adapted, save_embedding_layers=False).keys()
            strange = set(stored.keys()) ^ own
    except Exception as error:  # peft, safetensors and torch raise many unrelated types
        raise AdapterError(f"{adapter_folder}: no PEFT adapter that fits {base}: {error}") from error
    if strange:
        raise AdapterError(
            f"{adapter_folder}: does not fit {base}: adapter_model.safetensors and the model with the targets of "
            f"adapter_config.json differ in {len(strange)} tensors, such as {sorted(strange)[:3]}"
        )
    return adapted


def merge_adapter(
    adapter_folder: str | Path, base: str | Path, out: str | Path, labels: Labels = None
) -> None:
    """Write the base model with the adapter's updates added to its weights, and its tokenizer, to `out`."""
    merged = load_adapted(base, adapter_folder, labels).merge_and_unload()
    with quiet():
        merged.save_pretrained(str(out))
    load_tokenizer(base).save_pretrained(str(out))


def _trained_parameters(part: Part) -> dict[str, nn.Parameter]:
    return {
        name.replace(f".{_NAME}.", "."): parameter
        for name, parameter in sorted(part.model.named_parameters())
        if parameter.requires_grad
    }


def _linear_modules(model: nn.Module, anatomy: Anatomy) -> dict[str, nn.Linear | Conv1D]:
    """Return the blocks' linear modules by name, without those that peft would take for something else."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and name.startswith(f"{anatomy.blocks}.")
        # In mixtures of experts peft takes these names for the stacked weights of the experts of all layers.
        and not (anatomy.mixture and _leaf(name) in _EXPERT_NAMES)
    }


def _head_module(model: PreTrainedModel) -> dict[str, nn.Linear | Conv1D]:
    """Return the LM head by its name; nothing where it is no linear module."""
    head = model.get_output_embeddings()
    return {
        name: module
        for name, module in model.named_modules()
        if module is head and isinstance(head, nn.Linear)
    }


def _chosen_modules(part: Part, targets: Targets) -> dict[str, nn.Linear | Conv1D]:
    model, model_type = part.model, part.model.config.model_type
    linear = _linear_modules(model, part.anatomy)
    wanted = targets or TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model_type)
    if wanted is None:
        return {name: module for name, module in linear.items() if _is_plain(model, name)}
    config = LoraConfig(target_modules=wanted)
    matching = [name for name, _ in model.named_modules() if check_target_module_exists(config, name)]
    stray = [name for name in matching if name not in linear] if targets else []
    chosen = {name: linear[name] for name in matching if name in linear}
    if stray or not chosen:
        raise AdapterError(
            f"LoRA targets {sorted(wanted) if not isinstance(wanted, str) else wanted!r}"
            f"{'' if targets else f' (the default for {model_type})'}: looked for linear modules of this part's "
            f"blocks outside experts, found {f'also {stray[:5]}' if stray else 'none'}; "
            f"name some of {sorted({_leaf(name) for name in linear})}"
        )
    return chosen


def _is_plain(model: nn.Module, name: str) -> bool:
    # Subclasses may be routers, which return tuples. peft refuses the output projection of state-space mixers,
    # whose kernels read its weight directly.
    plain = type(model.get_submodule(name)) in (nn.Linear, Conv1D)
    return plain and not (_leaf(name) == "out_proj" and hasattr(model.get_submodule(_parent(name)), "conv1d"))


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _initialise(layer: LoraLayer, seed: int) -> None:
    """Draw A as peft does by default, but from a generator of its own; B is zero already.

    As peft does for its own models, both train in float32 where the base has 16 bits.
    """
    if layer.weight.dtype in (torch.float16, torch.bfloat16):
        layer.lora_A.float()
        layer.lora_B.float()
    weight = layer.lora_A[_NAME].weight
    drawn = torch.empty(weight.shape)
    nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        weight.copy_(drawn)


def _check_fit(state: State, linear: Mapping[str, nn.Linear | Conv1D], rank: int) -> None:
    if not state:
        raise AdapterError("there is no LoRA in any part: nothing to export")
    for name, tensor in state.items():
        module, _, factor = name.partition(".lora_")
        if module not in linear or factor not in ("A.weight", "B.weight"):
            raise AdapterError(f"{name} does not fit the base model: it has no linear module {module}")
        weight = linear[module].weight
        inputs, outputs = weight.shape if isinstance(linear[module], Conv1D) else weight.shape[::-1]
        expected = (rank, inputs) if factor == "A.weight" else (outputs, rank)
        if tuple(tensor.shape) != expected:
            raise AdapterError(f"{name} has shape {list(tensor.shape)}, expected {list(expected)}")
