"""--quiet, --json and --log-level: the same for every command that trains or measures."""

import json
import logging

import pytest
import typer
from typer.testing import CliRunner

from splitcom.cli import app
from splitcom.cli.output import spoken
from splitcom.report.terminal import Terminal

LOG = logging.getLogger("splitcom.tests")


@spoken
def measure(value: int = 1) -> dict[str, int]:
    LOG.info("looking")
    Terminal().say(f"it is {value}")
    Terminal(stderr=True).say("warning: it is late")
    return {"value": value}


@spoken
def act() -> None:
    Terminal().say("done")


def asked(command, *arguments):
    own = typer.Typer()
    own.command()(command)
    found = CliRunner().invoke(own, arguments)
    assert found.exit_code == 0, found.output
    return found.stdout, found.stderr


def test_what_a_command_says_is_chosen_by_its_options():
    assert asked(measure, "--value", "3") == ("it is 3\n", "warning: it is late\n")
    assert asked(measure, "--quiet") == ("", "warning: it is late\n")
    out, err = asked(measure, "--json", "--value", "3")
    assert json.loads(out) == {"value": 3} and err == "warning: it is late\n"
    _, err = asked(measure, "--quiet", "--log-level", "info")
    assert "INFO looking" in err
    assert "looking" not in asked(measure)[1] and not logging.getLogger("splitcom").handlers


def test_a_command_without_a_result_has_no_json():
    own = typer.Typer()
    own.command()(act)
    found = CliRunner().invoke(own, ["--json"])
    assert found.exit_code == 2 and "No such option" in found.output
    assert asked(act, "-q") == ("", "")


@pytest.mark.parametrize("command", ["train", "compare", "serve", "evaluate", "inspect", "audit"])
def test_commands_that_have_a_result_can_write_it_as_json(command):
    group = typer.main.get_command(app)
    names = {name for option in group.commands[command].params for name in option.opts}
    assert {"--json", "--quiet", "--log-level"} <= names


def test_inspect_writes_what_it_shows():
    found = CliRunner().invoke(app, ["inspect", "--json"])
    content = json.loads(found.stdout)
    assert [part["name"] for part in content["model"]["parts"]] == ["front", "body"]
    assert content["bytes_of_step"]
