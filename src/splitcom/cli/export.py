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
    from rich.console import Console

    from splitcom.methods.export import export_run

    export_run(run, out, merge=merge)
    Console().print(f"written to {out}", highlight=False, soft_wrap=True)
