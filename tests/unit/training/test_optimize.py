"""The optimizer and its rate."""

import pytest
import torch
from torch import nn

from splitcom.config import Config, TrainingConfig
from splitcom.training.optimize import Optimizer, learning_rate
from splitcom.training.plan import progress_of


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_the_rate_warms_up_and_follows_its_schedule(schedule):
    config = TrainingConfig(lr=1.0, warmup=0.1, schedule=schedule)
    assert learning_rate(config, 0.05) == pytest.approx(0.5)
    assert learning_rate(config, 0.1) == pytest.approx(1.0)
    middle, end = learning_rate(config, 0.55), learning_rate(config, 1.0)
    assert (middle, end) == pytest.approx((1.0, 1.0) if schedule == "constant" else (0.5, 0.0))


def test_the_optimizer_clips_and_resumes_to_the_same_bits():
    config = TrainingConfig(lr=0.1, clip_norm=1.0, warmup=0.0)

    def run(steps, optimizer, parameter):
        for step in steps:
            parameter.grad = torch.full((3,), 100.0 * (step + 1))
            optimizer.step(step / 10)

    straight = nn.Parameter(torch.ones(3))
    optimizer = Optimizer([straight], config)
    run(range(6), optimizer, straight)

    halted = nn.Parameter(torch.ones(3))
    first = Optimizer([halted], config)
    run(range(3), first, halted)
    resumed = nn.Parameter(halted.detach().clone())
    second = Optimizer([resumed], config)
    second.load_state(first.state())
    run(range(3, 6), second, resumed)
    assert torch.equal(straight, resumed)
    assert float(optimizer.state()["0.exp_avg"].norm()) <= 1.0


def test_the_proximal_term_is_the_gradient_of_its_square_and_draws_to_where_the_round_began():
    config = TrainingConfig(lr=0.1, clip_norm=None, warmup=0.0, weight_decay=0.0)
    parameter = nn.Parameter(torch.tensor([3.0]))
    optimizer = Optimizer([parameter], config, proximal=0.5)
    optimizer.begin_round()
    moved = nn.Parameter(torch.tensor([5.0]))
    resumed = Optimizer([moved], config, proximal=0.5)
    resumed.load_state(optimizer.state())
    moved.grad = torch.tensor([-2.0])
    resumed.step(0.0)
    # -2 + 0.5 * (5 - 3) = -1, of which Adam's first moment has a tenth
    assert resumed.state()["0.exp_avg"].item() == pytest.approx(-0.1)
    moved.grad = torch.tensor([-2.0])
    resumed.begin_round()
    resumed.step(0.0)
    assert resumed.state()["0.exp_avg"].item() == pytest.approx(0.9 * -0.1 + 0.1 * -2.0)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize(("rounds", "steps"), [(1, 1), (1, 4), (30, 2)])
def test_no_step_of_a_run_is_taken_at_no_rate(schedule, rounds, steps):
    config = Config().override({"training.rounds": rounds, "training.schedule": schedule})
    places = [(place, step) for place in range(1, rounds + 1) for step in range(steps)]
    rates = [learning_rate(config.training, progress_of(config, *at, steps)) for at in places]
    assert all(0 < rate <= config.training.lr for rate in rates)
    late = progress_of(config, rounds + 0.9, steps - 1, steps)  # of an asynchronous round
    assert learning_rate(config.training, late) == rates[-1]
