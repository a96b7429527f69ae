"""When a round of chunks ends: by the threshold that the last round has left, and at the most chunks."""

import numpy as np
import pytest
import torch

from splitcom.aggregation import Update
from splitcom.config import Config
from splitcom.scheduling.chunks import Chunks
from splitcom.server.state import ClientStates
from splitcom.state import State

NAMES = ["a", "b"]


def made(**variance):
    config = Config(federation={"variance": {"estimate": "naive", **variance}})
    return Chunks(config, ClientStates(lambda name: {}))


def tensors(*numbers):
    return {"x": torch.tensor(numbers)}


def norms(square):
    """Two clients of this squared norm."""
    return [np.array([square])] * 2


def end(chunks, *others):
    chunks.end([Update({"x": torch.tensor(numbers)}, 1, 1) for numbers in others])


def test_the_first_round_has_one_chunk_and_the_next_as_many_as_the_threshold_allows():
    chunks = made()
    chunks.begin(1, 1, tensors(1.0, 1.0), NAMES)
    assert not chunks.goes_on(norms(1e-9))
    end(chunks, [2.0, 1.0], [0.0, 1.0])  # a variance of 1, in one chunk
    assert chunks.threshold == 5.0  # E_max = 10 with one local epoch
    chunks.begin(2, 2, tensors(1.0, 1.0), NAMES)
    assert [chunks.goes_on(norms(square)) for square in (1.0, 5.0, 5.1)] == [True, True, False]
    end(chunks, [1.0, 4.0], [1.0, -2.0])  # one of 9, in three chunks
    assert chunks.threshold == pytest.approx(5 / 3 * 9)


def test_a_round_has_no_more_chunks_than_the_most():
    chunks = made(max_chunks=3)
    chunks.load_state(State(tensors(0.0), {"threshold": 9.0, "version": 1}))
    chunks.begin(2, 2, tensors(0.0), NAMES)
    assert [chunks.goes_on(norms(1.0)) for _ in range(3)] == [True, True, False]


def test_what_it_knows_outlives_an_interruption_and_an_empty_state_is_the_beginning():
    chunks, other = made(), made()
    chunks.begin(1, 1, tensors(1.0), NAMES)
    chunks.goes_on(norms(1.0))
    end(chunks, [2.0], [0.0])
    other.load_state(chunks.state())
    assert other.threshold == chunks.threshold == 5.0
    assert torch.equal(other.state().tensors["x"], torch.tensor([1.0]))
    other.load_state(State())
    assert (other.threshold, other.state()) == (0.0, State({}, {"threshold": 0.0, "version": 0}))


def test_the_last_move_is_used_only_if_all_clients_know_it():
    chunks = made(estimate="linear")
    assert chunks.begin(1, 1, tensors(0.0, 0.0), NAMES) is False
    for name in NAMES:
        chunks._states[name].base_version = 1
    assert chunks.begin(2, 2, tensors(0.0, 2.0), NAMES) is True
    along = chunks._estimate._direction
    assert along.tolist() == [0.0, 1.0]
    for name in NAMES:
        chunks._states[name].base_version = 2
    assert chunks.begin(3, 2, tensors(0.0, 2.0), NAMES) is False  # fronts were at rest: nothing has moved
    chunks._states["b"].begin_anew()
    assert chunks.begin(3, 3, tensors(0.0, 3.0), NAMES) is False
