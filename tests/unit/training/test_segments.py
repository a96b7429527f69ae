"""Segments of an adapter: all of them are all of it, each number once; every client comes to each in turn."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from splitcom.training.segments import segment_due, segment_of, segments_of, whole_of


def adapter(sizes):
    """Tensors of these sizes, whose numbers count on."""
    start, tensors = 0, {}
    for index, size in enumerate(sizes):
        tensors[f"t{index}.lora_A.weight"] = torch.arange(start, start + size).float().view(1, size)
        start += size
    return tensors


@given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(1, 9))
def test_segments_cover_all_once_and_are_of_one_size(sizes, count):
    tensors = adapter(sizes)
    total = sum(sizes)
    parts = [segment_of(tensors, index, count) for index in range(count)]
    assert [number for part in parts for piece in part.values() for number in piece.flatten().tolist()] == [
        *map(float, range(total))
    ]
    lengths = [sum(piece.numel() for piece in part.values()) for part in parts]
    assert max(lengths) - min(lengths) <= 1
    pieces = segments_of(tensors, count)
    assert sum(len(part) for part in parts) == len(pieces)
    whole = whole_of(pieces, tensors, count)
    assert whole.keys() == tensors.keys()
    assert all(torch.equal(whole[name], tensors[name]) for name in tensors)


def test_one_segment_is_the_adapter_itself():
    tensors = adapter([3, 2])
    assert segment_of(tensors, 0, 1) is tensors
    assert whole_of(segments_of(tensors, 1), tensors, 1) == tensors


@pytest.mark.parametrize("count", [1, 3, 5])
def test_clients_cover_the_adapter_in_a_round_and_each_client_in_as_many_rounds(count):
    for round_index in (1, 2, 9):
        assert {segment_due(place, round_index, count) for place in range(count)} == set(range(count))
    for place in (0, 4):
        assert {segment_due(place, index, count) for index in range(7, 7 + count)} == set(range(count))
