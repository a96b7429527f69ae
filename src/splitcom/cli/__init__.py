"""The command line: one file for each command, and no logic; torch is imported only by commands that need it."""

import sys

import typer
from rich.console import Console
from rich.text import Text

from splitcom.cli.campaign import campaign
from splitcom.cli.certs import certs
from splitcom.cli.compare import compare
from splitcom.cli.demo import demo
from splitcom.cli.evaluate import evaluate
from splitcom.cli.export import export
from splitcom.cli.generate import generate
from splitcom.cli.inspect import inspect
from splitcom.cli.join import join
from splitcom.cli.report import report
from splitcom.cli.serve import serve
from splitcom.cli.train import train
from splitcom.cli.watch import watch
from splitcom.errors import SplitComError

INTERRUPTED = 130  # typer's exit code for Ctrl-C

app = typer.Typer(
    name="splitcom",
    help="Fine-tune language models split between clients and a server, and see what it cost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for command in (
    demo,
    train,
    compare,
    campaign,
    watch,
    evaluate,
    generate,
    inspect,
    export,
    report,
    serve,
    join,
):
    app.command()(command)
app.add_typer(certs, name="certs")


def main() -> None:
    """Run the command line; an error of ours is its text and exit code 1, Ctrl-C is 130."""
    console = Console(stderr=True)
    try:
        app()
    except SplitComError as error:
        console.print(Text("error: ", style="bold red") + Text(str(error)), soft_wrap=True)
        sys.exit(1)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            console.print(
                "interrupted; what was trained up to the last completed round is kept: go on with --resume "
                "(compare goes on by itself)",
                soft_wrap=True,
            )
        raise
