"""Forms of LoRA, adapters to begin from, most steps, passes, optimizers: each through whole runs, split both ways."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from splitcom.config import Config
from splitcom.errors import AdapterError, ConfigError
from splitcom.methods import splitcom
from splitcom.methods.run import train
from splitcom.models import load_model

from .tiny_model import STILL

U_SHAPE = {"model.tail_blocks": 1}
EXACT = {
    "flows.adapter_up.codec": "none",
    "flows.adapter_down.codec": "none",
    "data.samples": 9,
    "training.rounds": 1,
}


def adapter_of(run):
    return load_file(run.adapter / "adapter_model.safetensors")


def lines_of(run):
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("shape", [{}, U_SHAPE], ids=["standard", "u-shape"])
def test_a_run_begins_from_an_adapter_and_without_a_step_leaves_it_as_it_was(tiny_config, tmp_path, shape):
    config = LoraConfig(
        r=3,
        lora_alpha=5,
        use_dora=True,
        target_modules=["q_proj", "up_proj"],
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    get_peft_model(load_model(tiny_config.model.source), config).save_pretrained(tmp_path / "adapter")
    still = {"lora.init": str(tmp_path / "adapter"), **STILL}
    run = train(tiny_config.override(EXACT | still | shape), tmp_path / "run")
    began, left = load_file(tmp_path / "adapter" / "adapter_model.safetensors"), adapter_of(run)
    assert began.keys() == left.keys() and any("magnitude" in name for name in began)
    assert all(torch.equal(tensor, left[name]) for name, tensor in began.items())


def test_settings_that_are_not_the_adapters_are_refused(tiny_config, tmp_path):
    config = LoraConfig(r=3, target_modules=["q_proj"], task_type="CAUSAL_LM")
    get_peft_model(load_model(tiny_config.model.source), config).save_pretrained(tmp_path / "adapter")
    begin = tiny_config.override({"lora.init": str(tmp_path / "adapter")})
    with pytest.raises(ConfigError, match=r"lora.rank = 4: the adapter .* has 3; leave it out"):
        train(begin.override({"lora.rank": 4}), tmp_path / "run")
    with pytest.raises(AdapterError, match=r"lora.init = .*only one of them has"):
        train(begin.override({"lora.train_front": False}), tmp_path / "run")


@pytest.mark.parametrize(
    "changes",
    [
        {"lora.use_dora": True, "lora.targets": "all-linear"},
        {"training.optimizer": "adafactor", "client.checkpointing": True, "engine.checkpointing": True}
        | U_SHAPE,
    ],
    ids=["dora", "adafactor, checkpointing"],
)
def test_a_run_learns_with_it(tiny_config, tmp_path, changes):
    run = train(tiny_config.override({"data.samples": 12, **changes}), tmp_path / "run")
    assert run.result["eval"]["fell_by"] > 0.005 and run.result["warnings"] == []


@pytest.mark.parametrize("shape", [{}, U_SHAPE, {"method": "fedlora"}], ids=["standard", "u-shape", "whole"])
def test_several_passes_learn_what_one_does(tiny_config, tmp_path, shape):
    plain = {
        f"flows.{flow}.codec": "none"
        for flow in ("activation_up", "activation_down", "gradient_down", "gradient_up")
    }
    changes = {"training.lr": 1e-3, "training.label_smoothing": 0.1, "evaluation.codec": "none"}
    config = tiny_config.override(EXACT | plain | changes | shape)
    one, several = (
        train(config.override({"training.accumulate": number}), tmp_path / str(number)) for number in (1, 3)
    )
    ours, theirs = adapter_of(one), adapter_of(several)
    assert all(torch.allclose(ours[name], theirs[name], rtol=1e-3, atol=2e-6) for name in ours)
    assert one.result["bytes"] == several.result["bytes"]
    assert one.result["eval"]["loss"] == pytest.approx(several.result["eval"]["loss"], abs=1e-5)


def test_the_most_steps_are_shared_out_over_the_rounds(tiny_config, tmp_path):
    changes = {"training.max_steps": 5, "training.rounds": 3}
    run = train(tiny_config.override(changes), tmp_path / "run")
    steps = {(line["client"], line["round"]): line["steps"] for line in lines_of(run)}
    # 9 rows are three batches of four, 8 are two; a round has 1, 2 and 2 of the five steps
    assert [steps["client-0", index] for index in (1, 2, 3)] == [1, 2, 2]
    assert [steps["client-2", index] for index in (1, 2, 3)] == [1, 2, 2]
    with pytest.raises(ConfigError, match=r"training.max_steps = 2.*training.rounds = 3"):
        tiny_config.override({"training.max_steps": 2, "training.rounds": 3})


def test_further_steps_of_the_body_learn_more_and_send_nothing(tiny_config, tmp_path):
    config = tiny_config.override({"data.samples": 12, "lora.train_front": False, "evaluation.codec": "fp16"})
    one, three = (
        train(config.override({"training.body_steps": steps}), tmp_path / str(steps)) for steps in (1, 3)
    )
    assert three.result["eval"]["fell_by"] > 1.5 * one.result["eval"]["fell_by"] > 0
    assert three.result["bytes"] == one.result["bytes"]
    assert [line["steps"] for line in lines_of(three)] == [line["steps"] for line in lines_of(one)]


def test_further_steps_of_the_body_have_dropout_of_their_own_and_are_the_same_when_resumed(
    tiny_config, tmp_path
):
    still = {"training.schedule": "constant", "training.warmup": 0.0}
    further = {"training.body_steps": 2, "lora.dropout": 0.5, "training.rounds": 2}
    config = tiny_config.override({"data.samples": 9, **still, **further})
    whole = train(config, tmp_path / "whole")
    train(config.override({"training.rounds": 1}), tmp_path / "parts")
    parts = train(config, tmp_path / "parts", resume=True)
    ours, theirs = adapter_of(whole), adapter_of(parts)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [(U_SHAPE, "model.tail_blocks = 1"), ({"method": "fedlora"}, "training.split = false")],
)
def test_without_labels_the_body_takes_no_further_steps(tiny_config, tmp_path, changes, reason):
    with pytest.raises(
        ConfigError, match=rf"training.body_steps = 2: with {reason} the server has no labels"
    ):
        train(tiny_config.override({"training.body_steps": 2, **changes}), tmp_path / "run")


def test_what_is_decided_about_fronts_stands_in_the_run_and_is_said(
    tiny_config, tmp_path, monkeypatch, capsys
):
    from splitcom.cli.ending import show_end
    from splitcom.report.terminal import Terminal

    monkeypatch.setattr(splitcom, "num_blocks", lambda config: 20)
    run = train(tiny_config.override({"preset": "quality"}), tmp_path / "run")
    assert run.result["bytes"]["gradient_down"] == run.result["bytes"]["adapter_up"] == 0
    assert Config.load(run.folder / "config.toml").lora.train_front is False
    show_end(Terminal(), run)
    assert "lora.train_front = true trains them" in capsys.readouterr().out
    rests = {"training.rounds": 2, "flows.activation_up.controller": "freeze(0.3, 0.15, rest=1)"}
    show_end(
        Terminal(),
        train(
            tiny_config.override({"preset": "quality", **rests, "lora.train_front": True}), tmp_path / "rests"
        ),
    )
    assert "in the first round fronts did not learn" in capsys.readouterr().out
