"""Aggregators in whole runs: with every scheduling, and through checkpoints to the same bits."""

import pytest
import torch
from safetensors.torch import load_file

from splitcom.methods.run import train
from splitcom.server.observe import Observer
from splitcom.training.store import PartyStore

TIMES = {"links.step_s": 0.1, "links.server_step_s": 0.02}
ASYNCHRONOUS = TIMES | {"federation.scheduling": "asynchronous", "federation.asynchronous.mixing": 1.0}
WAYS = {
    "lockstep": {},
    "deadline": TIMES | {"federation.deadline_s": 60.0},
    "asynchronous": ASYNCHRONOUS | {"federation.asynchronous.buffer": 3},
    "u-shape": {"model.tail_blocks": 1},
    "whole": {"method": "fedlora"},
}


def adapter_of(run):
    return load_file(run.adapter / "adapter_model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Stop(BaseException):
    pass


class StopInRound(Observer):
    def __init__(self, round_index):
        self._round = round_index

    def on_step(self, report):
        if report.round == self._round:
            raise Stop


@pytest.mark.parametrize("way", WAYS)
def test_a_state_of_the_aggregator_outlives_an_interruption(tiny_config, tmp_path, way):
    config = tiny_config.override(WAYS[way] | {"federation.aggregator": "fedadam", "training.rounds": 2})
    straight = train(config, tmp_path / "straight")
    with pytest.raises(Stop):
        train(config, tmp_path / "halted", observers=[StopInRound(2)])
    kept = load_file(sorted((tmp_path / "halted").rglob("server/round-*/state.safetensors"))[-1])
    assert any(name.startswith("shared.aggregator.second.") for name in kept)
    resumed = train(config, tmp_path / "halted", resume=True)
    assert same(adapter_of(straight), adapter_of(resumed))
    assert straight.result["eval"] == resumed.result["eval"]
    assert straight.result["eval"]["loss"] < straight.result["eval"]["initial_loss"]


def test_updates_too_few_for_a_robust_aggregator_wait_for_others_also_in_a_checkpoint(tiny_config, tmp_path):
    changes = ASYNCHRONOUS | {
        "federation.asynchronous.buffer": 3,
        "federation.aggregator": "median",
        "clients.client-2.link": {"step_s": 0.9},
        "training.rounds": 4,
    }
    config = tiny_config.override(changes)
    straight = train(config, tmp_path / "straight")
    with pytest.raises(Stop):
        train(config, tmp_path / "halted", observers=[StopInRound(3)])
    store = PartyStore(tmp_path / "halted" / "checkpoint" / "server")
    tensors, scalars = store.load(max(store.rounds()))
    waiting = scalars["parts"]["scheduling"]["waiting"]
    assert 0 < len(waiting) < 3
    assert any(name.startswith("scheduling.0.") for name in tensors)
    resumed = train(config, tmp_path / "halted", resume=True)
    assert same(adapter_of(straight), adapter_of(resumed))
    assert straight.result["eval"] == resumed.result["eval"]


@pytest.mark.parametrize("way", ["lockstep", "asynchronous"])
@pytest.mark.parametrize("aggregator", ["fedavgm", "trimmed_mean(0.4)", "median"])
def test_every_aggregator_trains_in_its_own_way(tiny_config, trained, way, aggregator):
    plain, other = (
        trained(tiny_config.override(WAYS[way] | {"federation.aggregator": text}))
        for text in ("fedavg", aggregator)
    )
    assert not same(adapter_of(plain), adapter_of(other))
    assert other.result["eval"]["loss"] < other.result["eval"]["initial_loss"]
