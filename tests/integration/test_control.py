"""Controllers in the training loop: what they set is used at both ends, resumed or not; where they are refused."""

import json

import pytest
import torch
from safetensors.torch import load_file

from splitcom.errors import ConfigError
from splitcom.methods.run import configured, train
from splitcom.server.observe import Observer

CODECS = {
    "flows.activation_up.codec": "temporal(0.98) > fp16",
    "flows.gradient_down.codec": "temporal(0.5) > int8",
    "training.rounds": 4,
}
PREDICTED = {
    "flows.activation_up.codec": "predict > klt(16) > uniform(0.5, dead_zone=0.3) > range",
    "flows.gradient_down.codec": "predict(window=0) > klt(16, threshold=0.3, centre=sum) > uniform(2) > range",
    "training.rounds": 4,
}
STEPS = {
    "flows.activation_up.controller": "rate(2.0, 0.25, 4.0)",
    "flows.gradient_down.controller": "linear(2.0, 8.0)",
}
FREEZE = {"flows.activation_up.controller": "freeze(0.5, 0.25, patience=0)"}
U_SHAPE = {
    "model.tail_blocks": 1,
    "flows.activation_down.codec": "predict > klt(16) > uniform(0.5, dead_zone=0.3) > range",
    "flows.activation_down.controller": "freeze(0.5, 0.25, patience=0)",
    "flows.activation_down.residual": True,
    "flows.gradient_up.codec": "int8",
    "lora.dropout": 0.1,
}
DDPG = {"flows.activation_up.controller": "ddpg(0.5, 1.0, warmup=1, updates=2)"}


def lines_of(run):
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def thresholds_of(run, flow):
    return [line["threshold"][flow] for line in lines_of(run) if line["client"] == "client-0"][1:]


class Stop(BaseException):  # as Ctrl-C; what else an observer raises ends nothing
    pass


class StopAt(Observer):
    def __init__(self, round_index):
        self._round = round_index

    def on_step(self, report):
        if report.round == self._round:
            raise Stop


def test_both_ends_use_what_is_set(tiny_config, tmp_path):
    """-1 skips all that has a reference, 1 nothing: at the client, which sends activations, and at the server."""
    controllers = {
        "flows.activation_up.controller": "linear(1.0, -1.0)",
        "flows.gradient_down.codec": "temporal(-1.0) > int8",
        "flows.gradient_down.controller": "fixed(1.0)",
    }
    run = train(tiny_config.override(CODECS | controllers), tmp_path / "run")
    assert thresholds_of(run, "activation_up") == [1.0, 0.5, 0.0, -0.5]
    assert thresholds_of(run, "gradient_down") == [1.0] * 4
    ratios = [line["skip_ratio"] for line in lines_of(run) if line["client"] == "client-0"][1:]
    assert ratios[3]["activation_up"] == 1
    assert [ratio["gradient_down"] for ratio in ratios] == [0] * 4


def test_a_fixed_controller_is_the_codecs_own_threshold(tiny_config, trained, tmp_path):
    plain = trained(tiny_config.override(CODECS))
    fixed = {"flows.activation_up.controller": "fixed(0.98)"}
    steered = train(tiny_config.override(CODECS | fixed), tmp_path / "steered")
    assert plain.result["eval"] == steered.result["eval"]
    sent, also = plain.result["bytes"], steered.result["bytes"]
    assert sent["activation_up"] == also["activation_up"]
    assert 0 < also["control"] - sent["control"] < 50 * 3 * 4  # one threshold to a client in a round


def test_one_controller_for_all_leaves_those_with_their_own(tiny_config, tmp_path):
    shared = {"control.controller": "fixed(0.75)", "flows.gradient_down.controller": "fixed(0.25)"}
    run = train(tiny_config.override(CODECS | shared), tmp_path / "run")
    assert set(thresholds_of(run, "activation_up")) == {0.75}
    assert set(thresholds_of(run, "gradient_down")) == {0.25}


def test_one_controller_steers_all_flows_of_the_u_shape(tiny_config, tmp_path):
    flows = ("activation_up", "activation_down", "gradient_up", "gradient_down")
    codecs = {f"flows.{flow}.codec": "temporal(0.98) > int8" for flow in flows}
    config = tiny_config.override(codecs | {"model.tail_blocks": 1, "control.controller": "fixed(-1.0)"})
    run = train(config.override({"flows.gradient_up.controller": "fixed(1.0)"}), tmp_path / "run")
    last = lines_of(run)[-1]
    assert last["threshold"] == dict.fromkeys(flows, -1.0) | {"gradient_up": 1.0}
    assert last["skip_ratio"] == dict.fromkeys(flows, 1.0) | {"gradient_up": 0.0}


def test_a_run_with_an_agent_resumes_to_the_same_bits(tiny_config, trained, tmp_path):
    config = tiny_config.override(CODECS | DDPG)
    straight = trained(config)
    with pytest.raises(Stop):
        train(config, tmp_path / "halted", observers=[StopAt(3)])
    resumed = train(config, tmp_path / "halted", resume=True)
    chosen = thresholds_of(straight, "activation_up")
    assert chosen == thresholds_of(resumed, "activation_up") and len(set(chosen)) == 4
    for file in ("adapter/adapter_model.safetensors", "controller/activation_up.safetensors"):
        one, other = load_file(straight.folder / file), load_file(resumed.folder / file)
        assert one.keys() == other.keys()
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_steps_of_predicting_codecs_are_steered_resumed_or_not(tiny_config, trained, tmp_path):
    config = tiny_config.override(PREDICTED | STEPS)
    plain = trained(tiny_config.override(PREDICTED))
    straight = train(config, tmp_path / "straight")
    with pytest.raises(Stop):
        train(config, tmp_path / "halted", observers=[StopAt(3)])
    resumed = train(config, tmp_path / "halted", resume=True)
    assert thresholds_of(plain, "activation_up") == [0.5] * 4
    steps = thresholds_of(straight, "activation_up")
    assert steps[0] == 1.0 < steps[1]  # the first round of a tiny run is nearly all basis
    assert thresholds_of(resumed, "activation_up") == steps
    assert thresholds_of(straight, "gradient_down") == [2.0, 3.5, 5.0, 6.5]
    for flow in ("activation_up", "gradient_down"):
        assert straight.result["bytes"][flow] < 0.9 * plain.result["bytes"][flow]
        assert straight.result["bytes"][flow] == resumed.result["bytes"][flow]
    one, other = (load_file(run.adapter / "adapter_model.safetensors") for run in (straight, resumed))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_a_finer_step_sends_more(tiny_config, trained, tmp_path):
    finer = tiny_config.override(PREDICTED | {"flows.activation_up.controller": "fixed(0.125)"})
    runs = train(finer, tmp_path / "finer"), trained(tiny_config.override(PREDICTED))  # of a step of 0.5
    fine, coarse = (run.result["bytes"]["activation_up"] for run in runs)
    assert fine > 1.5 * coarse


def bytes_by_round(run, flow):
    return [
        sum(line["bytes"][flow] for line in lines_of(run) if line["round"] == index) for index in range(1, 5)
    ]


def test_frozen_fronts_stay_as_they_are_and_cost_next_to_nothing(tiny_config, trained, tmp_path):
    config = tiny_config.override(PREDICTED | FREEZE)
    run = trained(config)
    assert thresholds_of(run, "activation_up") == [0.5, 0.5, 0.25, 0.25]
    gradients, activations = bytes_by_round(run, "gradient_down"), bytes_by_round(run, "activation_up")
    assert min(gradients[:2]) > 0 and gradients[2:] == [0, 0]
    assert 0 < 4 * activations[3] < activations[2]  # the round before has sent what will not change any more
    adapters = bytes_by_round(run, "adapter_up")
    assert min(adapters[:2]) > 0 and adapters[2:] == [0, 0]
    assert bytes_by_round(run, "adapter_down")[3] == 0
    losses = [line["eval_loss"] for line in lines_of(run) if line["client"] == "client-0"]
    assert losses[4] != losses[3]  # the body goes on

    whole = config.override({"training.schedule": "constant"})
    half = whole.override({"training.rounds": 2, "flows.activation_up.controller": "fixed(0.5)"})
    at_half, at_end = train(half, tmp_path / "half"), train(whole, tmp_path / "whole")
    one, other = (load_file(run.adapter / "adapter_model.safetensors") for run in (at_half, at_end))
    same = {name.split(".layers.")[1].split(".")[0] for name in one if torch.equal(one[name], other[name])}
    changed = {name.split(".layers.")[1].split(".")[0] for name in one} - same
    assert same and changed and max(map(int, same)) < min(map(int, changed))


def test_fronts_that_rest_send_no_gradient_and_then_learn_resumed_or_not(tiny_config, trained, tmp_path):
    rests = {"flows.activation_up.controller": "freeze(0.5, 0.25, rest=2)"}
    config = tiny_config.override(PREDICTED | rests)
    straight = trained(config)
    assert thresholds_of(straight, "activation_up") == [0.5] * 4
    for flow in ("gradient_down", "adapter_up"):
        sent = bytes_by_round(straight, flow)
        assert sent[:2] == [0, 0] and min(sent[2:]) > 0
    activations = bytes_by_round(straight, "activation_up")
    assert 0 < 2 * activations[1] < min(activations[0], activations[3])
    for index in (2, 3):
        folder = tmp_path / f"halted-{index}"
        with pytest.raises(Stop):
            train(config, folder, observers=[StopAt(index)])
        resumed = train(config, folder, resume=True)
        one, other = (load_file(run.adapter / "adapter_model.safetensors") for run in (straight, resumed))
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
        assert straight.result["bytes"]["activation_up"] == resumed.result["bytes"]["activation_up"]


@pytest.mark.parametrize("form", [{}, U_SHAPE], ids=["standard", "U-shape"])
def test_a_run_whose_fronts_are_frozen_resumes_to_the_same_bits(tiny_config, trained, tmp_path, form):
    config = tiny_config.override(PREDICTED | FREEZE | form)
    straight = trained(config)
    with pytest.raises(Stop):
        train(config, tmp_path / "halted", observers=[StopAt(4)])
    resumed = train(config, tmp_path / "halted", resume=True)
    one, other = (load_file(run.adapter / "adapter_model.safetensors") for run in (straight, resumed))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert straight.result["bytes"]["activation_up"] == resumed.result["bytes"]["activation_up"]


def test_with_fronts_of_the_u_shape_the_body_is_frozen_and_tails_alone_learn(tiny_config, tmp_path):
    config = tiny_config.override(PREDICTED | FREEZE | U_SHAPE | {"training.schedule": "constant"})
    run = train(config, tmp_path / "run")
    for flow in ("gradient_down", "gradient_up"):
        assert min(bytes_by_round(run, flow)[:2]) > 0 and bytes_by_round(run, flow)[2:] == [0, 0]
    down = bytes_by_round(run, "activation_down")
    assert 0 < 4 * down[3] < down[2]  # without dropout in the body it changes no more
    assert min(bytes_by_round(run, "adapter_up")) > 0
    unfrozen = {f"flows.{flow}.controller": "fixed(0.5)" for flow in ("activation_up", "activation_down")}
    half = config.override(unfrozen | {"training.rounds": 2})
    one, other = (
        load_file(r.adapter / "adapter_model.safetensors") for r in (train(half, tmp_path / "half"), run)
    )
    changed = {
        name.split(".layers.")[1].split(".")[0] for name in one if not torch.equal(one[name], other[name])
    }
    assert changed == {"3"}, "the last of four blocks, which is the tail"


def test_an_agent_starts_from_another_run(tiny_config, trained, tmp_path):
    first = trained(tiny_config.override(CODECS | DDPG))
    config = tiny_config.override(CODECS | DDPG | {"control.start_from": str(first.folder)})
    second = train(config, tmp_path / "second")
    agent = load_file(second.folder / "controller" / "activation_up.safetensors")
    assert agent["agent.num_transitions"] == 8
    assert thresholds_of(second, "activation_up") != thresholds_of(first, "activation_up")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"control.start_from": "nowhere"}, "no controller for this run, which has none"),
        (DDPG | {"control.start_from": "nowhere"}, r"no controller for activation_up \(there: none\)"),
        (DDPG | {"control.start_from": "other"}, "activation_up.safetensors does not fit ddpg"),
    ],
)
def test_a_run_to_start_from_must_fit_before_anything_is_written(
    tiny_config, tmp_path, monkeypatch, changes, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other" / "controller").mkdir(parents=True)
    (tmp_path / "other" / "controller" / "activation_up.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ConfigError, match=message):
        train(tiny_config.override(CODECS | changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flows.gradient_down.codec": "int8", "flows.gradient_down.controller": "fixed(0.9)"},
         r"flows\.gradient_down.*a threshold or step, but the codec 'int8' has none; begin it with a temporal stage"),
        ({"flows.activation_up.controller": "fixed(1.5)"}, "thresholds of 1.5 to 1.5.*lie in -1 to 1"),
        ({"flows.activation_up.controller": "fxed(0.9)"}, r"flows\.activation_up\.controller.*did you mean 'fixed'"),
        ({"control.controller": "fixed(2.0)"}, "thresholds of 2 to 2"),
        ({"control.controller": "fixed(0.9)", "flows.activation_up.codec": "fp16",
          "flows.gradient_down.codec": "fp16"}, "no flow has a threshold or step"),
        ({"control.controller": "fixed(0.9)", "flows.gradient_down.codec": PREDICTED["flows.gradient_down.codec"]},
         r"control\.controller.*would set the threshold of activation_up and the step of gradient_down"),
        (PREDICTED | {"flows.activation_up.controller": "rate(1.0, 0.01, 4.0)"},
         r"flows\.activation_up\.controller.*sets steps of 0\.01 to 4; those of 'predict.*lie in 0\.0625 to 15\.9375"),
        ({"flows.activation_up.controller": "rate(1.0, 0.5, 0.9)"},
         r"flows\.activation_up\.controller.*raises the threshold to send less.*sends more at a higher one"),
        ({"flows.gradient_down.controller": "freeze(0.5, 0.6)"},
         r"flows\.gradient_down\.controller.*fronts are frozen by the controller of flows\.activation_up"),
        (FREEZE | {"flows.activation_up.controller": "freeze(0.5, 0.6, rest=4)"},
         r"rest = 4.*training\.rounds = 4.*never learn"),
        (FREEZE | {"flows.gradient_down.controller": "freeze(0.5, 0.6, rest=1)"},
         r"flows\.gradient_down\.controller.*rest = 1.*activation_up alone"),
        (FREEZE | {"flows.activation_up.controller": "freeze(0.5, 0.6, rest=1)",
                   "clients": {"client-1": {"cut": 1}}}, r"rest = 1.*with several cuts"),
        (U_SHAPE | {"flows.activation_up.controller": "freeze(0.5, 0.6, rest=1)"},
         r"rest = 1.*in the U-shape"),
    ],
)  # fmt: skip
def test_a_controller_that_can_set_nothing_is_refused(tiny_config, changes, message):
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        tiny_config.override(CODECS | changes)


def test_methods_with_codecs_of_their_own_drop_controllers(tiny_config):
    config = tiny_config.override(CODECS | DDPG | {"control.controller": "fixed(0.5)"})
    for method in ("splitlora", "frozen_front"):
        plain = configured(config.override({"method": method}))
        assert plain.control.controller is plain.flows.activation_up.controller is None
