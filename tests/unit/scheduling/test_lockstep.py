"""Everybody waits for everybody: which clients step together, and when a round is over."""

import pytest

from splitcom.scheduling import Lockstep, scheduling_of
from splitcom.server.conversations import Rejoined

from .clients import World, settings


def test_every_step_is_taken_by_all_who_have_a_batch_whatever_their_speed():
    world = World({"a": 1.0, "b": 50.0, "c": 0.1}, settings(3), {"a": 12, "b": 5, "c": 1})
    assert scheduling_of(world.config) is Lockstep
    world.made(Lockstep).train(1)
    # three, two and one batches; progress is that of the middle of each step of the first of two rounds
    assert world.steps == [
        ("abc", (1, 0), 3, round(1 / 12, 4)),
        ("ab", (1, 1), 3, 0.25),
        ("a", (1, 2), 3, round(5 / 12, 4)),
    ]
    assert world.adapter.merged == [["a", "b", "c"]]
    assert world.ready == ["a", "b", "c"] and all(state.task is None for state in world.states.values())


def test_the_second_round_begins_from_what_the_first_has_made():
    world = World({"a": 1.0, "b": 2.0}, settings(2))
    lockstep = world.made(Lockstep)
    for index in (1, 2):
        lockstep.train(index)
        lockstep.settle(index, is_last=index == 2)
    assert world.begun == [("a", 1, 1, 0), ("b", 1, 1, 0), ("a", 2, 2, 0), ("b", 2, 2, 0)]
    assert [step[1] for step in world.steps] == [(1, 0), (1, 1), (2, 0), (2, 1)]


def test_who_is_lost_has_no_part_in_the_mean_and_the_round_goes_on_with_enough_others():
    world = World({"a": 1.0, "b": 1.0, "c": 1.0}, settings(3, min_clients=2))
    world.leaving = {"b"}
    world.made(Lockstep).train(1)
    assert [step[0] for step in world.steps] == ["ac", "ac"] and world.adapter.merged == [["a", "c"]]


def test_a_round_that_too_few_end_is_done_again():
    world = World({"a": 1.0, "b": 1.0, "c": 1.0}, settings(3, min_clients=2))
    world.leaving = {"a", "b"}
    with pytest.raises(Rejoined, match=r"round 1 ended with 1 client$"):
        world.made(Lockstep).train(1)
    assert not world.adapter.merged
