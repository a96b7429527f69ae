"""The body over several devices of one machine, block after block: for memory, since one device works at a time.

cuda:0   entry ─► b2 ─► b3 ─┐
cuda:1                      └─► b4 ─► b5 ─► norm ─► head ─► loss
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from splitcom.config import Config
from splitcom.engines.local import LocalEngine
from splitcom.errors import ConfigError
from splitcom.models import Body


class PlacedEngine(LocalEngine):
    """A `LocalEngine` whose body lies on `engine.devices`."""

    begins_on_cpu = True

    @classmethod
    def check(cls, config: Config) -> None:
        """Raise ConfigError if a device is not there."""
        for device in devices_of(config):
            try:
                torch.empty(0, device=device)
            except (RuntimeError, AssertionError) as error:
                raise ConfigError(
                    f"engine.devices: {device!r}: {str(error).splitlines()[0]}; name devices that this machine has"
                ) from error

    def __init__(self, body: Body, config: Config) -> None:
        devices = devices_of(config)
        place(body, devices)
        super().__init__(body, config)
        self.device = torch.device(devices[0])


def devices_of(config: Config) -> list[str]:
    """The devices of a placed body; ConfigError if none are named and the machine has no GPU."""
    if config.engine.devices is not None:
        return config.engine.devices
    if not torch.cuda.is_available():
        raise ConfigError(
            "engine.kind = 'placed': this machine has no CUDA device; name others in engine.devices, or set "
            "engine.kind = 'local'"
        )
    return [f"cuda:{index}" for index in range(torch.cuda.device_count())]


def place(body: Body, devices: Sequence[str]) -> None:
    """Move the blocks of a body over devices in order, an even part of the bytes each; in place.

    What comes after the blocks goes to the last device, all else to the first, and so do hidden states that leave the
    body; logits stay on the last. Optimizers must be made afterwards, since parameters become others.
    """
    after = [body.model.get_submodule(name) for name in body.anatomy.after]
    units: list[nn.Module] = [*body.blocks, nn.ModuleList(after)]
    sizes = [sum(tensor.nbytes for tensor in unit.parameters()) for unit in units]
    total, before = max(sum(sizes), 1), 0
    moved: dict[
        int, tuple[Tensor, Tensor]
    ] = {}  # the old ones live until all is moved, or ids would mean others
    for unit, size in zip(units[:-1], sizes[:-1], strict=True):
        device = devices[int((before + size / 2) * len(devices) / total)]
        before += size
        _move(unit, device, moved)
        unit.register_forward_pre_hook(partial(_bring, device), with_kwargs=True)
    for module in after:
        _move(module, devices[-1], moved)
        module.register_forward_pre_hook(partial(_bring, devices[-1]), with_kwargs=True)
    _move(body, devices[0], moved)
    if not body.span.last:
        body.register_forward_hook(lambda _, inputs, out: out.to(inputs[0].device))


def _move(module: nn.Module, device: str, moved: dict[int, tuple[Tensor, Tensor]]) -> None:
    """Put what has not been moved yet on a device; tensors that modules share stay shared."""
    placed = {id(new) for _, new in moved.values()}
    for child in module.modules():
        for name, old in (*child.named_parameters(recurse=False), *child.named_buffers(recurse=False)):
            if id(old) in placed:
                continue
            if id(old) not in moved:
                new = old.detach().to(device)
                is_parameter = isinstance(old, nn.Parameter)
                moved[id(old)] = old, nn.Parameter(new, old.requires_grad) if is_parameter else new
            setattr(child, name, moved[id(old)][1])


def _bring(device: str, _: nn.Module, args: Any, kwargs: Any) -> Any:
    """Bring what a module is called with to its device."""
    return tree_map_only(Tensor, lambda tensor: tensor.to(device), (args, kwargs))
