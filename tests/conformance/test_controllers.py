"""What holds of every registered controller."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitcom.control import CONTROLLERS, Decision, Feedback, parse

TEXTS = {
    "fixed": "fixed(0.97)",
    "linear": "linear(0.9, 0.995)",
    "cosine": "cosine(3.5, -1.0)",
    "bangbang": "bangbang(0.9, 0.995, band=0.02)",
    "ddpg": "ddpg(0.9, 0.995, warmup=2, updates=1)",
    "rate": "rate(1.5, 0.5, 8.0)",
    "freeze": "freeze(0.9, 0.99, patience=1, after=0.25)",
}
ROUNDS = 8


@st.composite
def runs(draw):
    """The feedback of a whole run, round 0 included."""
    loss = st.none() | st.floats(0.0, 50.0) | st.floats(0.0, 5000.0)  # also of a training that diverges
    losses = draw(st.lists(loss, min_size=ROUNDS + 1, max_size=ROUNDS + 1))
    skips = draw(st.lists(st.floats(0.0, 1.0), min_size=ROUNDS + 1, max_size=ROUNDS + 1))
    return [
        Feedback(
            round=number,
            progress=number / ROUNDS,
            train_loss=None if number == 0 else 2.0,
            held_out_loss=loss,
            skip_ratio=skip if number else 0.0,
            sent_bytes=int(1000 * (1 - skip)) if number else 0,
            uncompressed_bytes=1000 if number else 0,
        )
        for number, (loss, skip) in enumerate(zip(losses, skips, strict=True))
    ]


def decisions(controller, run):
    return [(controller.observe(feedback), controller.decide())[1] for feedback in run]


def test_every_controller_is_here():
    assert TEXTS.keys() == CONTROLLERS.keys()


@pytest.mark.parametrize("text", TEXTS.values())
def test_the_canonical_text_reads_back(text):
    assert str(parse(text)) == text


@pytest.mark.parametrize("knob", ["threshold", "step"])
@pytest.mark.parametrize("text", TEXTS.values())
def test_a_decision_sets_what_the_numbers_are_and_nothing_else(text, knob):
    decision = parse(text, knob=knob).decide()
    assert decision == Decision(**{knob: parse(text).decide().threshold})
    assert decision.value is not None


@pytest.mark.parametrize("text", TEXTS.values())
@settings(deadline=None, max_examples=10)
@given(run=runs())
def test_decisions_stay_in_bounds_and_follow_from_seed_and_feedback(text, run):
    controller = parse(text, seed=3)
    low, high = controller.bounds
    chosen = [controller.decide(), *decisions(controller, run)]
    assert all(low <= decision.value <= high for decision in chosen)
    assert controller.can_freeze or not any(decision.frozen for decision in chosen)
    again = parse(text, seed=3)
    assert [again.decide(), *decisions(again, run)] == chosen


@pytest.mark.parametrize("text", TEXTS.values())
@settings(deadline=None, max_examples=10)
@given(run=runs(), at=st.integers(0, ROUNDS))
def test_another_goes_on_from_its_state_to_the_same_bits(text, run, at):
    straight, halted, resumed = (parse(text, seed=5) for _ in range(3))
    decisions(halted, run[:at])
    resumed.load_state(halted.state())
    assert resumed.decide() == halted.decide()
    assert decisions(straight, run)[at:] == decisions(resumed, run[at:])
    one, other = straight.state(), resumed.state()
    assert one.scalars == other.scalars and one.tensors.keys() == other.tensors.keys()
    assert all(torch.equal(tensor, other.tensors[name]) for name, tensor in one.tensors.items())


@pytest.mark.parametrize("text", TEXTS.values())
@settings(deadline=None, max_examples=3)
@given(run=runs())
def test_a_new_run_begins_with_round_0(text, run):
    """What a controller has seen of another run's losses must not judge this one's."""
    controller = parse(text)
    decisions(controller, run)
    if not controller.state().tensors:  # those that learn are another matter
        assert decisions(controller, run) == decisions(parse(text), run)


@pytest.mark.parametrize("text", TEXTS.values())
@settings(deadline=None, max_examples=3)
@given(run=runs())
def test_the_global_generators_are_left_alone(text, run):
    torch.manual_seed(1)
    np.random.seed(1)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(1)
    np.random.seed(1)
    decisions(parse(text), run)
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])


@pytest.mark.parametrize("text", TEXTS.values())
def test_the_global_generators_have_no_say(text):
    run = [
        Feedback(
            round=number,
            progress=number / ROUNDS,
            train_loss=2.0,
            held_out_loss=3.0 / (1 + number),
            skip_ratio=0.5,
            sent_bytes=number,
            uncompressed_bytes=2 * number,
        )
        for number in range(ROUNDS)
    ]
    chosen = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        np.random.seed(seed)
        chosen.append(decisions(parse(text), run))
    assert chosen[0] == chosen[1]
