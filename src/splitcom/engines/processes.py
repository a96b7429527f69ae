"""The processes of an engine, which torchrun has started: one leads, the others do what it says; knows no model.

leader  ─ "begin" ─ "step" ─ … ─ "end" ─►  all others, over gloo: a JSON text and tensors, as safetensors
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load, save
from torch import Tensor

from splitcom.errors import RunError

_PATIENCE = timedelta(
    days=365
)  # the leader may wait for its clients for long; who has died is noticed at once
_TEXT = "order"


@dataclass(frozen=True)
class Order:
    """What all processes are to do next."""

    name: str
    said: Mapping[str, Any] = field(default_factory=dict)  # numbers and texts
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


def are_several() -> bool:
    """Whether torchrun has started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def follows() -> bool:
    """Whether another process leads this one."""
    return are_several() and os.environ.get("RANK", "0") != "0"


@contextmanager
def joined() -> Iterator[None]:
    """All processes together; when the leader leaves without an error, the others are told that it is over."""
    with noticing():
        dist.init_process_group("gloo", timeout=_PATIENCE)
    yield
    if not follows():
        tell(Order("end"))
    dist.destroy_process_group()  # not after an error: others may be gone, and so is this process soon


def tell(order: Order) -> None:
    """Have the others do something; they `hear` it."""
    text = json.dumps([order.name, order.said])
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in order.tensors.items()}
    packet = torch.frombuffer(bytearray(save(content, {_TEXT: text})), dtype=torch.uint8)
    with noticing():
        dist.broadcast(torch.tensor([len(packet)]), 0)
        dist.broadcast(packet, 0)


def hear() -> Order:
    """Wait for what the leader says next."""
    with noticing():
        size = torch.zeros(1, dtype=torch.int64)
        dist.broadcast(size, 0)
        packet = torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(packet, 0)
    content = packet.numpy().tobytes()
    length = int.from_bytes(content[:8], "little")
    name, said = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][_TEXT])
    return Order(name, said, load(content))


def sum_up(tensor: Tensor) -> Tensor:
    """The sum of what all processes have, in each of them, on the CPU."""
    total = tensor.detach().cpu().clone()
    with noticing():
        dist.all_reduce(total)
    return total


def join_up(values: Sequence[Tensor], like: Tensor) -> Tensor:
    """What all processes have, one after the other along the first dimension, in each of them, on the CPU.

    `like` has the dtype and the further dimensions, for a process that has nothing.
    """
    own = torch.cat([like[:0].cpu(), *(value.detach().cpu() for value in values)])
    with noticing():
        sizes = torch.zeros(dist.get_world_size(), dtype=torch.int64)
        sizes[dist.get_rank()] = len(own)
        dist.all_reduce(sizes)
        room = own.new_zeros(int(sizes.max()), *own.shape[1:])
        room[: len(own)] = own
        parts = [torch.empty_like(room) for _ in sizes]
        dist.all_gather(parts, room)
    return torch.cat([part[:size] for part, size in zip(parts, sizes.tolist(), strict=True)])


@contextmanager
def noticing() -> Iterator[None]:
    """Raise RunError if another process has ended."""
    try:
        yield
    except RuntimeError as error:  # torch's of a process that does not answer
        if not (isinstance(error, dist.DistError) or "gloo" in str(error) or "NCCL" in str(error)):
            raise
        raise RunError(
            f"a process of the engine has ended or cannot be reached ({str(error).splitlines()[0][:200]}); what was "
            "trained up to the last saved round is kept: start the same commands again, with --resume"
        ) from error
