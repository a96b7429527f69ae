"""Adapters through codecs in whole runs: fewer bytes, the same bits at both ends and after a resume."""

import pytest

from splitcom.methods.run import configured, train
from splitcom.parties.parts import load_parts
from splitcom.parties.texts import load_texts
from splitcom.simulation.simulation import Simulation

from .halting import Stop, StopAt, adapter_of, same

DELTA = "delta > topk(0.1) > int8 > zstd"
GRID = "delta > grid(2.8)"
TIMES = {"links.step_s": 0.1, "links.server_step_s": 0.02}
SLOW = TIMES | {"clients.client-2.link": {"step_s": 0.7}}
WAYS = {
    "lockstep": {
        "federation.sample": 0.67,
        "training.rounds": 3,
    },  # who sits a round out is some versions behind
    "deadline": SLOW | {"federation.deadline_s": 0.9},
    "asynchronous": SLOW | {"federation.scheduling": "asynchronous"},
    "u-shape": {"model.tail_blocks": 1},
    "whole": {"method": "fedlora"},
}


def coded(codec):
    return {"flows.adapter_up.codec": codec, "flows.adapter_down.codec": codec}


def test_fewer_bytes_hardly_another_loss_and_the_same_adapter_at_both_ends(tiny_config, tmp_path):
    runs = {
        codec: train(tiny_config.override(coded(codec) | {"training.rounds": 3}), tmp_path / str(index))
        for index, codec in enumerate(("fp16", "int8", DELTA, GRID))
    }
    whole, half, little, least = (run.result["bytes"] for run in runs.values())
    for flow in ("adapter_up", "adapter_down"):
        assert half[flow] < 0.6 * whole[flow], flow
        assert whole[flow] == runs["fp16"].result["uncompressed_bytes"][flow]
        assert runs[DELTA].result["uncompressed_bytes"][flow] == whole[flow]
        assert runs[GRID].result["uncompressed_bytes"][flow] == whole[flow]
    assert little["adapter_up"] < 0.2 * whole["adapter_up"]
    assert little["adapter_down"] < 0.2 * whole["adapter_down"]  # of the first nothing is sent
    for flow in ("adapter_up", "adapter_down"):
        assert least[flow] < 0.1 * whole[flow], flow  # so small an adapter that heads are a third of it
    losses = [run.result["eval"]["loss"] for run in runs.values()]
    assert losses == pytest.approx([losses[0]] * 4, rel=0.02)
    assert losses[0] < runs["fp16"].result["eval"]["initial_loss"]


@pytest.mark.parametrize("codec", ["fp16", "int8", DELTA, GRID])
def test_all_clients_end_with_the_server_s_adapter_to_the_bit(tiny_config, tmp_path, codec):
    config = configured(tiny_config.override(coded(codec) | {"federation.sample": 0.67}))
    simulation = Simulation(config, load_texts(config), load_parts(config), tmp_path)
    for _ in simulation.federation.run():
        pass
    assert len(config.client_names) == 3
    for client in map(simulation.clients.__getitem__, config.client_names):
        assert client._held.version == config.training.rounds + 1
        assert same(client._held.tensors, simulation.federation.adapter)
        assert same(client._trainer.adapter(), simulation.federation.adapter)
    simulation.close()


@pytest.mark.parametrize("way", WAYS)
def test_a_resumed_run_ends_with_the_same_bits_and_bytes(tiny_config, tmp_path, way):
    changes = {"training.rounds": 2} | WAYS[way] | coded(DELTA) | {"federation.aggregator": "fedavgm"}
    config = tiny_config.override(changes)
    straight = train(config, tmp_path / "straight")
    with pytest.raises(Stop):
        train(config, tmp_path / "halted", observers=[StopAt(2, 2 if way != "whole" else 1)])
    resumed = train(config, tmp_path / "halted", resume=True)
    assert same(adapter_of(straight), adapter_of(resumed))
    assert straight.result["eval"] == resumed.result["eval"]
    assert straight.result["eval"]["loss"] < straight.result["eval"]["initial_loss"]
    for flow in ("adapter_up", "adapter_down"):
        assert straight.result["bytes"][flow] == resumed.result["bytes"][flow] > 0
        assert straight.result["uncompressed_bytes"][flow] == resumed.result["uncompressed_bytes"][flow]
