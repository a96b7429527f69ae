"""Every optimizer goes on from a checkpoint to the same bits, and one that is not there is refused before training."""

import pytest
import torch

from splitcom.config import TrainingConfig
from splitcom.errors import ConfigError
from splitcom.training.optimize import Optimizer, check_optimizer


def steps(optimizer, parameters, count, first=0):
    for index in range(first, first + count):
        generator = torch.Generator().manual_seed(index)
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step((index + 0.5) / 6)


def made(config):
    parameters = [torch.nn.Parameter(torch.ones(4, 3)), torch.nn.Parameter(torch.zeros(5))]
    return Optimizer(parameters, config), parameters


@pytest.mark.parametrize("name", ["adamw", "adamw_fused", "adafactor"])
def test_a_checkpoint_goes_on_to_the_same_bits(name):
    config = TrainingConfig(optimizer=name, warmup=0.0)
    straight, ours = made(config)
    steps(straight, ours, 6)
    first, theirs = made(config)
    steps(first, theirs, 3)
    kept = {key: tensor.clone() for key, tensor in first.state().items()}
    again, others = made(config)
    with torch.no_grad():
        for parameter, other in zip(theirs, others, strict=True):
            other.copy_(parameter)
    again.load_state(kept)
    steps(again, others, 3, first=3)
    assert all(torch.equal(one, other) for one, other in zip(ours, others, strict=True))
    assert again.state().keys() == kept.keys()
    assert all(tensor.dtype in (torch.float32, torch.float64) for tensor in kept.values())


def test_fused_takes_adamws_steps_and_adafactor_remembers_less():
    states = {}
    for name in ("adamw", "adamw_fused", "adafactor"):
        optimizer, parameters = made(TrainingConfig(optimizer=name))
        steps(optimizer, parameters, 4)
        states[name] = (parameters, sum(tensor.numel() for tensor in optimizer.state().values()))
    for one, other in zip(states["adamw"][0], states["adamw_fused"][0], strict=True):
        assert torch.allclose(one, other, rtol=1e-5)
    assert states["adafactor"][1] < states["adamw"][1]


def test_an_optimizer_without_its_library_is_refused(monkeypatch):
    check_optimizer("adafactor")
    monkeypatch.setattr("splitcom.training.optimize.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"adamw8bit.*bitsandbytes is not installed"):
        check_optimizer("adamw8bit")
    monkeypatch.setattr("splitcom.training.optimize.find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no such device"):
        check_optimizer("adamw8bit")
