"""Clients in the actors of a Ray cluster of three nodes: the same bits as in one process, also if nodes die."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from splitcom.methods.run import train
from splitcom.server.observe import Observer

ray = pytest.importorskip("ray", reason="needs the extra scale")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # Ray's own

CHANGES = {
    "links.step_s": 1.0,
    "links.server_step_s": 0.1,
    "training.rounds": 3,
    "flows.activation_up.codec": "predict > klt(16) > uniform(0.5, dead_zone=0.3) > range",
    "flows.gradient_down.codec": "predict(window=0) > klt(16, threshold=0.3, centre=sum) > uniform(2) > range",
}


@pytest.fixture(scope="module")
def nodes() -> Iterator[tuple[Any, list[Any]]]:
    """A cluster of three nodes with room for one actor each, which this process has joined; the last two may die."""
    from ray.cluster_utils import Cluster

    room = {"num_cpus": 1, "object_store_memory": 80_000_000}
    cluster = Cluster(initialize_head=True, head_node_args=room)
    others = [cluster.add_node(**room) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster, others
    ray.shutdown()
    cluster.shutdown()


def check_same(run, other, flows=None):
    one, two = (load_file(each.adapter / "adapter_model.safetensors") for each in (run, other))
    assert one and all(torch.equal(one[name], two[name]) for name in one)
    for key in ("eval", "participation", "warnings"):
        assert run.result[key] == other.result[key], key
    for flow in flows or run.result["bytes"]:
        assert run.result["bytes"][flow] == other.result["bytes"][flow], flow


@pytest.mark.parametrize(
    "form",
    [
        {"model.tail_blocks": 1, "lora.cut_rank": 4, "training.checkpoint_every": 2},
        {"federation.scheduling": "asynchronous", "federation.sample": 0.67},
        {"federation.sample": 0.34, "links.latency_ms": 20.0, "links.jitter_ms": 50.0, "links.up_mbps": 1.0},
        {"method": "fedlora"},
    ],
    ids=str,
)
def test_clients_on_three_nodes_train_to_the_same_bits(tiny_config, trained, tmp_path, nodes, form):
    config = tiny_config.override(CHANGES | form)
    run = train(config.override({"engine.kind": "ray"}), tmp_path / "run")
    here = trained(config)
    check_same(run, here)
    assert run.result["seconds"]["virtual"] == here.result["seconds"]["virtual"]


def test_two_nodes_that_die_are_survived(tiny_config, trained, tmp_path, nodes, caplog):
    cluster, others = nodes

    class Killing(Observer):
        def on_step(self, report):
            if report.round == 2 and others:
                cluster.remove_node(others.pop(), allow_graceful=False)

    config = tiny_config.override(CHANGES)
    run = train(config.override({"engine.kind": "ray"}), tmp_path / "run", observers=[Killing()])
    assert not others and caplog.text.count("an actor has died") == 2
    here = trained(config)
    assert run.result["repeated_bytes"] > 0 == here.result["repeated_bytes"]
    check_same(run, here, ["activation_up", "gradient_down", "labels_up"])
