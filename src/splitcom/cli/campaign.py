"""`splitcom campaign`: many comparisons with one command."""

from pathlib import Path
from typing import Annotated

import typer

from splitcom.cli.train import Assignments


def campaign(
    configs: Annotated[list[Path], typer.Argument(help="TOML files, a comparison each.")],
    out: Annotated[Path, typer.Option(help="Folder for the comparisons and their runs.")] = Path(
        "runs/campaign"
    ),
    jobs: Annotated[int, typer.Option(min=1, help="Runs at a time, each on one core.")] = 2,
    markdown: Annotated[
        Path | None, typer.Option(help="Write all tables, with a plot for each comparison, to this file.")
    ] = None,
    assignments: Assignments = None,
) -> None:
    """Run several comparisons, some runs at a time; those that comparisons share are run once.

    What has ended is not run again, and what was interrupted is continued: give the same command again.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from splitcom.config import Config
    from splitcom.config_tree import parse_assignment
    from splitcom.errors import ConfigError
    from splitcom.methods.campaign import Standing, run_campaign
    from splitcom.report import write_markdown, write_report

    console = Console()
    overrides = dict(map(parse_assignment, assignments or []))
    trees = {path.stem: Config.load(path, overrides) for path in configs}
    if len(trees) < len(configs):
        raise ConfigError("two of the files have the same name, which their comparisons go by; rename one")
    with Progress(
        BarColumn(bar_width=20),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    ) as progress:
        task = progress.add_task("loading", total=None)

        def show(standing: Standing) -> None:
            running = ", ".join(standing.running) or "none"
            progress.update(
                task,
                completed=standing.rounds_done,
                total=standing.rounds,
                description=f"{standing.runs_done} of {standing.runs} runs; now {running}",
            )

        folders = run_campaign(trees, out, jobs, show)
    for folder in folders:
        console.print(write_report(folder), highlight=False, soft_wrap=True)
    if markdown is not None:
        console.print(write_markdown(folders, markdown), highlight=False, soft_wrap=True)
