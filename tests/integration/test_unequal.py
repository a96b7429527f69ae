"""Clients that differ in cut, rank and batch: in process, over the network, resumed, and as one adapter in the end."""

import re

import pytest
import torch
from safetensors.torch import load_file

from splitcom.config import Config
from splitcom.errors import ConfigError
from splitcom.methods.run import train
from splitcom.models import load_adapted
from splitcom.parties.check import check_parts
from splitcom.parties.texts import load_texts

from .halting import Stop, StopAt, adapter_of, same
from .parties import Deployment, fork_server, make_authority

CUTS = {
    "clients.client-0.cut": 1,
    "clients.client-1": {"cut": 3, "batch_size": 2},
    "clients.groups": [{"names": ["client-[02]"], "cut": 2, "batch_size": 5}],
}
RANKS = CUTS | {"clients.client-0.rank": 4, "clients.client-2": {"rank": 2}}
FORMS = {
    "cuts": CUTS,
    "cuts and ranks": RANKS | {"flows.adapter_down.codec": "delta > int8"},
    "u-shape": RANKS | {"model.tail_blocks": 1, "clients.client-1.cut": 2, "lora.dropout": 0.1},
    "frozen fronts": CUTS | {"method": "frozen_front"},
    "cuts that move": {
        "training.rounds": 4,
        "clients.client-0": {"cut": 2, "most_cut": 2},
        "federation.cuts": {"every": 1, "strength": 30.0, "most": 3},
        "lora.cut_rank": 4,
        "flows.adapter_down.codec": "delta > int8",
    },
    "ranks of whole models": {"method": "fedlora", "clients.client-0.rank": 4, "clients.client-2.rank": 2},
}


def test_values_given_for_each_client_are_those_given_for_all_to_the_bit(tiny_config, trained):
    every = {
        "clients.groups": [{"names": ["client-*"], "cut": 3, "rank": 8, "batch_size": 3, "device": "cpu"}]
    }
    for_all = {"model.cut": 3, "training.batch_size": 3}
    one, other = trained(tiny_config.override(every)), trained(tiny_config.override(for_all))
    assert same(adapter_of(one), adapter_of(other))
    assert one.result["eval"] == other.result["eval"]
    assert one.result["bytes"] == other.result["bytes"]


ALSO = ("cuts", "frozen fronts")


@pytest.mark.parametrize(
    "form", [pytest.param(form, marks=[pytest.mark.slow] if form in ALSO else []) for form in FORMS]
)
def test_a_run_of_unequal_clients_learns_and_ends_with_the_same_bits_when_it_is_resumed(
    tiny_config, trained, tmp_path, form
):
    config = tiny_config.override(FORMS[form])
    straight = trained(config)
    with pytest.raises(Stop):
        train(config, tmp_path / "halted", observers=[StopAt(2, 1)])
    resumed = train(config, tmp_path / "halted", resume=True)
    assert same(adapter_of(straight), adapter_of(resumed))
    assert straight.result["eval"] == resumed.result["eval"]
    assert straight.result["eval"]["loss"] < straight.result["eval"]["initial_loss"]


def test_what_is_left_is_one_adapter_with_the_loss_that_the_run_has_found(tiny_config, trained):
    config = tiny_config.override(CUTS)
    run = trained(config)
    steps = {line["client"]: line["steps"] for line in run.metrics if line["round"] == 1}
    assert steps == {"client-0": 2, "client-1": 4, "client-2": 2}  # of 9, 8 and 8 samples
    model = load_adapted(config.model.source, run.adapter)
    loss, count = 0.0, 0
    for sample in load_texts(config).held_out.samples:
        logits = model(input_ids=sample.input_ids[None].long()).logits[0, :-1]
        labels = sample.labels[1:].long()
        loss += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum").detach())
        count += int((labels != -100).sum())
    assert loss / count == pytest.approx(run.result["eval"]["loss"], rel=1e-3)
    equal = trained(tiny_config)
    tensors, others = adapter_of(run), adapter_of(equal)
    assert {name: t.shape for name, t in tensors.items()} == {name: t.shape for name, t in others.items()}


def test_a_client_sends_and_gets_its_own_part_of_the_adapter_alone(tiny_config, trained):
    run = trained(
        tiny_config.override(RANKS | {"flows.adapter_down.codec": "fp16", "flows.adapter_up.codec": "fp16"})
    )
    for flow in ("adapter_up", "adapter_down"):
        sent = {line["client"]: line[f"bytes.{flow}"] for line in run.metrics if line["round"] == 1}
        # one block of rank 4, two of rank 2, three of rank 8
        assert max(sent["client-0"], sent["client-2"]) < sent["client-1"] / 5


DEFAULT = {f"flows.{flow}.codec": Config().flows[flow].codec for flow in ("activation_up", "gradient_down")}
MOVING = {"federation.cuts": {"every": 1, "strength": 30.0, "most": 3}, "clients.client-0.most_cut": 2}


def test_the_bits_over_a_network_are_those_of_one_process_also_if_cuts_move(tiny_config, trained, tmp_path):
    config = tiny_config.override(RANKS | DEFAULT | MOVING)
    network = Deployment(
        fork_server(), make_authority(tmp_path / "authority"), config, tmp_path
    ).start_server()
    proud = network.client(1, "--expect", "model.cut=2").start()
    proud.wait_for("the server has model.cut = 3, and --expect says 2")
    proud.end(code=1)
    parties = [client.start() for client in network.clients("--expect", "lora.dropout=0.0")]
    for party in (*parties, network.server):
        party.end()
    expected = trained(config)
    network.assert_same_run(expected)
    assert {line["cut"] for line in expected.metrics if line["client"] == "client-1"} == {3, 2}
    blocks = []
    for index in range(3):
        (front,) = (tmp_path / f"client-{index}-cache").glob("front-*/model.safetensors")
        held = (re.search(r"layers\.(\d+)\.", name) for name in load_file(front))
        blocks.append(len({found[1] for found in held if found}))
    assert blocks == [2, 3, 3]  # nobody is sent more than it may come to hold


def test_a_client_is_told_its_own_values_and_nobody_elses():
    config = Config().override(RANKS | {"lora.alpha": 16.0})
    told = Config.from_toml(config.told("client-2"))
    assert (told.model.cut, told.lora.rank, told.training.batch_size) == (2, 2, 5)
    assert told.lora.alpha / told.lora.rank == config.lora.alpha / config.lora.rank
    assert not told.clients.given and "client-0" not in config.told("client-2")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clients.client-0.rank": 16}, "client-0 has rank = 16, which is more than lora.rank = 8"),
        (
            {"federation.secure_aggregation": 0.6, "federation.max_update_ratio": None},
            "masks add up whole ones",
        ),
        ({"federation.segments": 2}, "segments = 2: clients with cuts .* set segments = 1"),
        ({"federation.variance.estimate": "linear"}, "the variance is of whole ones; leave it out"),
        (
            {"federation.clients": 5, "federation.aggregator": "krum(0.2)"},
            r"krum\(0.2\).*: .*looks at whole updates; take one",
        ),
        ({"federation.deadline_s": 3.0}, "counts in the mean of that round: leave out federation.deadline_s"),
        ({"model.bottleneck": 0.25}, "it is learnt at one cut, which all clients share; leave it out"),
        ({"client.own_b": True}, "client.own_b = true: clients with cuts .* of which no B is shared"),
        ({"engine.kind": "sharded"}, "take 'local' or 'placed', or one cut for all"),
        ({"training.split": False}, "with training.split = false nothing is cut; leave out their cuts"),
    ],
)
def test_what_unequal_clients_do_not_go_with_is_refused_with_the_reason(changes, message):
    with pytest.raises(ConfigError, match=message):
        Config().override({"preset": "balanced"} | CUTS | changes)


def test_dora_needs_equal_ranks_and_a_cut_lies_within_the_model(tiny_config):
    with pytest.raises(ConfigError, match=r"lora.use_dora = true: .*give all the same rank"):
        tiny_config.override({"clients.client-0.rank": 2, "lora.use_dora": True})
    with pytest.raises(
        ConfigError, match=r"clients: client-1: model.cut = 4 .* does not fit a model of 4 blocks"
    ):
        check_parts(tiny_config.override({"clients.client-1.cut": 4}))
