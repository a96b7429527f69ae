"""What a short trial foretells is what the run then sends and how long its links take."""

from collections import Counter

import pytest

from splitcom.errors import ConfigError
from splitcom.methods import forecast as module
from splitcom.methods.forecast import forecast
from splitcom.methods.run import train
from splitcom.transports.link import Link

CHANGES = {
    "data.samples": 40,
    "data.held_out_samples": 12,
    "training.batch_size": 2,
    "training.rounds": 2,
    "evaluation.every": 2,
    "evaluation.batch_size": 2,
    "evaluation.codec": "int8",
    "flows.activation_up.codec": "int8",
}


@pytest.mark.parametrize("tail_blocks", [0, 1])
def test_bytes_and_seconds_of_each_round_are_foretold_from_a_part_of_it(
    tiny_config, tmp_path, monkeypatch, tail_blocks
):
    for limit, value in (("_CLIENTS", 2), ("_BATCHES", 3), ("_HELD_OUT", 1), ("_ROUNDS", 1)):
        monkeypatch.setattr(module, limit, value)
    config = tiny_config.override(CHANGES | {"model.tail_blocks": tail_blocks})
    link = Link(up_mbps=1.0, down_mbps=2.0)
    told = forecast(config, link)
    assert told.steps == 3  # of about 7 in each of two rounds

    # with computing that takes no time, the run's seconds are its links'
    limits = {"links.up_mbps": 1.0, "links.down_mbps": 2.0, "links.step_s": 0.0, "links.server_step_s": 0.0}
    run = train(config.override(limits), tmp_path / "run")
    sent, ended = Counter(), {-1: 0.0}
    for line in run.metrics:
        sent[line["round"]] += line["bytes.total"]
        ended[line["round"]] = line["seconds.virtual"]
    assert sorted(sent) == [0, 1, 2]
    for index, size in sent.items():
        one = told.of_round(index)
        assert one.up_bytes + one.down_bytes == pytest.approx(size, rel=0.15)
        assert one.link_s == pytest.approx(ended[index] - ended[index - 1], rel=0.2)
        assert one.computing_s > 0


def test_evaluations_that_the_budget_has_no_room_for_are_not_foretold(tiny_config, tmp_path, monkeypatch):
    for limit, value in (("_CLIENTS", 2), ("_BATCHES", 3), ("_HELD_OUT", 1), ("_ROUNDS", 1)):
        monkeypatch.setattr(module, limit, value)
    changes = {
        "preset": "balanced",
        "data.samples": 120,
        "data.held_out_samples": 30,
        "training.rounds": 3,
        "training.batch_size": 20,
        "evaluation.codec": "none",
        "evaluation.share": 0.9,
    }
    config = tiny_config.override(changes)
    assert forecast(config, Link(10.0, 40.0)).evaluated == {0, 3}
    lines = train(config, tmp_path / "run").metrics
    assert {line["round"] for line in lines if line["eval_loss"] is not None} == {0, 3}


def test_as_many_rounds_are_tried_as_show_what_fronts_send_that_learn_after_a_rest(tiny_config, monkeypatch):
    for limit, value in (("_CLIENTS", 2), ("_BATCHES", 2), ("_HELD_OUT", 1), ("_ROUNDS", 1)):
        monkeypatch.setattr(module, limit, value)
    rests = {
        "training.rounds": 4,
        "flows.activation_up.codec": "temporal(0.98) > fp16",
        "flows.activation_up.controller": "freeze(0.98, 0.99, rest=1)",
    }
    told = forecast(tiny_config.override(CHANGES | rests), Link(10.0, 40.0))
    assert told.num_tried == 3
    down = [told.of_round(index).down_bytes for index in range(1, 5)]
    assert 5 * down[0] < down[1] and down[2] == pytest.approx(down[3], rel=0.5)


def test_rounds_that_go_by_time_are_not_foretold(tiny_config):
    with pytest.raises(ConfigError, match=r"federation\.deadline_s"):
        forecast(tiny_config.override({"federation.deadline_s": 1.0}), Link(10.0, 40.0))
