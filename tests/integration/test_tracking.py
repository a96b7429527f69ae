"""Runs in TensorBoard, MLflow and Weights & Biases; the latter two where they are installed."""

import json
import sys

import pytest

import splitcom
from splitcom.errors import ConfigError, MissingExtraError
from splitcom.methods.tracking import TRACKERS, numbers_of, trackers


@pytest.fixture
def tracked(tiny_config, tmp_path, monkeypatch):
    """Train with a tracker; gives the run folder and the held-out losses of its metrics.jsonl, by round."""

    def run(name):
        monkeypatch.chdir(tmp_path)
        folder = tmp_path / "run"
        with trackers([name], folder, tiny_config)[0] as tracker:
            splitcom.train(tiny_config, folder, observers=[tracker])
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return folder, {line["round"]: line["eval_loss"] for line in lines}

    return run


def test_tensorboard_gets_the_losses_of_metrics(tracked):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder, losses = tracked("tensorboard")

    events = accumulator.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()

    shown = {event.step: event.value for event in events.Scalars("loss/held_out")}
    assert shown == pytest.approx(losses)
    assert "bytes/activation_up" in events.Tags()["scalars"]


@pytest.mark.filterwarnings("ignore")
def test_mlflow_gets_the_losses_of_metrics(tracked, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(f"file:{tmp_path}/mlruns")
    folder, losses = tracked("mlflow")

    run = json.loads((folder / "trackers.json").read_text())["mlflow"]

    shown = {
        metric.step: metric.value for metric in mlflow.MlflowClient().get_metric_history(run, "loss/held_out")
    }
    assert shown == pytest.approx(losses)
    assert mlflow.get_run(run).data.params["training.rounds"] == str(max(losses))


@pytest.mark.filterwarnings("ignore")
def test_wandb_writes_a_run_without_a_network(tracked, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder, _ = tracked("wandb")

    run = json.loads((folder / "trackers.json").read_text())["wandb"]

    assert list((tmp_path / "wandb").glob(f"offline-run-*{run}/*.wandb"))


@pytest.mark.parametrize("name", ["mlflow", "wandb"])
def test_a_tracker_that_is_not_installed_is_said_before_training(name, tiny_config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=r"splitcom\[track\]"):
        trackers([name], tmp_path, tiny_config)


def test_an_unknown_tracker_is_refused_with_those_there_are(tiny_config, tmp_path):
    with pytest.raises(ConfigError, match=", ".join(TRACKERS)):
        trackers(["tensorbord"], tmp_path, tiny_config)


def test_numbers_are_of_the_whole_round():
    line = {"loss": 2.0, "eval_loss": None, "bytes": {"total": 5}, "threshold": {"activation_up": 0.9}}
    lines = [{**line, "skip_ratio": {"activation_up": 0.5}}, {**line, "loss": None, "skip_ratio": {}}]

    assert numbers_of(lines) == {
        "loss/train": 2.0,
        "bytes/total": 10.0,
        "threshold/activation_up": 0.9,
        "skip/activation_up": 0.25,
    }


def test_a_classifier_has_an_accuracy_and_no_perplexity():
    line = {"loss": None, "eval_loss": 0.5, "bytes": {}, "threshold": {}, "skip_ratio": {}}
    assert numbers_of([line]).keys() == {"loss/held_out", "perplexity/held_out"}
    assert numbers_of([line | {"eval_accuracy": 0.75}]) == {"loss/held_out": 0.5, "accuracy/held_out": 0.75}
