"""The precisions that values are kept and sent in, and the largest magnitude there may be. Knows no codec."""

from typing import Literal, TypeAlias

import torch
from torch import Tensor

Precision: TypeAlias = Literal["fp32", "fp16", "bf16"]

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

MAX_MAGNITUDE = 1e34
"""Largest magnitude a codec takes or a reference keeps: leaves room for sums and differences in fp32."""


def to_dtype(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Round fp32 `values` to `dtype`; what `dtype` or a codec cannot hold becomes the largest it can.

    A finite input gives a finite output. fp32 comes back as it is.
    """
    if dtype == torch.float32:
        return values
    limit = min(torch.finfo(dtype).max, MAX_MAGNITUDE)
    return values.clamp(-limit, limit).to(dtype)
