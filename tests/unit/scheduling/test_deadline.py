"""Rounds that end without those who are late: who steps with whom, what is discarded, who is waited for after all."""

import pytest

from splitcom.scheduling import Deadline, scheduling_of
from splitcom.server.conversations import Rejoined

from .clients import World, settings


def test_the_body_steps_on_what_is_there_when_the_first_batch_is_due():
    world = World({"a": 1.0, "b": 2.0}, settings(2, deadline_s=100.0, min_clients=1))
    assert scheduling_of(world.config) is Deadline
    world.made(Deadline).train(1)
    # a is heard of after 1, 2, 3 s; b after 2, 4 and 6 s
    assert [step[:3] for step in world.steps] == [("a", (1, 0), 2), ("ab", (1, 1), 2), ("b", (1, 2), 3)]
    assert world.adapter.merged == [["a", "b"]] and world.time_s == 6.0


def test_who_is_late_is_left_out_and_told_so_when_it_is_next_heard_of():
    world = World({"a": 1.0, "b": 10.0}, settings(2, deadline_s=5.0, min_clients=1))
    deadline = world.made(Deadline)
    deadline.train(1)
    assert world.adapter.merged == [["a"]] and world.time_s == 5.0
    assert world.states["b"].task.is_abandoned and world.ready == ["a"]
    deadline.settle(1, is_last=False)
    assert world.states["b"].task is None and world.ready == ["a", "b"] and world.time_s == 10.0
    assert [step[0] for step in world.steps] == ["a", "a"]  # the late batch is not stepped on


def test_the_late_sit_out_the_next_round_unless_too_few_are_left():
    world = World({"a": 1.0, "b": 1.0, "c": 9.0}, settings(3, deadline_s=5.0, min_clients=2))
    deadline = world.made(Deadline)
    deadline.train(1)
    deadline.train(2)
    assert world.begun[3:] == [("a", 2, 2, 0), ("b", 2, 2, 0)]  # c is at its first batch still
    assert world.adapter.merged == [["a", "b"], ["a", "b"]]

    world = World({"a": 1.0, "b": 1.0, "c": 9.0}, settings(3, deadline_s=5.0, min_clients=2))
    deadline = world.made(Deadline)
    deadline.train(1)
    world.peers["b"].is_present = False
    deadline.train(2)
    assert world.begun[3:] == [("a", 2, 2, 0), ("c", 2, 2, 0)]


def test_a_deadline_passes_while_too_few_have_ended_the_round():
    world = World({"a": 1.0, "b": 10.0}, settings(2, deadline_s=5.0, min_clients=2))
    world.made(Deadline).train(1)
    assert world.adapter.merged == [["a", "b"]] and world.time_s == 30.0


def test_more_are_drawn_than_needed_and_the_first_ones_end_the_round():
    world = World(
        {"a": 3.0, "b": 1.0, "c": 2.0, "d": 4.0}, settings(4, sample=0.5, over_select=1.0, min_clients=1)
    )
    world.made(Deadline).train(1)
    assert len(world.begun) == 4 and world.adapter.merged == [["b", "c"]]


def test_a_round_that_too_few_end_is_done_again():
    world = World({"a": 1.0, "b": 1.0}, settings(2, deadline_s=50.0, min_clients=2))
    world.leaving = {"b"}
    with pytest.raises(Rejoined, match=r"round 1 ended with 1 client$"):
        world.made(Deadline).train(1)


def test_progress_is_that_of_the_client_which_is_furthest():
    world = World({"a": 1.0, "b": 2.0}, settings(2, deadline_s=100.0, min_clients=1), {"a": 8, "b": 16})
    world.made(Deadline).train(1)
    by_clients = {names: progress for names, _, _, progress in world.steps[:2]}
    assert by_clients == {"a": 0.125, "ab": 0.375}  # a's second of two; b's first of four would be 0.0625
