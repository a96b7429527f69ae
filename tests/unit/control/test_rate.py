"""The rate controller on plants whose bytes go with powers of the step and of its change, the first round dearer."""

import json

import numpy as np
import pytest

from splitcom.control import Feedback, parse
from splitcom.errors import SpecError
from splitcom.state import State

TEXT = "rate(1.0, 0.1, 16.0)"
UNCOMPRESSED = 10_000_000  # bytes of a round


class Plant:
    """`level` percent of the uncompressed bytes are sent at step 1, times step^-power, give or take a few.

    Where `passing` is not 0, a finer step than the one before is dearer for one round, and a coarser one cheaper.
    """

    def __init__(self, level, seed, rounds, power=1.2, passing=0.0):
        self._level, self._power, self._passing, self.rounds = level, power, passing, rounds
        self._noise = np.exp(0.05 * np.random.default_rng(seed).standard_normal(rounds + 1))
        self.sent, self.steps = 0, []

    def run(self, controller, numbers):
        for number in numbers:
            sent = self._round(number, controller.decide().value) if number else 0
            controller.observe(
                Feedback(
                    round=number,
                    progress=number / self.rounds,
                    train_loss=None,
                    held_out_loss=None,
                    skip_ratio=0.0,
                    sent_bytes=sent,
                    uncompressed_bytes=UNCOMPRESSED if number else 0,
                )
            )

    def _round(self, number, step):
        dearer = 2.5 if number == 1 else 1.0
        self.steps.append(step)
        change = step / self.steps[-2] if number > 1 else 1.0
        factor = step**-self._power * change**-self._passing * dearer * self._noise[number]
        sent = UNCOMPRESSED * self._level / 100 * factor
        self.sent += round(sent)
        return round(sent)

    @property
    def percent(self):
        """What the run has sent of the uncompressed bytes."""
        return 100 * self.sent / (UNCOMPRESSED * self.rounds)


@pytest.mark.parametrize("level", [0.4, 1.0, 2.5])  # the first step is too careful, about right, too coarse
@pytest.mark.parametrize(
    ("rounds", "power", "passing"), [(10, 1.2, 0.0), (10, 1.2, 1.5), (30, 0.8, 0.0), (30, 2.0, 2.0)]
)
def test_a_run_ends_within_five_percent_of_its_budget(level, rounds, power, passing):
    for seed in range(5):
        plant = Plant(level, seed, rounds, power, passing)
        plant.run(parse(TEXT), range(rounds + 1))
        assert plant.percent == pytest.approx(1.0, rel=0.05)
        assert max(plant.steps) <= 16.0 and min(plant.steps) >= 0.1


def test_what_the_first_round_was_too_dear_is_worked_off():
    plant = Plant(level=1.2, seed=0, rounds=10)
    plant.run(parse(TEXT), range(11))
    right = 1.2 ** (1 / 1.2)  # were no round dearer
    assert plant.steps[1] > plant.steps[0]
    assert np.log(plant.steps[1:]).mean() > np.log(right)


def test_a_step_whose_change_costs_a_round_does_not_swing():
    """Where references must become finer first, a law that takes each round for lasting ever swings wider."""
    plant = Plant(level=1.2, seed=0, rounds=30, passing=1.5)
    plant.run(parse(TEXT), range(31))
    changes = np.diff(np.log(plant.steps))
    assert np.abs(changes[5:]).max() < 0.2


def test_a_budget_that_is_spent_ends_at_the_highest_step():
    plant = Plant(level=30, seed=0, rounds=10)
    plant.run(parse("rate(1.0, 0.5, 2.0)"), range(11))
    assert plant.steps == [1.0] + [2.0] * 9


def test_a_round_in_which_nothing_was_sent_changes_nothing():
    controller = parse(TEXT)
    Plant(level=0, seed=0, rounds=3).run(controller, range(4))
    assert controller.decide().value == parse(TEXT).decide().value


def test_it_goes_on_from_a_checkpoint_to_the_same_bits():
    straight, halted = Plant(2.0, 1, 10), Plant(2.0, 1, 10)
    straight.run(parse(TEXT), range(11))
    controller, resumed = parse(TEXT), parse(TEXT)
    halted.run(controller, range(5))
    resumed.load_state(State(scalars=json.loads(json.dumps(controller.state().scalars))))
    halted.run(resumed, range(5, 11))
    assert halted.steps == straight.steps


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rate(0, 1, 2)", "percent must be above 0"),
        ("rate(1, 0, 2)", "low must be above 0"),
        ("rate(1, 2, 2)", "high must be above low, 2, not 2"),
    ],
)
def test_what_makes_no_sense_is_refused(text, message):
    with pytest.raises(SpecError, match=message):
        parse(text)
