"""Modules outside the blocks that are trained whole beside LoRA, as peft's `modules_to_save`; knows no files.

Embeddings are the front's, norm and LM head those of the last part; so tokens that were added to a tokenizer learn what
they mean. Each module stands beside its trained copy, which is float32 whatever the base is.
"""

from collections.abc import Sequence

import torch
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from splitcom.errors import AdapterError
from splitcom.models.anatomy import Anatomy
from splitcom.models.split import Part

NAME = "default"


def whole_modules(model: PreTrainedModel, anatomy: Anatomy, names: Sequence[str]) -> dict[str, nn.Module]:
    """The modules with weights outside the blocks that bear these names, by their full names."""
    return {
        path: module
        for path, module in model.named_modules()
        if not f"{path}.".startswith(f"{anatomy.blocks}.")
        and any(f".{path}".endswith(f".{name}") for name in names)
        and any(True for _ in module.parameters(recurse=False))
    }


def check_whole(model: PreTrainedModel, anatomy: Anatomy, names: Sequence[str]) -> int:
    """How many numbers these modules of a whole model have; AdapterError if they cannot be trained by themselves."""
    possible = whole_modules(model, anatomy, [path for path, _ in model.named_modules() if path])
    for name in names:
        if not whole_modules(model, anatomy, [name]):
            raise AdapterError(
                f"lora.modules_to_save: {name!r}: {model.config.model_type} has no such module outside its blocks; "
                f"name some of {sorted({path.rpartition('.')[2] for path in possible})}, and modules of blocks in "
                "lora.targets"
            )
    chosen = whole_modules(model, anatomy, names)
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    if anatomy.tied and any(module is end for module in chosen.values() for end in ends):
        raise AdapterError(
            f"lora.modules_to_save = {list(names)}: embeddings and LM head of this {model.config.model_type} are one "
            "matrix (tie_word_embeddings), which front and last part would train apart; save the model with "
            "tie_word_embeddings = False and a head of its own, and train that"
        )
    return sum(tensor.numel() for module in chosen.values() for tensor in module.parameters())


def train_whole(part: Part, names: Sequence[str]) -> None:
    """Train those of the modules that the part holds; call it after `add_lora`, which freezes all but LoRA."""
    model = part.model
    for path, module in whole_modules(model, part.anatomy, names).items():
        if any(f"{path}.".startswith(f"{head}.") for head in part.anatomy.head):
            raise AdapterError(
                f"lora.modules_to_save: {path!r}: the head of a classifier is trained whole anyway"
            )
        is_head = module is model.get_output_embeddings()
        wrapper = ModulesToSaveWrapper(module, NAME)
        trained = wrapper.modules_to_save[NAME]
        for name, parameter in list(trained.named_parameters(recurse=False)):
            values = parameter.detach().float().clone(memory_format=torch.contiguous_format)
            trained.register_parameter(name, nn.Parameter(values))
        trained.register_forward_pre_hook(widened)
        if not is_head:  # logits stay as exact as they are
            wrapper.register_forward_hook(_narrowed)
        model.set_submodule(path, wrapper)


def widened(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Bring what a module is called with to the dtype of its weights."""
    weight = next(module.parameters())
    return tuple(value.to(weight.dtype) if value.is_floating_point() else value for value in inputs)


def _narrowed(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    original = next(module.get_submodule("original_module").parameters())
    return output.to(original.dtype)
