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
    from rich.console import Console

    from splitcom.report import write_markdown, write_report

    console = Console()
    if markdown is not None:
        write_markdown(folders, markdown)
        console.print(markdown, highlight=False, soft_wrap=True)
        return
    for folder in folders:
        console.print(write_report(folder), highlight=False, soft_wrap=True)
