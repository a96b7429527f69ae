"""Every client at its own pace: when updates are merged, from which version rounds begin, and what a pause keeps."""

import pytest
import torch

from splitcom.scheduling import Asynchronous, scheduling_of
from splitcom.server.conversations import Rejoined
from splitcom.server.state import Task

from .clients import World, settings


def world_of(speeds, num_samples=8, **federation):
    changes = {"scheduling": "asynchronous", "min_clients": 1, **federation}
    return World(speeds, settings(len(speeds), **changes), dict.fromkeys(speeds, num_samples))


def test_an_update_is_merged_when_it_comes_and_the_next_round_begins_from_it():
    world = world_of({"a": 1.0, "b": 4.0})
    assert scheduling_of(world.config) is Asynchronous
    world.made(Asynchronous).train(1)
    # a round takes a 3 s and b 12 s; two updates make a round of the run, and both are a's
    assert world.adapter.merged == [["a"], ["a"]] and world.time_s == 6.0
    assert world.begun == [("a", 1, 1, 0), ("b", 1, 1, 0), ("a", 2, 2, 0)]
    assert world.states["a"].counts.staleness == 0


def test_what_came_late_is_counted_as_stale():
    world = world_of({"a": 1.0, "b": 4.0})
    asynchronous = world.made(Asynchronous)
    for index in (1, 2, 3):
        asynchronous.train(index)
    assert [one for merge in world.adapter.merged for one in merge] == ["a", "a", "a", "a", "b", "a"]
    # b began from the first version, and a is always on the newest
    assert world.states["b"].counts.staleness == 4 and world.states["a"].counts.staleness == 0


def test_a_buffer_collects_updates_into_one_version():
    world = world_of({"a": 1.0, "b": 1.0, "c": 1.0}, asynchronous={"buffer": 2})
    asynchronous = world.made(Asynchronous)
    asynchronous.train(1)
    assert world.adapter.merged == [["a", "b"]]  # c's waits
    assert [item[2] for item in asynchronous.state().scalars["waiting"]] == ["c"]
    asynchronous.settle(1, is_last=True)
    assert world.adapter.merged == [["a", "b"], ["c"]]


def test_fewer_than_the_aggregator_needs_wait_through_a_pause_and_a_checkpoint():
    world = world_of({"a": 1.0, "b": 1.0, "c": 1.0}, asynchronous={"buffer": 2})
    world.adapter.min_updates = 2
    asynchronous = world.made(Asynchronous)
    asynchronous.train(1)
    asynchronous.settle(1, is_last=False)
    state = asynchronous.state()
    other = world_of({"a": 1.0, "b": 1.0, "c": 1.0}, asynchronous={"buffer": 2})
    again = other.made(Asynchronous)
    again.load_state(state)
    kept = again.state()
    assert kept.scalars == state.scalars and kept.tensors.keys() == state.tensors.keys() == {"0.x"}
    assert torch.equal(kept.tensors["0.x"], torch.ones(1))
    assert world.adapter.merged == [["a", "b"]]


def test_whoever_pauses_goes_on_with_the_step_it_was_at():
    world = world_of({"a": 1.0, "b": 1.4}, num_samples=12)
    asynchronous = world.made(Asynchronous)
    asynchronous.train(1)
    asynchronous.settle(1, is_last=False)
    paused = {name: state.task for name, state in world.states.items() if state.task is not None}
    assert paused and all(world.peers[name].is_idle for name in world.peers)
    [(name, task)] = paused.items()
    assert (name, task) == ("a", Task(2, 2, 1.5, next_step=2, num_labels=6, is_pausing=task.is_pausing))
    num_begun = len(world.begun)
    asynchronous.train(2)
    assert world.begun[num_begun] == ("a", 2, 2, 2) and world.adapter.merged[2:] == [["a"], ["b"]]


def test_a_paused_round_is_kept_by_a_checkpoint():
    world = world_of({"a": 1.0, "b": 1.4}, num_samples=12)
    asynchronous = world.made(Asynchronous)
    asynchronous.train(1)
    asynchronous.settle(1, is_last=False)
    state = asynchronous.state()
    other = world_of({"a": 1.0, "b": 1.4}, num_samples=12)
    other.states["b"].task = Task(9, 9)  # of a round that was not saved
    again = other.made(Asynchronous)
    again.load_state(state)
    assert {name: one.task for name, one in other.states.items() if one.task is not None} == {
        name: one.task for name, one in world.states.items() if one.task is not None
    }


def test_at_the_end_of_the_run_nobody_is_waited_for_longer_than_a_step():
    world = world_of({"a": 1.0, "b": 4.0})
    asynchronous = world.made(Asynchronous)
    asynchronous.train(1)
    asynchronous.settle(1, is_last=True)
    assert world.ready == ["a", "b"] and all(state.task is None for state in world.states.values())
    assert world.time_s == 8.0 and world.adapter.merged == [["a"], ["a"]]


def test_too_few_clients_are_a_round_to_be_done_again():
    world = world_of({"a": 1.0, "b": 2.0}, min_clients=2)
    world.leaving = {"b"}
    with pytest.raises(Rejoined, match="round 1 has 1 client left"):
        world.made(Asynchronous).train(1)
