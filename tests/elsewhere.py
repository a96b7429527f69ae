"""Tensors that lie on a CUDA device as far as Python can tell, for machines without one.

Their numbers are on the CPU, so that results are real. What a driver would refuse is refused: tensors of two devices in
one operation, and numpy for a tensor that has not been fetched. What is fetched is counted, since it waits for the
device.
"""

from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map, tree_map_only

_GENERATOR = torch.Generator  # no function, and so not seen by a mode
CUDA = torch.device("cuda:0")
_READS = {Tensor.cpu, Tensor.item, Tensor.tolist, Tensor.__float__, Tensor.__bool__, Tensor.__int__}
_MOVES = {Tensor.to, Tensor.type_as, Tensor.copy_, Tensor.__setitem__}


class _There(Tensor):
    """A tensor on the device: `held` has its numbers."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "_There":
        made = Tensor._make_wrapper_subclass(cls, held.size(), dtype=held.dtype, device="meta")
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func}: outside of `Elsewhere`, or by a way that it does not see")


class Elsewhere(TorchFunctionMode):
    """While it is entered, there is a device: `put` gives tensors on it, `fetched` counts the bytes of each fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[int] = []

    def __enter__(self) -> "Elsewhere":
        self._generators = patch("torch.Generator", lambda device=None: _GENERATOR())
        self._generators.start()
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._generators.stop()

    def put(self, tensor: Tensor) -> Tensor:
        """A copy of a tensor on the device."""
        return _There(tensor.clone())

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
        there = [tensor for tensor in tensors if isinstance(tensor, _There)]
        if func == Tensor.device.__get__:  # made anew whenever it is asked for
            return CUDA if there else func(*args)
        if there and func in {Tensor.numpy, Tensor.__array__}:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
        if there and func in _READS:
            self.fetched.append(args[0].held.nbytes)
            return func(args[0].held, *args[1:], **kwargs)
        lands = bool(there)
        if func is Tensor.to:
            lands = _target(args, kwargs, there=isinstance(args[0], _There))
            if not lands and isinstance(args[0], _There):
                self.fetched.append(args[0].held.nbytes)
        elif kwargs.get("device") is not None:
            lands = torch.device(kwargs["device"]).type == "cuda"
        strangers = [tensor for tensor in tensors if not isinstance(tensor, _There) and tensor.dim()]
        if there and strangers and func not in _MOVES:
            raise RuntimeError(f"{func.__name__}: tensors on cuda:0 and on the CPU")
        # what is changed in place is the same tensor afterwards
        owners = {id(tensor.held): tensor for tensor in there}
        args, kwargs = tree_map(_held, args), tree_map(_held, kwargs)
        result = func(*args, **kwargs)
        if not lands:
            return result
        return tree_map_only(
            Tensor, lambda one: owners[id(one)] if id(one) in owners else _There(one), result
        )


def _held(value: Any) -> Any:
    """A tensor's numbers; the CPU in place of the device."""
    if isinstance(value, _There):
        return value.held
    return torch.device("cpu") if isinstance(value, torch.device) or value == "cuda:0" else value


def _target(args: Any, kwargs: Any, *, there: bool) -> bool:
    """Whether what `to` gives is on the device."""
    for wanted in (*args[1:], *kwargs.values()):
        if isinstance(wanted, Tensor):
            return isinstance(wanted, _There)
        if isinstance(wanted, str | torch.device):
            return torch.device(wanted).type == "cuda"
    return there
