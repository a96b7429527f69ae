"""The seed and nothing else: the same one gives the same bits whatever has run before, another one gives others.

That a network gives the same bits as one process is in `integration/test_network.py`.
"""

import json
import random

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from splitcom.methods.run import train
from splitcom.server import parallel

STANDARD = {
    "lora.dropout": 0.1,
    "flows.activation_up.codec": "temporal(0.9) > delta > int4(rounding=stochastic) > zstd",
    "flows.gradient_down.codec": "delta > randtopk(0.2) > int8",
    "federation.sample": 0.7,
    "training.rounds": 2,
}
U_SHAPE = STANDARD | {"model.tail_blocks": 1, "flows.activation_down.residual": True}


def outcome(config, folder):
    """The adapter's tensors, and the lines of metrics without what the clock has measured."""
    run = train(config, folder)
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"]
    return load_file(run.adapter / "adapter_model.safetensors"), lines


def same_tensors(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("changes", [STANDARD, U_SHAPE], ids=["standard", "u-shape"])
def test_only_the_seed_decides(tiny_config, tmp_path, changes):
    config = tiny_config.override(changes)
    adapter, lines = outcome(config, tmp_path / "first")

    torch.manual_seed(99)
    np.random.seed(99)
    random.seed(99)
    torch.rand(3), np.random.rand(3), random.random()
    again, lines_again = outcome(config, tmp_path / "again")
    assert same_tensors(adapter, again)
    assert lines == lines_again

    other, other_lines = outcome(config.override({"seed": config.seed + 1}), tmp_path / "other")
    assert not same_tensors(adapter, other)
    assert [line["eval_loss"] for line in lines] != [line["eval_loss"] for line in other_lines]


@pytest.mark.parametrize("changes", [U_SHAPE, {"preset": "balanced", "training.rounds": 2}])
def test_how_many_threads_code_packets_decides_nothing(tiny_config, tmp_path, monkeypatch, changes):
    config = tiny_config.override(changes)
    outcomes = []
    for number in (1, 4):
        monkeypatch.setattr(parallel, "_num_threads", lambda number=number: number)
        outcomes.append(outcome(config, tmp_path / str(number)))
    assert same_tensors(outcomes[0][0], outcomes[1][0])
    assert outcomes[0][1] == outcomes[1][1]
