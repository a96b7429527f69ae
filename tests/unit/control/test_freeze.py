"""Freezing fronts: when it happens, that it lasts, and that it is kept in a checkpoint."""

import json

import pytest

from splitcom.control import Decision, Feedback, parse
from splitcom.errors import SpecError
from splitcom.state import State


def feedback(number, loss):
    return Feedback(
        round=number,
        progress=number / 10,
        train_loss=None,
        held_out_loss=loss,
        skip_ratio=0.0,
        sent_bytes=0,
        uncompressed_bytes=0,
    )


def frozen_after(text, losses):
    """What it says before the first round and after each."""
    controller = parse(text)
    said = []
    for number, loss in enumerate(losses):
        controller.observe(feedback(number, loss))
        assert controller.decide().value == (0.4 if controller.decide().frozen else 0.75)
        said.append(controller.decide().frozen)
    return said


@pytest.mark.parametrize(
    ("text", "losses", "expected"),
    [
        ("freeze(0.75, 0.4, 1, 0)", [3.0, 2.0, 1.5, 1.5, 1.0], [False, False, False, True, True]),
        ("freeze(0.75, 0.4, 2, 0)", [3.0, 2.0, 2.5, 1.9, 2.0, 1.95, 1.0], [False] * 5 + [True] * 2),
        ("freeze(0.75, 0.4, 1, 0)", [3.0, None, None, 2.0], [False] * 4),
        ("freeze(0.75, 0.4)", [3.0, 2.0, 2.1, 2.2, 2.3, 2.4, 2.2, 1.0], [False] * 6 + [True] * 2),
        ("freeze(0.75, 0.4)", [3.0, 2.0, 2.1, 2.2, 2.3, 2.4, 1.9, 2.0, 2.0], [False] * 8 + [True]),
        ("freeze(0.75, 0.4, patience=0, after=0.3)", [3.0, 2.0, 1.5, 1.0, 0.5], [False] * 3 + [True] * 2),
    ],
)
def test_fronts_are_frozen_for_good_when_the_loss_has_stopped_to_fall(text, losses, expected):
    assert frozen_after(text, losses) == expected


def test_fronts_rest_for_the_first_rounds_and_then_learn_until_they_are_frozen():
    controller = parse("freeze(0.75, 0.4, patience=0, after=0.4, rest=2)")
    said = [controller.decide()]
    for number in range(6):
        controller.observe(feedback(number, 3.0))
        said.append(controller.decide())
    assert [decision.frozen for decision in said] == [True] * 3 + [False] * 2 + [True] * 2
    assert [decision.value for decision in said] == [0.75] * 5 + [0.4] * 2
    hasty = parse("freeze(0.75, 0.4, patience=0, after=0, rest=2)")
    for number in range(3):
        hasty.observe(feedback(number, 3.0))
    assert hasty.decide() == Decision(
        threshold=0.75
    )  # what was evaluated before they learnt does not freeze them
    other = parse("freeze(0.75, 0.4, rest=3)")
    other.load_state(State(scalars={"is_frozen": False, "lowest": 3.0, "waited": 0}))  # of an earlier version
    assert not other.decide().frozen
    other.load_state(controller.state())
    assert other.decide() == controller.decide()


def test_a_new_run_begins_with_fronts_that_learn():
    controller = parse("freeze(0.75, 0.4, 1, 0)")
    for number, loss in enumerate([3.0, 3.1]):
        controller.observe(feedback(number, loss))
    assert controller.decide().frozen
    controller.observe(feedback(0, 5.0))
    assert not controller.decide().frozen


def test_a_checkpoint_keeps_how_long_it_has_waited():
    one, other = parse("freeze(0.75, 0.4, 2, 0)"), parse("freeze(0.75, 0.4, 2, 0)")
    for number, loss in enumerate([3.0, 3.1]):
        one.observe(feedback(number, loss))
    other.load_state(State(scalars=json.loads(json.dumps(one.state().scalars))))
    for controller in (one, other):
        assert not controller.decide().frozen
        controller.observe(feedback(2, 3.05))
        assert controller.decide().frozen
    other.load_state(State(scalars=json.loads(json.dumps(parse("freeze(0.75, 0.4)").state().scalars))))
    assert not other.decide().frozen


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("freeze(0.75, 0.4, patience=-1)", "patience must be"),
        ("freeze(0.75, 0.4, after=2)", "after must be"),
        ("freeze(0.75, 0.4, rest=-1)", "rest must be"),
    ],
)
def test_arguments_out_of_range_are_refused(text, message):
    with pytest.raises(SpecError, match=message):
        parse(text)
