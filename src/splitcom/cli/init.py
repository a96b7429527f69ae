"""`splitcom init`: a first settings file for one's own rows."""

from pathlib import Path
from typing import Annotated

import typer

from splitcom.cli.train import Assignments


def init(
    source: Annotated[
        str | None,
        typer.Argument(metavar="[FILE]", help="The rows: a file, a folder, or a data set on the hub."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The settings file to write.")] = Path("run.toml"),
    model: Annotated[
        str | None, typer.Option(help="'bundled', a local folder, or a name on the hub.")
    ] = None,
    clients: Annotated[int | None, typer.Option(min=1, help="How many clients take part.")] = None,
    by: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="A column of the rows whose values are the clients.")
    ] = None,
    labels_stay: Annotated[
        bool,
        typer.Option("--labels-stay", help="Keep labels at the clients: the U-shape."),
    ] = False,
    memory_gb: Annotated[
        float | None,
        typer.Option(
            min=0.01, help="Memory of a client; the cut is as deep as weights fit, to half of the blocks."
        ),
    ] = None,
    assignments: Assignments = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing: guess what is not given.")] = False,
) -> None:
    """Look at your rows and write a commented settings file for a first run.

    On a terminal it asks for what is not given.
    """

    import sys

    from splitcom.data.sources import find_source
    from splitcom.errors import ConfigError

    asks = sys.stdin.isatty() and not yes
    if source is None:
        if not asks:
            raise ConfigError("splitcom init: name a file or folder of rows, or a data set on the hub")
        source = str(typer.prompt("Your rows (file, folder, or data set on the hub)"))
    find_source(source)  # so that a wrong name is told before anything else is asked

    from splitcom.methods.proposal import propose, write_proposal
    from splitcom.report.terminal import Terminal
    from splitcom.settings.tree import parse_assignment

    terminal = Terminal()
    if asks:
        model = model or typer.prompt("Model (folder, or name on the hub)", default="bundled")
        if clients is None and by is None:
            clients = typer.prompt("Clients", default=3, type=int)
        labels_stay = labels_stay or typer.confirm("Must labels stay at the clients (U-shape)?")
    with terminal.working("reading"):
        proposal = propose(
            source,
            model or "bundled",
            clients=clients,
            by_column=by,
            labels_stay=labels_stay,
            memory_gb=memory_gb,
            changes=dict(map(parse_assignment, assignments or [])),
        )
    write_proposal(proposal, out)
    terminal.say(
        f"{out.read_text(encoding='utf-8')}\nwritten  {out}\nnext     splitcom data {out}     what the model will see\n"
        f"         splitcom train {out} --out runs/first"
    )
