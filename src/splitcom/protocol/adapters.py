"""How an adapter becomes bytes: safetensors, in the precision the run is configured for."""

from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from splitcom.errors import RemoteProtocolError


def pack_adapter(state: Mapping[str, torch.Tensor], dtype: torch.dtype) -> bytes:
    """Serialise an adapter; an empty one is no bytes."""
    if not state:
        return b""
    packed = save({name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in state.items()})
    return bytes(packed)


def unpack_adapter(data: bytes) -> dict[str, torch.Tensor]:
    """Read what `pack_adapter` wrote, as fp32; raises RemoteProtocolError where it is malformed."""
    if not data:
        return {}
    try:
        state = load(data)
    except (
        SafetensorError,
        ValueError,
        KeyError,
        TypeError,
        RuntimeError,
    ) as error:  # the last two: absurd shapes
        raise RemoteProtocolError(f"{len(data)} bytes that are no adapter: {error}") from error
    for name, tensor in state.items():
        if not (tensor.is_floating_point() and tensor.float().isfinite().all()):
            raise RemoteProtocolError(
                f"tensor {name!r} of an adapter ({tensor.dtype}) holds other than finite floats"
            )
    return {name: tensor.float() for name, tensor in sorted(state.items())}
