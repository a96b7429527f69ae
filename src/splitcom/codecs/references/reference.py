"""What is known of a reference without reading it, and the precisions that values can be kept in."""

from typing import Literal, NamedTuple, TypeAlias

import torch

Precision: TypeAlias = Literal["fp32", "fp16", "bf16"]

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Reference(NamedTuple):
    """What is known of a stored reference without reading it."""

    length: int
    """Tokens."""
    version: int
    """Counts the times this sample was sent; 1 where it was sent without use of an older reference."""
    checksum: int
    """CRC-32 of its bytes in the store's precision."""
