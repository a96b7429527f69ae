"""The best adapter is what a run leaves, exactly as it was; a run without progress ends."""

import json

import pytest
import torch
from safetensors.torch import load_file

from splitcom.methods.run import train
from splitcom.report.folder import as_result
from splitcom.server.observe import Observer

from .tiny_model import write_tiny_model

# The rate is far too high, and does not depend on how many rounds there are.
RISING = {
    "training.lr": 1.5,
    "training.schedule": "constant",
    "training.warmup": 0,
    "training.rounds": 4,
    "training.keep": "best",
    "training.clip_norm": False,
    "engine.max_tokens_per_pass": None,  # at such a rate the rounding of two passes makes another course of losses
    "data.samples": 20,
    "flows.adapter_up.codec": "fp16",
    "flows.adapter_down.codec": "delta > int8 > zstd",
}
U_SHAPE = {"model.tail_blocks": 1}


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    """One whose loss falls and rises at this rate."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny-model"), vocabulary=300)


class Stop(BaseException):
    pass


class StopIn(Observer):
    def __init__(self, round_index):
        self._round = round_index

    def on_step(self, report):
        if report.round == self._round:
            raise Stop


def adapter_of(run):
    return load_file(run.adapter / "adapter_model.safetensors")


def assert_same(one, other):
    ours, theirs = adapter_of(one), adapter_of(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def best_of(run):
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    losses = {line["round"]: line["eval_loss"] for line in lines}
    return min(losses, key=lambda index: losses[index])


@pytest.mark.parametrize("changes", [{}, U_SHAPE], ids=["standard", "u-shape"])
def test_the_best_round_is_what_is_left_to_the_bit(tiny_config, tmp_path, changes):
    config = tiny_config.override(RISING | changes)
    run = train(config, tmp_path / "run")
    best = best_of(run)
    assert 0 < best < 4, "the test needs a loss that falls and rises"
    shorter = train(config.override({"training.rounds": best, "training.keep": "last"}), tmp_path / "shorter")
    assert_same(run, shorter)
    found = run.result["eval"]
    assert found["round"] == best and found["exact"]
    assert found["loss"] == pytest.approx(shorter.result["eval"]["loss"], rel=1e-3)
    assert f"round {best}, the best of 4" in as_result(run.result).ending

    if not changes:
        with pytest.raises(Stop):
            train(config, tmp_path / "halted", observers=[StopIn(best + 1)])
        again = train(config, tmp_path / "halted", resume=True)
    else:  # a run that has ended goes on from its last round, not from the best
        ended = train(config.override({"training.rounds": best + 1}), tmp_path / "grown")
        again = train(config, ended.folder, resume=True)
    assert_same(run, again)
    assert again.result["eval"] == found


def test_a_run_without_progress_ends_and_goes_on_with_more_patience(tiny_config, tmp_path):
    config = tiny_config.override(RISING | {"training.patience": 1})
    run = train(config, tmp_path / "run")
    ended = run.result["rounds"]
    assert ended == best_of(run) + 1 < 4 and run.result["ended_by"] == {"patience": 1}
    assert "training.patience = 1" in as_result(run.result).ending
    assert train(config, run.folder, resume=True).result["rounds"] == ended
    config = config.override({"training.patience": 9})
    longer, straight = train(config, run.folder, resume=True), train(config, tmp_path / "straight")
    assert longer.result["rounds"] == 4 and longer.result["ended_by"] == {"rounds": 4}
    assert_same(longer, straight)
