"""The commands that tell what can be written in settings."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import splitcom
from splitcom.cli import app, main


def shown(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"}, catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_a_setting_is_shown_with_default_type_and_meaning():
    assert "0.001" in shown("settings", "training.lr") and "The highest learning rate." in shown("settings")


def test_the_schema_is_json():
    assert "training" in json.loads(shown("settings", "--schema"))["properties"]


def test_an_unknown_setting_is_refused_with_what_there_is(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["splitcom", "settings", "trainig"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1 and "training" in capsys.readouterr().err


def test_words_are_shown_with_arguments_and_an_example():
    assert "uniform(step, dead_zone=0.0, prompt=1, first=1.0)" in shown("codecs")
    assert "such as bangbang(0.95, 0.995)" in shown("controllers")
    assert "trimmed_mean(part)" in shown("aggregators")


def test_the_module_runs_as_the_command_does():
    told = subprocess.run(
        [sys.executable, "-m", "splitcom", "--version"], check=True, capture_output=True, text=True
    )
    assert told.stdout == f"splitcom {splitcom.__version__}\n"
