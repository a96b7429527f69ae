"""`splitcom join`: one client of a run over a network."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from splitcom.cli.log import LogFormat
from splitcom.cli.output import spoken
from splitcom.errors import ConfigError

if TYPE_CHECKING:
    from splitcom.methods.join import Check
    from splitcom.report.terminal import Terminal


@spoken
def join(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="The server.")],
    data: Annotated[
        Path, typer.Option(help="This client's rows: CSV, TSV, JSON or Parquet. They stay here.")
    ],
    identity: Annotated[Path, typer.Option(help="The bundle from `splitcom certs issue`.")],
    held_out: Annotated[
        Path | None, typer.Option(help="Rows for evaluation; without, some of --data are held out.")
    ] = None,
    state: Annotated[
        Path, typer.Option(help="Folder from which this client goes on after a restart.")
    ] = Path("runs/client"),
    model: Annotated[
        str | None,
        typer.Option(help="The base model, if this machine has it; without, the server sends the front."),
    ] = None,
    device: Annotated[
        str, typer.Option(help="Where to compute; 'auto' takes cuda if there is one.")
    ] = "auto",
    cache: Annotated[Path, typer.Option(help="Folder for weights that the server sends.")] = Path(
        "~/.cache/splitcom"
    ),
    patience: Annotated[float, typer.Option(help="For how many seconds to try to reach the server.")] = 600.0,
    keep_state: Annotated[
        bool,
        typer.Option("--keep-state", help="Leave states and references on the disk when the run is over."),
    ] = False,
    columns: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Columns that may be read; refuse a server that asks for others."),
    ] = None,
    expect: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Refuse a server with another setting, such as data.prompt='{question} =>'. Repeatable.",
        ),
    ] = None,
    max_download_mb: Annotated[
        float, typer.Option(help="The most MB of the front's weights that the server may send.")
    ] = 20_000.0,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether to join.")] = False,
    log_format: LogFormat = "text",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and measure the link, but do not train.")
    ] = False,
) -> None:
    """Take part in a run with this machine's rows. Give the same command again to go on.

    The rows stay here. Activations leave, and text can be recovered from them.

    On a terminal, says what leaves this machine and asks, when a run is joined for the first time.
    """
    from splitcom.cli.progress import RowsBar
    from splitcom.cli.status import log_to, print_check
    from splitcom.methods.consent import Pins
    from splitcom.methods.join import JoinOptions, check
    from splitcom.methods.join import join as take_part
    from splitcom.report.terminal import Terminal
    from splitcom.settings.tree import parse_assignment

    terminal = Terminal()
    log_to(terminal, log_format)
    options = JoinOptions(
        address,
        data,
        identity,
        state,
        _in_home(cache),
        held_out,
        model,
        device,
        give_up_s=patience,
        keeps_state=keep_state,
        max_download_bytes=int(1e6 * max_download_mb),
        pins=Pins(
            None if columns is None else frozenset(name.strip() for name in columns.split(",")),
            dict(parse_assignment(given, "--expect") for given in expect or []),
        ),
    )
    if dry_run:
        print_check(terminal, check(options))
        terminal.say("all is well; leave out --dry-run to take part")
        return
    with RowsBar(terminal) as bar:
        take_part(
            options,
            lambda train, own: terminal.say(f"data: {train.report}\nheld out: {own.report}"),
            lambda found: yes or not sys.stdin.isatty() or _asks(terminal, found),
            bar,
        )
    terminal.say("the run is over; the adapter is at the server")


def _asks(terminal: "Terminal", found: "Check") -> bool:
    """Whether whoever sits there lets this leave the machine."""
    from splitcom.cli.status import print_check

    print_check(terminal, found)
    return typer.confirm("take part?")


def _in_home(folder: Path) -> Path:
    try:
        return folder.expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{folder}: this user has no home folder; name a folder with --cache") from error
