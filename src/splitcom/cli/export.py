"""`splitcom export`: a run's adapter, or the model merged with it."""

from pathlib import Path
from typing import Annotated

import typer


def export(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; must not exist.")],
    merge: Annotated[
        bool, typer.Option(help="Write the whole model with the adapter merged into it.")
    ] = False,
) -> None:
    """Write a run's adapter as a standard PEFT adapter, or the model merged with it."""

    from splitcom.methods.export import export_run
    from splitcom.report.terminal import Terminal

    export_run(run, out, merge=merge)
    Terminal().say(f"written to {out}")
