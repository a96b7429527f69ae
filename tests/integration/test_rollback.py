"""A run goes back to a round that is kept: to the same bits, with other limits, and without one that poisoned it."""

import json

import pytest
import torch
from safetensors.torch import load_file

from splitcom.errors import RunError
from splitcom.methods.run import train

from .parties import Deployment, fork_server, free_port, make_authority

KEPT = {"training.rounds": 4, "training.keep_checkpoints": 4}


def adapter_of(folder):
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_that_goes_back_ends_with_the_same_bits_and_one_line_for_each_round(tiny_config, tmp_path):
    config = tiny_config.override(KEPT | {"flows.activation_up.codec": "delta > int8"})
    first = train(config, tmp_path / "run")
    adapter, lines = adapter_of(first.folder), lines_of(first.folder)
    again = train(config, tmp_path / "run", resume=True, from_round=2)
    assert same(adapter_of(again.folder), adapter)
    assert again.result["eval"] == first.result["eval"]
    assert again.result["bytes"]["activation_up"] == first.result["bytes"]["activation_up"]
    assert again.result["repeated_bytes"] > first.result["repeated_bytes"] == 0
    for own in (lines, lines_of(again.folder)):
        told = [(line["round"], line["client"], line["eval_loss"]) for line in own]
        assert told == [(line["round"], line["client"], line["eval_loss"]) for line in lines]


def test_it_may_go_on_with_another_aggregator_and_limits_and_with_nothing_else(tiny_config, tmp_path):
    config = tiny_config.override(KEPT | {"federation.aggregator": "fedadam(lr=0.01)"})
    adapter = adapter_of(train(config, tmp_path / "run").folder)
    other = config.override({"federation.aggregator": "median", "federation.max_update_ratio": 2.0})
    with pytest.raises(
        RunError, match=r"cannot resume with another configuration: federation\.aggregator was"
    ):
        train(other, tmp_path / "run", resume=True)
    with pytest.raises(RunError, match=r"training\.lr was"):
        train(other.override({"training.lr": 0.5}), tmp_path / "run", resume=True, from_round=2)
    again = train(other, tmp_path / "run", resume=True, from_round=2)
    assert not same(adapter_of(again.folder), adapter)
    assert train(other, tmp_path / "run", resume=True).result == again.result


def test_a_round_that_is_not_kept_and_a_run_that_does_not_go_on_are_refused_with_what_there_is(
    tiny_config, tmp_path
):
    train(tiny_config, tmp_path / "run")
    with pytest.raises(
        RunError, match=r"has no state of that round, but of 1, 2; choose one of .*keep_checkpoints"
    ):
        train(tiny_config, tmp_path / "run", resume=True, from_round=0)
    assert (tmp_path / "run" / "result.json").exists()
    with pytest.raises(RunError, match=r"--from-round 1: .* add --resume"):
        train(tiny_config, tmp_path / "run", from_round=1)


def test_a_run_that_was_poisoned_goes_back_without_the_poisoner_and_reaches_the_clean_loss(
    tiny_config, tmp_path
):
    config = tiny_config.override(
        {"training.rounds": 6, "training.keep_checkpoints": 6, "federation.max_update_ratio": None}
    )
    clean = train(config, tmp_path / "clean").result["eval"]
    authority = make_authority(tmp_path / "authority")
    network = Deployment(fork_server(), authority, config, tmp_path, port=free_port()).start_server()
    *honest, mallory = network.clients()
    honest[0].start(), honest[1].start(hold=5), mallory.start(poison=(3, 1000.0))
    honest[1].wait_until_held()
    before = float(network.server.wait_for(r"round 2 of 6 is done, held-out loss ([0-9.]+)"))
    poisoned = float(network.server.wait_for(r"round [34] of 6 is done, held-out loss ([0-9.]+)"))
    network.server.kill()
    mallory.kill()
    assert poisoned > before > clean["loss"]
    assert "client-2, round 3: unlike the others: update_norm" in network.server.log

    network.server.start("--from-round", 2, "--set", "federation.clients=2")
    honest[1].release()
    for party in (network.server, *honest):
        party.end()
    result = json.loads((network.out / "result.json").read_text())
    learnt = clean["initial_loss"] - clean["loss"]
    assert result["eval"]["loss"] == pytest.approx(clean["loss"], abs=0.25 * learnt), clean
    assert result["clients"] == 2 and result["repeated_bytes"] > 0
    rounds = [(line["round"], line["client"]) for line in lines_of(network.out)]
    assert len(rounds) == len(set(rounds)) and ("client-2" in [c for r, c in rounds if r <= 2])
    assert all(client != "client-2" for index, client in rounds if index > 2)
