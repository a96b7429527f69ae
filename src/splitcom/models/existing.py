"""A PEFT adapter from which a run begins: what it settles of the settings, and its tensors; knows no training."""

from pathlib import Path
from typing import Any

from peft import LoraConfig as PeftConfig
from peft import PeftConfig as AnyPeftConfig

from splitcom.errors import AdapterError

_TAKEN = {
    "rank": "r",
    "alpha": "lora_alpha",
    "targets": "target_modules",
    "modules_to_save": "modules_to_save",
    "use_rslora": "use_rslora",
    "use_dora": "use_dora",
}
_EMPTY = (
    "rank_pattern",
    "alpha_pattern",
    "layers_to_transform",
    "layer_replication",
    "lora_bias",
)
_PLAIN = (True, False, "gaussian")  # ways to begin that leave the base model as it is


def settings_of_adapter(folder: str | Path) -> dict[str, Any]:
    """The settings of `lora` that the adapter in a folder has been trained with, by name.

    Raises AdapterError if there is no LoRA, or one that parts of a model cannot go on with.
    """
    try:
        found = AnyPeftConfig.from_pretrained(str(folder))
    except Exception as error:  # peft raises many unrelated types
        raise AdapterError(
            f"lora.init = {str(folder)!r}: no PEFT adapter to be found there: {error}"
        ) from error
    if not isinstance(found, PeftConfig):
        raise AdapterError(
            f"lora.init = {str(folder)!r}: its adapter is of type {found.peft_type}; only LoRA can be "
            "trained on"
        )
    if found.task_type == "SEQ_CLS":
        raise AdapterError(
            f"lora.init = {str(folder)!r}: the adapter of a classifier, whose head is new in every run; merge it into "
            "the base model (PeftModel.merge_and_unload), and train on that"
        )
    odd = [name for name in _EMPTY if getattr(found, name, None)]
    odd += ["bias"] * (found.bias != "none") + ["init_lora_weights"] * (found.init_lora_weights not in _PLAIN)
    if odd:
        what = ", ".join(f"{name} = {getattr(found, name)!r}" for name in odd)
        raise AdapterError(
            f"lora.init = {str(folder)!r}: its adapter_config.json has {what}, which is not supported; merge it into "
            "the base model (PeftModel.merge_and_unload), and train on that"
        )
    settings = {name: getattr(found, key) for name, key in _TAKEN.items()}
    return {
        name: value if isinstance(value, str | int | float | None) else sorted(value)
        for name, value in settings.items()
    }
