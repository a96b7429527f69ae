"""`splitcom join`: one client of a run over a network."""

from pathlib import Path
from typing import Annotated

import typer


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
        Path, typer.Option(help="Folder for what this client goes on from after a restart.")
    ] = Path("runs/client"),
    model: Annotated[
        str | None,
        typer.Option(help="The base model, where this machine has it; without, the server sends the front."),
    ] = None,
    device: Annotated[
        str, typer.Option(help="Where to compute; 'auto' takes cuda where there is one.")
    ] = "auto",
    cache: Annotated[Path, typer.Option(help="Folder for weights that the server sends.")] = Path(
        "~/.cache/splitcom"
    ),
    patience: Annotated[
        float, typer.Option(help="Seconds to go on trying to reach the server before giving up.")
    ] = 600.0,
    keep_state: Annotated[
        bool,
        typer.Option("--keep-state", help="Leave states and references on the disk when the run is over."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and measure the link, but do not train.")
    ] = False,
) -> None:
    """Take part in a run with this machine's rows; no text leaves it. Give the same command again to go on."""
    from splitcom.cli.status import log_to, print_check
    from splitcom.methods.join import JoinOptions, check
    from splitcom.methods.join import join as take_part
    from splitcom.report.terminal import Terminal

    terminal = Terminal()
    log_to(terminal)
    options = JoinOptions(
        address,
        data,
        identity,
        state,
        cache.expanduser(),
        held_out,
        model,
        device,
        give_up_s=patience,
        keeps_state=keep_state,
    )
    if dry_run:
        print_check(terminal, check(options))
        return
    take_part(
        options,
        lambda train, own: terminal.say(f"data: {train.report}\nheld out: {own.report}"),
    )
    terminal.say("the run is over; the adapter is at the server")
