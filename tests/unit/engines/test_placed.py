"""A body over several devices: each operation has all its tensors on one of them, and nothing else changes."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from splitcom.config import Config
from splitcom.engines.local import LocalEngine
from splitcom.engines.placed import PlacedEngine, devices_of, place
from splitcom.errors import ConfigError
from splitcom.models import add_lora, load_body
from splitcom.models.memory import shapes_of

from .test_local import CLIENTS, arrival_of, batch_of, with_lora


class Indexed(TorchFunctionMode):
    """What torch's own Python methods ask a driver for, which a build without CUDA lacks, by operations."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.contiguous:
            return args[0].clone(memory_format=torch.contiguous_format)
        if func is not torch.Tensor.__getitem__:
            return func(*args, **(kwargs or {}))
        tensor, keys = args[0], args[1] if isinstance(args[1], tuple) else (args[1],)
        if all(isinstance(key, torch.Tensor) for key in keys):
            return torch.ops.aten.index.Tensor(tensor, list(keys))
        place, named = 0, sum(key is not None and key is not Ellipsis for key in keys)
        for key in keys:
            match key:
                case None:
                    tensor = tensor.unsqueeze(place)
                case slice():
                    tensor = torch.ops.aten.slice.Tensor(tensor, place, key.start, key.stop, key.step or 1)
                case int():
                    tensor, place = tensor.select(place, key), place - 1
                case _:
                    place = tensor.dim() - named - 1
            place += 1
        return tensor


@pytest.mark.parametrize("tail_blocks", [0, 1])
def test_all_of_an_operation_is_on_one_device(tiny_model, tail_blocks):
    """Torch refuses operations over two devices, of tensors without memory too: here as if there were two GPUs."""
    body = shapes_of(tiny_model, "body", 1, tail_blocks, torch.bfloat16)
    add_lora(body, 4, targets="all-linear")
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True), Indexed():  # without CUDA no autograd
        body.to_empty(device="cpu")
        place(body, ["cuda:0", "cuda:1"])
        own = [{tensor.device for tensor in block.parameters()} for block in body.blocks]
        assert own[0] == {torch.device("cuda:0")} and own[-1] == {torch.device("cuda:1")}
        hidden = torch.zeros(2, 5, 32, device="cuda:0", dtype=torch.bfloat16)
        mask = torch.ones(2, 5, dtype=torch.int64, device="cuda:0")
        at = torch.tensor([0, 1], device="cuda:0"), torch.tensor([2, 3], device="cuda:0")
        out = body(hidden, mask) if tail_blocks else body(hidden, mask, at=at)
        assert out.device == torch.device("cuda:0" if tail_blocks else "cuda:1")


def test_a_placed_body_learns_as_a_local_one(tiny_model):
    config = Config().override({"model.source": str(tiny_model), "engine.devices": ["cpu", "cpu"]})
    batches = {name: batch_of(lengths, seed) for seed, (name, lengths) in enumerate(CLIENTS.items())}
    arrivals = {name: arrival_of(*batch) for name, batch in batches.items()}
    states, losses = [], []
    for kind in (LocalEngine, PlacedEngine):
        engine = kind(with_lora(load_body(tiny_model, 2)), config)
        losses.append([engine.step(arrivals, (1, step), 0.5)["a"].loss_sum for step in range(2)])
        states.append(engine.state())
    assert losses[0] == losses[1] and losses[0][0] != losses[0][1]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_a_machine_without_gpus_and_devices_that_are_not_there_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="this machine has no CUDA device"):
        devices_of(Config(engine={"kind": "placed"}))
    with pytest.raises(ConfigError, match=r"engine\.devices: 'cuda:7'"):
        PlacedEngine.check(Config(engine={"kind": "placed", "devices": ["cpu", "cuda:7"]}))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert devices_of(Config(engine={"kind": "placed"})) == ["cuda:0", "cuda:1"]
