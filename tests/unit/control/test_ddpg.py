"""The DDPG controller on a plant whose best threshold is known, and on what it must refuse."""

import sys
from math import exp

import pytest

from splitcom.control import Feedback, parse
from splitcom.errors import ConfigError

LOW, HIGH = 0.9, 1.0
DAMAGE = 10.0  # percent of loss, where nothing is sent
ROUNDS = 12


def plant(controller, num_runs):
    """Thresholds, scaled to 0 to 1, of runs in which to send the part x costs 10 (1 - x)**2 percent of loss."""
    chosen = []
    for _ in range(num_runs):
        loss, share, sent = 3.0, 0.0, 0
        for number in range(ROUNDS + 1):
            if number:
                share = (controller.decide().value - LOW) / (HIGH - LOW)
                chosen.append(share)
                loss *= exp(DAMAGE / 100 * (1 - share) ** 2 - 0.05)
                sent = round(1000 * share)
            controller.observe(
                Feedback(
                    round=number,
                    progress=number / ROUNDS,
                    train_loss=loss,
                    held_out_loss=loss,
                    skip_ratio=1 - share,
                    sent_bytes=sent,
                    uncompressed_bytes=1000 if number else 0,
                )
            )
    return chosen


@pytest.mark.parametrize("best", [0.4, pytest.param(0.75, marks=pytest.mark.slow)])
def test_it_finds_the_best_threshold_of_a_known_plant(best):
    price = 2 * DAMAGE * (1 - best)  # where -DAMAGE (1 - x)**2 - price x is greatest at x = best
    controller = parse(f"ddpg({LOW}, {HIGH}, price={price}, discount=0.5)", seed=2)
    chosen = plant(controller, num_runs=5)
    first, last = chosen[:ROUNDS], chosen[-ROUNDS:]
    assert abs(sum(last) / ROUNDS - best) < 0.1
    assert regret(last, best) < regret(first, best) / 5
    assert max(first) - min(first) > 0.6  # it has looked around first


def regret(chosen, best):
    """What a run has lost against the best threshold, up to a factor."""
    return sum((share - best) ** 2 for share in chosen)


def test_an_agent_that_has_learned_goes_on_in_another_run():
    text = f"ddpg({LOW}, {HIGH}, price=5.0)"
    teacher = parse(text, seed=1)
    plant(teacher, num_runs=1)
    pupil = parse(text, seed=2)
    pupil.load_state(teacher.state())
    assert pupil.state().tensors["agent.num_transitions"] == ROUNDS
    assert plant(pupil, num_runs=1) != plant(parse(text, seed=2), num_runs=1)


def test_what_was_learned_for_another_range_or_price_is_refused():
    state = parse("ddpg(0.9, 1.0)").state()
    with pytest.raises(ValueError, match=r"has learned with low, high and price of 0\.9, 1, 0\.2"):
        parse("ddpg(0.8, 1.0)").load_state(state)


def test_the_extra_is_named_where_it_lacks(monkeypatch):
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    controller = parse("ddpg(0.9, 0.99)")  # clients, too, read a configuration that names it
    with pytest.raises(ConfigError, match=r"pip install 'splitcom\[rl\]'"):
        controller.prepare()
