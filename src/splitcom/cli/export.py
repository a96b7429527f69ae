"""`splitcom export`: a run's adapter, or the model merged with it."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from splitcom.cli.train import Assignments

Dtype = Literal["float32", "bfloat16", "float16"]


def export(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; must not exist.")],
    merge: Annotated[
        bool, typer.Option(help="Write the whole model with the adapter merged into it.")
    ] = False,
    dtype: Annotated[
        Dtype, typer.Option(help="Number format of the adapter; a merged model keeps its own.")
    ] = "float32",
    assignments: Assignments = None,
) -> None:
    """Write a run's adapter as a standard PEFT adapter, or the model merged with it."""

    from splitcom.methods.export import export_run
    from splitcom.report.terminal import Terminal
    from splitcom.settings.tree import parse_assignment

    export_run(run, out, merge=merge, dtype=dtype, changes=dict(map(parse_assignment, assignments or [])))
    how = (
        "from_pretrained loads it as any model" if merge else "PeftModel.from_pretrained puts it on its model"
    )
    Terminal().say(f"written to {out} ({how})")
