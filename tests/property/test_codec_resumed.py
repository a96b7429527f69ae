"""A sender whose references were saved and loaded makes the packets of one that went on."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitcom.codecs import Along, Context, MemoryReferences, Ragged, parse
from splitcom.codecs.lattice.flow import Flow

LENGTHS = torch.tensor([70, 50])


def again(store: MemoryReferences) -> MemoryReferences:
    loaded = MemoryReferences(store.precision, store.limit_bytes)
    with TemporaryDirectory() as folder:
        store.save(path := Path(folder) / "references")
        loaded.load(path)
    return loaded


@pytest.mark.parametrize(
    "text",
    [
        "predict > klt > uniform(0.3, dead_zone=0.3) > range",
        "predict > klt(20, centre=sum, along=4) > uniform(0.3) > range",
    ],
)
@settings(deadline=None, max_examples=8)
@given(
    hidden=st.integers(2, 64),
    added=st.lists(st.integers(1, 24), min_size=2, max_size=6),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_sender_that_was_saved_and_loaded_goes_on_to_the_same_bits(
    text: str, hidden: int, added: list[int], seed: int
) -> None:
    codec, store, drawn = parse(text), MemoryReferences(), torch.Generator().manual_seed(seed)
    directions = torch.randn(hidden, hidden, generator=drawn) * torch.logspace(0, -1, hidden)[:, None]
    # tokens vary along more and more directions, which are told packet by packet
    for visit, width in enumerate(np.cumsum(added).clip(max=hidden)):
        values = torch.randn(int(LENGTHS.sum()), width, generator=drawn) @ directions[:width]
        batch, ids = Ragged(values, LENGTHS), [visit // 2, 10 + visit]
        along = Along.kept(batch, ids, codec.wants_along) if codec.wants_along else None
        loaded = again(store)
        packets = [codec.encode(batch, ids, Context(each, along=along)).packet for each in (store, loaded)]
        assert packets[0] == packets[1]
        # packets round, and so would show a difference in the last bits but rarely
        others = torch.randn(40, hidden, generator=drawn)
        here, there = (
            Flow(each.flow).basis.coordinates(others, 0.01) for each in (store, again(store)) if each.flow
        )
        assert torch.equal(here, there)
