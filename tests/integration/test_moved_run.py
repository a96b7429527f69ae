"""A run folder that lies elsewhere than it was written, and a model and data that do."""

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from splitcom.cli import app
from splitcom.errors import ConfigError, DataError, RunError
from splitcom.methods.run import train
from splitcom.methods.serve import ServeOptions, serve
from splitcom.methods.settings import settings_of
from splitcom.metrics.record import RunFolder

from .parties import make_authority


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


@pytest.fixture
def project(tiny_config, tmp_path) -> Path:
    """A folder with a finished run of two rounds that has written text, its rows, and others of the same form."""
    for name, start in (("rows.csv", 0), ("held_out.csv", 200), ("other.csv", 100)):
        rows = "".join(f"{index} and,{index + 1}\n" for index in range(start, start + 30))
        (tmp_path / name).write_text("question,answer\n" + rows)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "held_out.csv").symlink_to(tmp_path / "other.csv")
    places = {"data.source": str(tmp_path / "rows.csv"), "data.held_out": str(tmp_path / "held_out.csv")}
    columns = {"data.prompt": "{question}", "data.response": "answer", "evaluation.max_new_tokens": 2}
    asked = {"evaluation.generate": 1, "training.schedule": "constant", "training.keep_checkpoints": 3}
    train(tiny_config.override(places | columns | asked), tmp_path / "run")
    return tmp_path


def content_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("setting", "place", "error", "told"),
    [
        ("model.source", "bundled", RunError, "another one than this run began with"),
        ("data.source", "{}/other.csv", DataError, "the rows are not those that this run began with"),
        ("data.held_out", "{}/other/held_out.csv", DataError, "the rows are not those that this run began with"),
        ("data.held_out", "/held_out.csv", DataError, "no such file"),  # one with such an end is in the project
    ],
)  # fmt: skip
def test_what_is_refused_leaves_the_run_as_it_was(project, setting, place, error, told):
    run = RunFolder(project / "run")
    changes = {setting: place.format(project)}

    def check_refused(more=(), from_round=None):
        before = content_of(run.path)
        with pytest.raises(error, match=told):
            train(settings_of(run, changes | dict(more)), run.path, resume=True, from_round=from_round)
        assert content_of(run.path) == before

    check_refused()
    check_refused({"training.rounds": 3})
    check_refused(from_round=1)
    run.forget_result()  # as if it had been interrupted
    check_refused()
    train(settings_of(run), run.path, resume=True)


@pytest.mark.parametrize("from_round", [None, 1])
def test_a_server_that_is_refused_leaves_the_run_as_it_was(project, from_round):
    run = project / "run"
    config = settings_of(RunFolder(run), {"model.source": "bundled", "training.rounds": 3})
    authority = make_authority(project / "authority")
    before = content_of(run)
    options = ServeOptions("127.0.0.1:0", authority, run, resume=True, from_round=from_round)
    with pytest.raises(RunError, match="another one than this run began with"):
        serve(config, options)
    assert content_of(run) == before
