"""Frozen weights in 4 or 8 bits, by bitsandbytes as transformers has it; knows no adapter."""

from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import nn

from splitcom.errors import ConfigError

Quantization = Literal["4bit", "8bit"]


def check_quantization(kind: Quantization) -> None:
    """Raise ConfigError if weights cannot be quantised here."""
    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"model.quantization = {kind!r}: bitsandbytes is not installed: pip install 'splitcom[quant]'; or leave it "
            "out, and set model.dtype = 'bfloat16'"
        )


def quantised(kind: Quantization, dtype: torch.dtype, device: str | torch.device) -> dict[str, Any]:
    """What `from_pretrained` is told: linear modules but the head in `kind`, each on the device as it is read.

    4 bits are NF4 with scales that are quantised, too (Dettmers et al. 2023, "QLoRA", 2305.14314); 8 bits are
    LLM.int8() (2208.07339). What is computed with them is of `dtype`.
    """
    from transformers import BitsAndBytesConfig

    options: dict[str, Any] = {"load_in_8bit": True}
    if kind == "4bit":
        options = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": dtype,
        }
    return {"quantization_config": BitsAndBytesConfig(**options), "device_map": {"": device}}


def is_quantised(module: nn.Module) -> bool:
    """Whether it is one of bitsandbytes' linear modules."""
    return isinstance(module, nn.Linear) and type(module).__module__.startswith("bitsandbytes.")
