"""`splitcom data`: what a model would see of rows."""

from pathlib import Path
from typing import Annotated

import typer

from splitcom.cli.train import Assignments


def data(
    source: Annotated[
        Path, typer.Argument(metavar="FILE", help="A settings file (.toml), or a file or folder of rows.")
    ],
    assignments: Assignments = None,
    model: Annotated[
        str | None, typer.Option(help="The model whose tokenizer reads; without, that of the settings.")
    ] = None,
    samples: Annotated[int, typer.Option(min=0, help="Samples to show.")] = 3,
) -> None:
    """Show what the model would see: samples with the learnt part marked, lengths, what is cut or dropped.

    Of a settings file, also who gets how much. Of a file of rows, columns are guessed as `splitcom init` does, if
    --set names none. Nothing is trained, and no weights are loaded.
    """

    from splitcom.methods.preview import preview, source_of
    from splitcom.methods.proposal import how_to_read
    from splitcom.report.preview import print_preview
    from splitcom.report.terminal import Terminal
    from splitcom.settings.tree import parse_assignment

    terminal = Terminal()
    config, alone = source_of(source)
    changes = dict(map(parse_assignment, assignments or []))
    if model is not None:
        changes["model.source"] = model
    with terminal.working("reading"):
        if alone and not any(key.startswith("data.") for key in changes):
            changes |= how_to_read(str(source), model or config.model.source)
        found = preview(config.override(changes, "--set"), samples, alone=alone)
    print_preview(terminal, found)
