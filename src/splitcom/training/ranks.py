"""LoRA's matrices as slices by rank, so that adapters of unequal ranks meet in what they share; knows no party.

    A [rank, inputs]      ranks 4 and 8:   rows     0-3 │ 4-7        a client of rank 4 holds the first slices,
    B [outputs, rank]                      columns  0-3 │ 4-7        one of rank 8 both

An adapter of a lower rank is the beginning of one of a higher rank, as in HetLoRA (Cho et al. 2024, 2401.06432), which
fills up with zeros and averages over all clients. Here each slice is averaged over those who hold it, as in RBLA (Chen
et al. 2024, 2408.08699): zeros of clients that lack it do not make it smaller.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]


def slices_of(tensors: Tensors, ranks: Sequence[int]) -> Tensors:
    """The slices by name, each between two of these ranks, in ascending order; with one rank the tensors themselves.

    >>> {name: list(part.shape) for name, part in slices_of({"q.lora_A.weight": torch.zeros(8, 3)}, [4, 8]).items()}
    {'q.lora_A.weight:4': [4, 3], 'q.lora_A.weight:8': [4, 3]}
    """
    if len(ranks) == 1:
        return tensors
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        dim = _rank_dim(name)
        if dim is None:
            found[name] = tensor
            continue
        low = 0
        for high in ranks:
            if high <= tensor.shape[dim]:
                found[f"{name}:{high}"] = tensor.narrow(dim, low, high - low)
            low = high
    return found


def whole_of(slices: Tensors, ranks: Sequence[int]) -> dict[str, Tensor]:
    """The tensors again that `slices_of` has made these of."""
    if len(ranks) == 1:
        return dict(slices)
    found: dict[str, list[Tensor]] = {}
    for name, part in slices.items():
        found.setdefault(name.rpartition(":")[0] or name, []).append(part)
    return {name: torch.cat(parts, _rank_dim(name) or 0) for name, parts in found.items()}


def lowered(name: str, tensor: Tensor, rank: int) -> Tensor:
    """The beginning of an adapter's tensor of this name, of this rank."""
    dim = _rank_dim(name)
    return tensor if dim is None else tensor.narrow(dim, 0, min(rank, tensor.shape[dim])).contiguous()


def _rank_dim(name: str) -> int | None:
    """The dimension of a tensor that is the rank; None if it has none."""
    return 0 if ".lora_A." in name else 1 if ".lora_B." in name else None
