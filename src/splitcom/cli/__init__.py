"""The command line: one file for each command, and no logic; torch is imported only by commands that need it."""

import inspect as reflection
import sys
from typing import Annotated

import typer

from splitcom.cli.admin import admin
from splitcom.cli.audit import audit
from splitcom.cli.campaign import campaign
from splitcom.cli.certs import certs
from splitcom.cli.compare import compare
from splitcom.cli.data import data
from splitcom.cli.demo import demo
from splitcom.cli.evaluate import evaluate
from splitcom.cli.export import export
from splitcom.cli.generate import generate
from splitcom.cli.init import init
from splitcom.cli.inspect import inspect
from splitcom.cli.join import join
from splitcom.cli.report import report
from splitcom.cli.serve import serve
from splitcom.cli.settings import settings
from splitcom.cli.train import train
from splitcom.cli.watch import watch
from splitcom.cli.words import aggregators, codecs, controllers
from splitcom.errors import SplitComError
from splitcom.foreign import visible
from splitcom.report.terminal import Terminal, allow_any_text, line

INTERRUPTED = 130  # typer's exit code for Ctrl-C
_ERROR_CHARACTERS = 10_000  # a text from the other side may be in an error
_AGAIN = {"compare", "campaign", "join"}  # go on where they were, when they are given again

app = typer.Typer(
    name="splitcom",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
PANELS = {
    "Begin": (demo, init, data, inspect),
    "Train": (train, compare, campaign),
    "See what came of it": (watch, report, evaluate, generate, export, audit),
    "Over a network": (serve, join),
    "Look things up": (settings, codecs, controllers, aggregators),
}
"""The commands as `--help` groups them."""
COMMANDS = tuple(command for panel in PANELS.values() for command in panel)


def _show_version(asked: bool) -> None:
    if asked:
        import splitcom

        Terminal().say(f"splitcom {splitcom.__version__}")
        raise typer.Exit


@app.callback()
def _splitcom(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Fine-tune language models split between clients and a server, and see what it cost.

    To begin: "splitcom demo" on what ships with the package, or "splitcom init FILE" on your own rows.
    """


for panel, members in PANELS.items():
    for command in members:
        app.command(rich_help_panel=panel)(command)
for name, group in (("certs", certs), ("admin", admin)):
    app.add_typer(group, name=name, rich_help_panel="Over a network")


def main() -> None:
    """Run the command line; an error of ours is its text and exit code 1, Ctrl-C is 130."""
    allow_any_text()
    try:
        app()
    except SplitComError as error:
        _fail(error)
    except OSError as error:
        if error.filename is None:  # not of a file: nothing that a sentence would explain
            raise
        _fail(f"{error.filename}: {error.strerror or error}")
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            Terminal(stderr=True).say(f"interrupted{how_to_go_on(*sys.argv[1:2])}")
        raise


def how_to_go_on(name: str = "") -> str:
    """What is kept of a command that has been interrupted, and how it goes on; nothing if nothing is kept.

    >>> how_to_go_on("join")
    '; what was trained up to the last completed round is kept: give the same command again to go on'
    >>> how_to_go_on("inspect")
    ''
    """
    resumes = any(
        command.__name__ == name and "resume" in reflection.signature(command).parameters
        for command in COMMANDS
    )
    if not resumes and name not in _AGAIN:
        return ""
    way = "go on with --resume" if resumes else "give the same command again to go on"
    return f"; what was trained up to the last completed round is kept: {way}"


def _fail(reason: object) -> None:
    text = visible(reason, _ERROR_CHARACTERS, lines=True)
    Terminal(stderr=True).print(line("error: ", "bold red") + line(text), soft_wrap=True)
    sys.exit(1)
