"""A run folder that lies elsewhere than it was written, and a model and data that do."""

import shutil

import pytest
from typer.testing import CliRunner

from splitcom.cli import app
from splitcom.errors import RunError
from splitcom.methods.run import train


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
