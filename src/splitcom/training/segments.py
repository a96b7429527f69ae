"""An adapter as pieces, so that a client sends one segment of it in a round; knows no codec and no message.

    tensors by name, one after the other:   │ a   a   a │ a   b   b │ b   b   c │       three segments
    pieces, flat:                            a:0         a:1 b:1     b:2 c:2

Segments are equal to one number. EcoLoRA (2506.02001): who is at place i in round t sends segment (i + t) mod N, so
that N clients cover the adapter in a round, and a client in N rounds.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]


def segment_due(place: int, round_index: int, count: int) -> int:
    """The segment that the client at this place among those of the round sends.

    >>> [[segment_due(place, round_index, 3) for place in range(3)] for round_index in (1, 2)]
    [[1, 2, 0], [2, 0, 1]]
    """
    return (place + round_index) % count


def segment_of(tensors: Tensors, index: int, count: int) -> Tensors:
    """The pieces of one of `count` segments; of one alone the tensors themselves, under their own names."""
    if count == 1:
        return tensors
    total = sum(tensor.numel() for tensor in tensors.values())
    low, high = index * total // count, (index + 1) * total // count
    pieces, start = {}, 0
    for name in sorted(tensors):
        flat = tensors[name].reshape(-1)
        piece = flat[max(low - start, 0) : max(high - start, 0)]
        start += len(flat)
        if len(piece):
            pieces[f"{name}:{index}"] = piece
    return pieces


def segments_of(tensors: Tensors, count: int) -> Tensors:
    """The pieces of all segments."""
    if count == 1:
        return tensors
    return {
        name: piece for index in range(count) for name, piece in segment_of(tensors, index, count).items()
    }


def whole_of(pieces: Tensors, like: Tensors, count: int) -> dict[str, Tensor]:
    """The tensors again, of all pieces, with the names and shapes of `like`."""
    if count == 1:
        return dict(pieces)
    return {
        name: torch.cat([pieces[key] for index in range(count) if (key := f"{name}:{index}") in pieces]).view(
            tensor.shape
        )
        for name, tensor in like.items()
    }
