"""The small parts of federation, each by itself."""

import pytest
import torch
from torch import nn

from splitcom.config import LinkConfig, LinksConfig, TrainingConfig
from splitcom.federation.aggregate import weighted_average
from splitcom.federation.loss import learnt_at, losses_of
from splitcom.federation.optimize import Optimizer, learning_rate
from splitcom.federation.sampling import sample_clients
from splitcom.protocol.labels import IGNORED
from splitcom.transports.link import VirtualClock


def test_the_average_is_weighted_and_independent_of_scale():
    states = [{"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([5.0, 6.0])}]
    expected = torch.tensor([2.0, 3.0])
    assert torch.equal(weighted_average(states, [3, 1])["a"], expected)
    assert torch.equal(weighted_average(states, [300, 100])["a"], expected)
    with pytest.raises(ValueError, match="nothing to average"):
        weighted_average([], [])


def test_every_client_is_drawn_sooner_or_later_and_the_draw_repeats():
    names = [f"c{i}" for i in range(10)]
    drawn = [sample_clients(names, 0.3, 0, r) for r in range(60)]
    assert all(len(chosen) == 3 and chosen == sorted(chosen) for chosen in drawn)
    assert {name for chosen in drawn for name in chosen} == set(names)
    assert drawn == [sample_clients(names, 0.3, 0, r) for r in range(60)]
    assert sample_clients(names, 0.01, 0, 0) and len(sample_clients(names, 1.0, 0, 0)) == 10


def test_over_selection_adds_to_the_draw_as_far_as_there_are_clients():
    names = [f"c{i}" for i in range(10)]
    drawn = [len(sample_clients(names, 0.5, 0, 1, over_select=extra)) for extra in (0.0, 0.1, 0.2, 1.0, 9.0)]
    assert drawn == [5, 6, 6, 10, 10]
    assert len(sample_clients([*names, *names], 0.5, 0, 1, over_select=0.1)) == 11  # 10 * 1.1 is no 11.0…02


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


def test_token_losses_are_those_of_transformers():
    logits, labels = torch.randn(2, 5, 7), torch.randint(0, 7, (2, 5))
    labels[0, :3] = IGNORED
    labels[1, 4:] = IGNORED
    losses, rows, correct = losses_of(logits, labels)
    expected = nn.functional.cross_entropy(logits[:, :-1].reshape(-1, 7), labels[:, 1:].reshape(-1))
    assert torch.allclose(losses.mean(), expected)
    assert rows.tolist() == [0, 0, 1, 1, 1] and not correct.any()
    assert torch.equal(losses_of(logits[learnt_at(labels)], labels).losses, losses)


def test_class_losses_are_those_of_transformers_and_count_what_is_right():
    logits = torch.tensor([[0.5, 2.0, 0.0], [3.0, 1.0, 2.0], [0.0, 0.0, 1.0]])
    losses, rows, correct = losses_of(logits, torch.tensor([[1], [2], [2]]))
    assert torch.allclose(losses.mean(), nn.functional.cross_entropy(logits, torch.tensor([1, 2, 2])))
    assert rows.tolist() == [0, 1, 2]
    assert correct.tolist() == [True, False, True]


def test_the_virtual_clock_adds_transfer_latency_and_compute():
    link = LinkConfig(up_mbps=8.0, down_mbps=80.0, latency_ms=10.0, step_s=0.5)
    clock = VirtualClock(LinksConfig(server_step_s=1.0, clients={"slow": link}))
    clock.down("slow", 1_000_000)  # 0.1 s + 10 ms
    clock.client_computed("slow", 99.0)  # 0.5 s as given
    arrival = clock.up("slow", 1_000_000)  # 1 s + 10 ms
    assert arrival == pytest.approx(0.11 + 0.5 + 1.01)
    clock.server_received(arrival)
    clock.server_computed(99.0)
    assert clock.server_time_s == pytest.approx(arrival + 1.0)
    clock.down("fast", 1_000_000)
    clock.client_computed("fast", 0.25)
    assert clock.up("fast", 10**9) == pytest.approx(clock.server_time_s + 0.25)


def test_jitter_is_seeded_and_survives_a_checkpoint():
    links = LinksConfig(latency_ms=5.0, jitter_ms=3.0)
    one, other = VirtualClock(links, seed=1), VirtualClock(links, seed=1)
    arrivals = [one.up("a", 100) for _ in range(6)]
    assert len(set(arrivals)) == 6 and min(arrivals) >= 0.005
    assert [other.up("a", 100) for _ in range(3)] == arrivals[:3]
    resumed = VirtualClock(links, seed=1)
    resumed.load_state(other.state())
    assert [resumed.up("a", 100) for _ in range(3)] == arrivals[3:]
