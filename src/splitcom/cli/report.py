"""`splitcom report`: pages and tables of what has been run."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    folders: Annotated[list[Path], typer.Argument(help="Run folders or comparison folders.")],
    markdown: Annotated[
        Path | None, typer.Option(help="Write the comparisons' tables, with a plot for each, to this file.")
    ] = None,
) -> None:
    """Write report.html into each folder; with --markdown, one page with the tables of comparisons instead."""

    from splitcom.report import write_markdown, write_report
    from splitcom.report.terminal import Terminal

    terminal = Terminal()
    if markdown is not None:
        write_markdown(folders, markdown)
        terminal.say(markdown)
        return
    for folder in folders:
        terminal.say(write_report(folder))
