"""What a client's training leaves behind, and what is forgotten."""

from splitcom.codecs import MemoryReferences, parse
from splitcom.server.state import ClientStates, Task
from splitcom.training.channel import Channel


def channels_of(name):
    return {"activation_up": Channel("activation_up", name, parse("delta"), MemoryReferences(), 0)}


def states():
    return ClientStates(channels_of)


def test_who_begins_anew_shares_nothing_but_its_counts_stay():
    found = states()
    state = found["a"]
    state.adapter_version, state.acknowledged_round, state.task = 3, 2, Task(3, 3)
    state.labels[7] = None
    state.counts.steps = 5
    found.begin_anew("a")
    assert (state.adapter_version, state.acknowledged_round, state.task) == (0, None, None)
    assert not state.labels and state.counts.steps == 5
    state.forget_counts()
    assert state.counts.steps == 0


def test_versions_are_in_use_as_long_as_a_round_began_from_them():
    found = states()
    found["a"].task, found["b"].task, found["c"].task = Task(1, 4), Task(2, 6), None
    assert found.versions_in_use() == {4, 6}
    found.forget_tasks()
    assert found.versions_in_use() == set()
