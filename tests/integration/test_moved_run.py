"""A run folder that lies elsewhere than it was written, and a model and data that do."""

import shutil

import pytest
from typer.testing import CliRunner

from splitcom.cli import app
from splitcom.errors import ConfigError, RunError
from splitcom.methods.run import train
from splitcom.methods.settings import settings_of
from splitcom.metrics.record import RunFolder


def call(*arguments: object) -> None:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output


def test_a_run_its_model_and_its_data_may_be_moved(tiny_config, tiny_model, tmp_path, monkeypatch):
    old, new, elsewhere = (tmp_path / name for name in ("old", "new", "elsewhere"))
    for folder in (old, elsewhere):
        folder.mkdir()
    shutil.copytree(tiny_model, old / "model")
    rows = "".join(f"{index} and,{index + 1}\n" for index in range(30))
    (old / "rows.csv").write_text("question,answer\n" + rows)
    monkeypatch.chdir(old)
    changes = {"model.source": "./model", "data.source": "rows.csv", "data.prompt": "{question}"}
    config = tiny_config.override({**changes, "data.response": "answer", "training.rounds": 1})
    train(config, "run")

    (old / "run").rename(elsewhere / "moved")
    monkeypatch.chdir(elsewhere)
    call("export", "moved", "adapter")
    call("evaluate", "moved", "--prompts", 0)
    call("generate", "moved", "--prompt", "1 and", "--max-new-tokens", 2)
    call("report", "moved")
    call("train", "--resume", "--out", "moved", "--set", "training.rounds=2")

    old.rename(new)
    model, data = f"model.source={new}/model", f"data.source={new}/rows.csv"
    for command, setting in (
        (("export", "moved", "again"), "model.source"),
        (("generate", "moved", "--prompt", "1 and"), "model.source"),
        (("evaluate", "moved", "--set", model), "data.source"),
        (("train", "--resume", "--out", "moved", "--set", model), "data.source"),
    ):
        with pytest.raises(Exception, match=rf"{setting} = .* not there any more; .* --set {setting}=PLACE"):
            call(*command)
    call("report", "moved")
    call("export", "moved", "again", "--merge", "--set", model)
    call("export", "moved", "copy", "--set", model)
    assert f"{new}/model" in (elsewhere / "copy" / "adapter_config.json").read_text()
    call("generate", "moved", "--prompt", "1 and", "--max-new-tokens", 2, "--set", model)
    call("evaluate", "moved", "--prompts", 0, "--set", model, "--set", data)
    more = ("train", "--resume", "--out", "moved", "--set", "training.rounds=3", "--set", data)
    call(*more, "--set", model)
    with pytest.raises(RunError, match=r"is another one than this run began with; name .* in model\.source"):
        call(*more, "--set", "training.rounds=4", "--set", "model.source=bundled")


def test_what_has_been_moved_with_a_run_is_found_and_known_by_its_weights(
    tiny_config, tiny_model, tmp_path, caplog
):
    old, new = tmp_path / "old" / "project", tmp_path / "new"
    shutil.copytree(tiny_model, old / "models" / "tiny")
    rows = "".join(f"{index} and,{index + 1}\n" for index in range(30))
    (old / "rows.csv").write_text("question,answer\n" + rows)
    changes = {"model.source": str(old / "models" / "tiny"), "data.source": str(old / "rows.csv")}
    columns = {"data.prompt": "{question}", "data.response": "answer", "training.rounds": 1}
    train(tiny_config.override(changes | columns), old / "runs" / "first")
    old.rename(new)
    run = new / "runs" / "first"
    call("train", "--resume", "--out", run, "--set", "training.rounds=2")
    assert f"{new}/models/tiny is taken for it" in caplog.text and f"{new}/rows.csv is taken" in caplog.text

    (new / "models" / "tiny").rename(run / "tiny")
    assert settings_of(RunFolder(run), needs=("model.source",)).model.source == str(run / "tiny")
    weights = run / "tiny" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\1\2\3\4")
    told = rf"'{new}/models/tiny': it is not there .* {run}/tiny has other weights than this run began with"
    with pytest.raises(ConfigError, match=told):
        settings_of(RunFolder(run), needs=("model.source",))
