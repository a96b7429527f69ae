"""The best adapter is what a run leaves, exactly as it was; a run without progress ends."""

import json

import pytest
import torch
from safetensors.torch import load_file

from splitcom.methods.run import train
from splitcom.report.folder import as_result
from splitcom.server.evaluation import Evaluation
from splitcom.server.observe import Observer

COURSE = [4.0, 2.0, 1.0, 3.0, 5.0]
RISING = {
    "training.lr": 0.05,
    # the rate does not depend on how many rounds there are
    "training.schedule": "constant",
    "training.warmup": 0,
    "training.rounds": 4,
    "training.keep": "best",
    "data.samples": 20,
    "flows.adapter_up.codec": "fp16",
    "flows.adapter_down.codec": "delta > int8 > zstd",
}
U_SHAPE = {"model.tail_blocks": 1}


@pytest.fixture(autouse=True)
def course(monkeypatch):
    """Held-out losses that fall and rise: at a rate at which real ones do, they are others on another processor."""
    run = Evaluation.run

    def told(self, round_index, *, exact=False):
        found = run(self, round_index, exact=exact)
        return found if exact else found._replace(loss=COURSE[round_index])

    monkeypatch.setattr(Evaluation, "run", told)


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
    assert best == 2
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
