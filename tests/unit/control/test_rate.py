"""The rate controller on a plant whose bytes go with a power of the step, and whose first round is dearer."""

import json

import numpy as np
import pytest

from splitcom.control import Feedback, State, parse
from splitcom.errors import SpecError

TEXT = "rate(1.0, 0.1, 16.0)"
UNCOMPRESSED = 10_000_000  # bytes of a round


class Plant:
    """`level` percent of the uncompressed bytes are sent at step 1, times step^-1.2, give or take a few."""

    def __init__(self, level, seed, rounds, power=1.2):
        self._level, self._power, self.rounds = level, power, rounds
        self._noise = np.exp(0.05 * np.random.default_rng(seed).standard_normal(rounds + 1))
        self.sent, self.steps = 0, []

    def run(self, controller, numbers):
        for number in numbers:
            sent = self._round(number, controller.threshold) if number else 0
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
        sent = UNCOMPRESSED * self._level / 100 * step**-self._power * dearer * self._noise[number]
        self.sent += round(sent)
        self.steps.append(step)
        return round(sent)

    @property
    def percent(self):
        """What the run has sent of the uncompressed bytes."""
        return 100 * self.sent / (UNCOMPRESSED * self.rounds)


@pytest.mark.parametrize("level", [0.4, 1.0, 2.5])  # the first step is too careful, about right, too coarse
@pytest.mark.parametrize(("rounds", "power"), [(10, 1.2), (10, 0.8), (30, 2.0)])
def test_a_run_ends_within_five_percent_of_its_budget(level, rounds, power):
    for seed in range(5):
        plant = Plant(level, seed, rounds, power)
        plant.run(parse(TEXT), range(rounds + 1))
        assert plant.percent == pytest.approx(1.0, rel=0.05)
        assert max(plant.steps) <= 16.0 and min(plant.steps) >= 0.1


def test_what_the_first_round_was_too_dear_is_worked_off():
    plant = Plant(level=1.2, seed=0, rounds=10)
    plant.run(parse(TEXT), range(11))
    assert plant.steps[1] > plant.steps[0]
    assert max(plant.steps[3:]) < 1.3 * min(plant.steps[3:])
    assert plant.percent == pytest.approx(1.0, rel=0.05)


def test_a_budget_that_is_spent_ends_at_the_highest_step():
    plant = Plant(level=30, seed=0, rounds=10)
    plant.run(parse("rate(1.0, 0.5, 2.0)"), range(11))
    assert plant.steps == [1.0] + [2.0] * 9


def test_a_round_in_which_nothing_was_sent_changes_nothing():
    controller = parse(TEXT)
    Plant(level=0, seed=0, rounds=3).run(controller, range(4))
    assert controller.threshold == parse(TEXT).threshold


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
